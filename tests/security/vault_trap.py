"""The vault's trap: an installation with DEBUG on whose vault, people and settings are canaries, driven through every URL there is.

A canary is searched for as it is, backwards, quoted for URLs, JSON and HTML, in hex and in base64 wherever it may lie in it.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import os
import re
import secrets
import sqlite3
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from tests.console.routes import fill, list_routes
from tests.e2e.service import ROOT, Service, free_port
from tests.security.hostile import MODELS, HostileProvider

PAGE_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')
LEFT_OUT = ("admin/logout/", "admin/password_change/")
"""Would end the session that walks, or change its password."""
FAILING = re.compile(
    r"login|confirm|second-factor|vault|credential|password|accessattempt|apikey/|admintoken/|admin/$"
)
"""The URLs that are asked again once tables are gone: each answers with a developer's page of some hundred kilobytes."""
SECRET_FIELDS = (
    "password", "password1", "password2", "old_password", "new_password", "new_password1", "new_password2",
    "recovery_key", "key", "secret",
)  # fmt: skip
ODD = 'é"\\%&+<'
"""Characters that each way of writing writes in another way."""


def a_canary(slot: str, odd: str = "") -> str:
    """A secret that looks like no vendor's."""
    return f"canary{slot.replace('-', '').replace('_', '')}{odd}{secrets.token_hex(12)}"


def list_disguises(value: str) -> dict[str, str]:
    """The value's forms by name, written without the product's own code."""
    data = value.encode()
    forms = {
        "plain": value,
        "backwards": value[::-1],
        "url": quote(value, safe=""),
        "url, all": "".join(f"%{byte:02X}" for byte in data),
        "json": json.dumps(value)[1:-1],
        "json twice": json.dumps(json.dumps(value))[3:-3],
        "html": html.escape(value),
        "repr": repr(value)[1:-1],
        "hex": data.hex(),
        "HEX": data.hex().upper(),
    }
    for shift in range(3):
        middle = base64.b64encode(bytes(shift) + data).decode().rstrip("=")[4 if shift else 0 : -2]
        forms[f"base64 {shift}"], forms[f"base64url {shift}"] = (
            middle,
            middle.replace("+", "-").replace("/", "_"),
        )
    return forms


@dataclass
class VaultTrap:
    """Everything that came out of it, by sink, and every secret that went in, by slot."""

    service: Service
    hostile: HostileProvider
    canaries: dict[str, str]
    answers: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    reports: int = 0
    commands: dict[str, str] = field(default_factory=dict)
    commands_away: dict[str, str] = field(default_factory=dict)
    _sinks: dict[str, str] = field(default_factory=dict)

    def spring(self) -> None:
        """Sets everything up with canaries, walks along every URL as everybody, then breaks the database and walks again."""
        away = f"postgres://hub:{quote(self.canaries['database-password'])}@127.0.0.1:{free_port()}/hub"
        with ThreadPoolExecutor(1) as aside:
            # Each waits ten seconds for a database that is not there: meanwhile the rest goes on.
            waiting = aside.submit(self._run_commands, TOKENHUB_DATABASE_URL=away)
            self._walk_everywhere()
            self.commands_away = waiting.result()
        for name, told in (("", self.commands), (" without its database", self.commands_away)):
            self.answers |= {f"manage.py {command}{name}": text for command, text in told.items()}

    def _walk_everywhere(self) -> None:
        with self.service.admin() as api:
            self._fill_vault(api)
        self._call_models()
        with httpx.Client(base_url=self.service.url, timeout=30) as person:
            self._sign_in(person)
            self._enrol(person)
            self._walk("session", person, self._session_headers(person))
            token = {"authorization": f"Bearer {self.canaries['minted-token']}"}
            for who, headers in (("token", token), ("nobody", {})):
                with httpx.Client(base_url=self.service.url, timeout=30) as client:
                    self._walk(who, client, headers)
            self._ask_probes()
            self.commands = self._run_commands()
            self._break_database()
            self._fail(person)

    def sinks(self) -> dict[str, str]:
        """Everything that a secret could have ended up in, by name."""
        if not self._sinks:
            path = self.service.data_dir / "tokenhub.sqlite3"
            with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
                dump = "\n".join(database.iterdump())
                rows = database.execute("SELECT session_data FROM django_session").fetchall()
            folder = self.service.data_dir
            files = {
                f"file {found.relative_to(folder)}": found.read_bytes().decode("latin-1")
                for found in sorted(folder.rglob("*"))
                if found.is_file() and found.relative_to(folder).parts[0] != "secrets"
            }
            self._sinks = {
                "log": self.service.log_path.read_text(errors="replace"),
                "database": dump,
                "sessions, unpacked": "\n".join(_unpack(data) for (data,) in rows),
                **files,
                **{f"answer {name}": text for name, text in self.answers.items()},
            }
        return self._sinks

    # Filling it

    def _fill_vault(self, api: httpx.Client) -> None:
        canaries = self.canaries
        self._post(api, "vault/unlock", {"password": a_canary("nothing yet")}, 404)
        made = self._post(api, "vault/initialise", {"password": canaries["vault-password-old"]}, 201)
        canaries["recovery-key"] = made["recovery_key"]
        change = {
            "old_password": canaries["vault-password-old"],
            "new_password": canaries["vault-password-new"],
        }
        self._post(api, "vault/change-password", change, 200)
        slot = {"kind": "key_file", "label": "file", "key": canaries["key-file-key"]}
        self._post(api, "vault/slots", slot, 201)
        for kind, place in (("openai", self.hostile.origin), ("anthropic", self.hostile.origin)):
            provider = self._post(api, "providers", {"name": f"{kind}-sealed", "kind": kind}, 201)
            self._post(api, "endpoints", {"provider": provider["id"], "url": place}, 201)
            credential = {
                "provider": provider["id"],
                "name": "main",
                "source": "vault",
                "secret": canaries[f"sealed-{kind}"],
            }
            self._post(api, "credentials", credential, 201)
            for name in MODELS:
                model = {
                    "provider": provider["id"],
                    "name": f"{kind}-{name}",
                    "upstream_name": name,
                    "capabilities": ["chat", "streaming"],
                }
                self._post(api, "models", model, 201)
        self._post(api, "vault/lock", {"reason": "lunch"}, 200)
        for given in (
            {"password": canaries["vault-password-wrong"]},
            {"password": canaries["vault-password-old"]},
            {"recovery_key": canaries["recovery-key"][:-1] + "*"},
            {"key": canaries["key-file-key"][:-2]},
            {"password": [canaries["vault-password-wrong"]]},
        ):
            self._post(api, "vault/unlock", given, None)
        self._post(api, "vault/unlock", {"recovery_key": canaries["recovery-key"]}, 200)
        self._post(api, "vault/unlock", {"password": canaries["vault-password-new"]}, 200)
        self._post(api, "vault/rotate-data-key", {}, 200)
        token = {"name": "walker", "service": "walker", "scopes": ["read", "write"]}
        canaries["minted-token"] = self._post(api, "admin-tokens", token, 201)["secret"]
        canaries["minted-key"] = self._post(api, "api-keys", {"name": "k"}, 201)["secret"]
        self.service.wait_revision()

    def _post(self, api: httpx.Client, path: str, body: dict[str, Any], status: int | None) -> Any:
        """What an answer shows this once (a recovery key, a new token) is no leak; all others are kept."""
        answer = api.post(path, json=body)
        assert status is None or answer.status_code == status, f"{path}: {answer.status_code} {answer.text}"
        if not {"recovery_key", "secret"} & set(answer.json()):
            self._keep(f"set up {path} {len(self.answers)}", answer)
        return answer.json()

    def _keep(self, name: str, answer: httpx.Response) -> None:
        told = [(key, value) for key, value in answer.headers.items() if key != "set-cookie"]
        self.answers[name] = f"{told}\n{answer.text}"
        self.statuses.append(answer.status_code)
        self.reports += "Request Method" in answer.text and answer.status_code >= 400

    def _call_models(self) -> None:
        headers = {"authorization": f"Bearer {self.canaries['minted-key']}"}
        with httpx.Client(base_url=self.service.url, timeout=30, headers=headers) as caller:
            body = {"model": "openai-good", "messages": [{"role": "user", "content": "hi"}]}
            deadline = time.monotonic() + 15
            while caller.post("/v1/chat/completions", json=body).status_code != 200:
                assert time.monotonic() < deadline, "the unlocked vault did not reach the data plane"
                time.sleep(0.2)
            for kind in ("openai", "anthropic"):
                for name in MODELS:
                    if name == "told-names":
                        continue  # A whole good answer is the provider's own text.
                    for path in ("/v1/chat/completions", "/v1/messages"):
                        for stream in (False, True):
                            body = {
                                "model": f"{kind}-{name}",
                                "messages": [{"role": "user", "content": "hi"}],
                                "max_tokens": 9,
                                "stream": stream,
                            }
                            self._keep(f"{path} {kind} {name} {stream}", caller.post(path, json=body))

    # People

    def _sign_in(self, person: httpx.Client) -> None:
        wrong = {"username": "admin", "password": self.canaries["tried-password"]}
        right = {"username": "admin", "password": self.canaries["admin-password"]}
        for form in (wrong, right):
            page = person.get("/admin/login/")
            found = PAGE_TOKEN.search(page.text)
            assert found
            headers = {"referer": f"{self.service.url}/admin/login/"}
            answer = person.post(
                "/admin/login/", data={**form, "csrfmiddlewaretoken": found[1]}, headers=headers
            )
            self._keep(f"sign in {answer.status_code}", answer)
        assert answer.status_code == 302

    def _enrol(self, person: httpx.Client) -> None:
        page = person.get("/admin/second-factor/enrol/")
        shown = re.search(r"\b[A-Z2-7]{32}\b", page.text)
        token = PAGE_TOKEN.search(page.text)
        assert shown
        assert token
        self.canaries["totp-secret"] = shown[0]
        maker = TOTP(base64.b32decode(shown[0]), 6, SHA1(), 30)
        code = maker.generate(int(datetime.now(UTC).timestamp())).decode()
        form = {"code": code, "csrfmiddlewaretoken": token[1]}
        headers = {"referer": str(page.url)}
        answer = person.post("/admin/second-factor/enrol/", data=form, headers=headers)
        assert answer.status_code == 200
        self.canaries["second-factor-code"] = re.findall(r"\b[a-z2-9]{4}(?:-[a-z2-9]{4}){3}\b", answer.text)[
            0
        ]

    def _session_headers(self, person: httpx.Client) -> dict[str, str]:
        """What a browser's forms send, and the session that is now a canary itself."""
        self.canaries["session"] = person.cookies["sessionid"]
        self.canaries["csrf"] = person.cookies["csrftoken"]
        return {"x-csrftoken": person.cookies["csrftoken"], "referer": self.service.url}

    # Walking

    def _walk(self, who: str, client: httpx.Client, headers: dict[str, str]) -> None:
        """Each URL by GET, by a form and by JSON; what is typed is a canary in every field that is for secrets."""
        typed = {
            name: self.canaries.setdefault(f"typed-{name}", a_canary(name, ODD)) for name in SECRET_FIELDS
        }
        for route in sorted(set(list_routes())):
            if route in LEFT_OUT or (who == "token" and not route.startswith("admin/v1/")):
                continue
            self._keep(f"{who} GET {route}", client.get(fill(route, {}), headers=headers))
            # What is sent may take effect: not on the account that walks.
            path = fill(route, {"auth.user": "2"})
            if not route.startswith("admin/v1/"):
                self._keep(f"{who} form {route}", client.post(path, data=typed, headers=headers))
                continue
            for method in ("POST", "PATCH"):
                answer = client.request(
                    method, path, json={**typed, "secrets": {"1": typed}}, headers=headers
                )
                self._keep(f"{who} {method} {route}", answer)
            bad = {**headers, "content-type": "application/json"}
            broken = f'{{"password": "{typed["password"]}", "key": ]'.encode()
            self._keep(f"{who} broken {route}", client.post(path, content=broken, headers=bad))
            assert who != "session" or "sessionid" in client.cookies, f"{route} ended the session"

    def _ask_probes(self) -> None:
        with httpx.Client(base_url=self.service.url, timeout=30) as client:
            for name in ("metrics-token", "minted-key", "unknown-key", "admin-token"):
                for scheme in ("authorization", "x-api-key"):
                    value = self.canaries[name]
                    headers = {scheme: f"Bearer {value}" if scheme == "authorization" else value}
                    for path in (
                        "/metrics",
                        "/healthz",
                        "/readyz",
                        "/v1/models",
                        "/v1/nowhere",
                        "/admin/v1/vault",
                    ):
                        self._keep(f"{path} {name} {scheme}", client.get(path, headers=headers))
                    self._keep(f"/metrics?api_key {name}", client.get(f"/v1/models?api_key={quote(value)}"))

    # Commands

    def _run_commands(self, **environment: str) -> dict[str, str]:
        """What each command tells, all of them in one process."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.security.all_commands"],
            cwd=ROOT,
            env={**self.service.environment, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        told = re.split(r"^=== (.+)$", done.stdout, flags=re.MULTILINE)[1:]
        return dict(zip(told[::2], told[1::2], strict=True))

    # Faults

    def _break_database(self) -> None:
        """Takes away what signing in, the vault and the audit trail need, so that every part of a page can fail."""
        path = self.service.data_dir / "tokenhub.sqlite3"
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
            for table in (
                "axes_accessattempt",
                "vault_vaultslot",
                "vault_vaulttry",
                "vault_credential",
                "signin_signin",
            ):
                database.execute(f"ALTER TABLE {table} RENAME TO {table}_away")
            database.commit()

    def _fail(self, person: httpx.Client) -> None:
        typed = {name: self.canaries[f"typed-{name}"] for name in SECRET_FIELDS}
        admin = {"authorization": f"Bearer {self.canaries['admin-token']}"}
        with httpx.Client(base_url=self.service.url, timeout=30) as client:
            page = client.get("/admin/login/")
            token = PAGE_TOKEN.search(page.text)
            form = {
                "username": "admin",
                "password": self.canaries["admin-password"],
                "csrfmiddlewaretoken": token[1] if token else "",
            }
            headers = {"referer": f"{self.service.url}/admin/login/"}
            self._keep("failing sign in", client.post("/admin/login/", data=form, headers=headers))
            for path, body in (
                ("vault/unlock", {"password": self.canaries["vault-password-new"]}),
                ("vault/unlock", {"recovery_key": self.canaries["recovery-key"]}),
                ("vault/slots", {"kind": "key_file", "label": "x", "key": self.canaries["key-file-key"]}),
                ("credentials", {"provider": 1, "name": "x", "secret": self.canaries["sealed-openai"]}),
            ):
                answer = client.post(f"/admin/v1/{path}", json=body, headers=admin)
                self._keep(f"failing {path} {', '.join(body)}", answer)
        headers = self._session_headers(person)
        for route in sorted(set(list_routes())):
            if route not in LEFT_OUT and FAILING.search(route):
                path = fill(route, {"auth.user": "2"})
                self._keep(f"failing GET {route}", person.get(path, headers=headers))
                self._keep(f"failing form {route}", person.post(path, data=typed, headers=headers))


def make_vault_service(folder: Path, hostile: HostileProvider) -> tuple[Service, dict[str, str]]:
    """An installation, not started, whose settings are canaries, and these."""
    slots = (
        "metrics-token", "secret-key", "key-pepper", "cluster-secret", "sealed-openai", "sealed-anthropic",
        "tried-password", "database-password",
    )  # fmt: skip
    canaries = {slot: a_canary(slot) for slot in slots}
    for slot in ("vault-password-old", "vault-password-new", "vault-password-wrong"):
        canaries[slot] = a_canary(slot, f" {ODD} gravel lantern otter ")
    canaries["key-file-key"] = os.urandom(32).hex()
    canaries["unknown-key"] = f"thk_live_{secrets.token_hex(24)}"
    canaries["env-credential"], canaries["file-credential"] = a_canary("env"), a_canary("file")
    mounted = folder / "credentials"
    mounted.mkdir(parents=True)
    (mounted / "one").write_text(canaries["file-credential"])
    (mounted / "one.origin").write_text(hostile.origin)
    service = Service(
        folder / "service",
        environment={
            "TOKENHUB_DEBUG": "true",
            "TOKENHUB_LOG_LEVEL": "debug",
            "TOKENHUB_ADMIN_PASSWORD": a_canary("adminpassword", ODD),
            "TOKENHUB_CRED_CANARY": canaries["env-credential"],
            "TOKENHUB_CRED_CANARY__ORIGIN": hostile.origin,
            "TOKENHUB_CREDENTIALS_DIR": str(mounted),
            "TOKENHUB_METRICS_TOKEN": canaries["metrics-token"],
            "TOKENHUB_SECRET_KEY": canaries["secret-key"] * 2,
            "TOKENHUB_KEY_PEPPER": canaries["key-pepper"] * 2,
            "TOKENHUB_CLUSTER_SECRET": canaries["cluster-secret"] * 2,
        },
    )
    canaries |= {
        "caller-key": service.key,
        "admin-token": service.admin_token,
        "admin-password": service.environment["TOKENHUB_ADMIN_PASSWORD"],
    }
    return service, canaries


def _unpack(data: str) -> str:
    """A session's content as whoever has the database could read it."""
    packed = data.partition(":")[0]
    raw = base64.urlsafe_b64decode(packed.lstrip(".") + "==")
    return (zlib.decompress(raw) if packed.startswith(".") else raw).decode("latin-1")
