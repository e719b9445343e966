"""The trap: an installation with a unique secret in every slot, behind which every provider quotes what it is told."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect

from tests.e2e.service import Service, free_port
from tests.security.hostile import MODELS, HostileProvider
from tokenhub.core.keys import mint_key

KINDS = ("openai", "anthropic")
ORIGINS_OF_FAILURE = ("refused", "no-tls")


def a_secret(slot: str) -> str:
    """A secret that looks like no vendor's, so that no pattern can recognise it."""
    return f"canary{slot.replace('-', '')}{secrets.token_hex(12)}"


@dataclass
class Canaries:
    """Every secret by its slot, and the two texts that no sink may hold."""

    slots: dict[str, str] = field(
        default_factory=lambda: {
            name: a_secret(name)
            for name in (
                "openai-credential",
                "anthropic-credential",
                "metrics-token",
                "secret-key",
                "key-pepper",
            )
        }
    )
    prompt: str = field(default_factory=lambda: a_secret("prompt"))
    answer: str = field(default_factory=lambda: a_secret("answer"))
    caller_header: str = field(default_factory=lambda: a_secret("callerheader"))


def make_service(folder: Path, canaries: Canaries, origins: Iterable[str]) -> Service:
    """An installation, not started, whose every secret is a canary; one credential lies in a file. Both may go to `origins`."""
    allowed = ",".join(origins)
    credentials = folder / "credentials"
    credentials.mkdir(parents=True)
    (folder / "service" / "data").mkdir(parents=True)
    (credentials / "anthropic").write_text(canaries.slots["anthropic-credential"] + "\n")
    (credentials / "anthropic.origin").write_text(allowed)
    service = Service(
        folder / "service",
        environment={
            "TOKENHUB_CRED_CANARY": canaries.slots["openai-credential"],
            "TOKENHUB_CRED_CANARY__ORIGIN": allowed,
            "TOKENHUB_CREDENTIALS_DIR": str(credentials),
            "TOKENHUB_METRICS_TOKEN": canaries.slots["metrics-token"],
            "TOKENHUB_SECRET_KEY": canaries.slots["secret-key"] * 2,
            "TOKENHUB_KEY_PEPPER": canaries.slots["key-pepper"] * 2,
            "TOKENHUB_LOG_LEVEL": "debug",
        },
    )
    canaries.slots |= {
        "caller-key": service.key,
        "admin-token": service.admin_token,
        "admin-password": service.admin_password,
    }
    return service


def find_places(hostile: HostileProvider) -> dict[str, str]:
    """The origins by name: the hostile provider, a port nobody listens on, one that speaks no TLS."""
    return {
        "hostile": hostile.origin,
        "refused": f"http://127.0.0.1:{free_port()}",
        "no-tls": f"https://127.0.0.1:{hostile.port}",
    }


def declare(places: Mapping[str, str]) -> str:
    """The configuration: each kind at each of these places."""
    credentials = {
        "openai": "{name: main, source: env, reference: TOKENHUB_CRED_CANARY}",
        "anthropic": "{name: main, source: file, reference: anthropic}",
    }
    providers, models = "providers:\n", "models:\n"
    for kind in KINDS:
        for place, origin in places.items():
            name = f"{kind}-{place}"
            providers += f'  - {{name: {name}, kind: {kind}, endpoints: ["{origin}"], credentials: [{credentials[kind]}]}}\n'
            for upstream in MODELS if place == "hostile" else ("any",):
                models += (
                    f"  - {{provider: {name}, name: {name}-{upstream}, upstream_name: {upstream},"
                    " capabilities: [chat, streaming, tools]}\n"
                )
    return providers + models


def list_models() -> list[str]:
    """Every model that the trap's callers ask for."""
    hostile = [f"{kind}-hostile-{name}" for kind in KINDS for name in MODELS]
    return hostile + [f"{kind}-{place}-any" for kind in KINDS for place in ORIGINS_OF_FAILURE]


@dataclass
class Trap:
    """A sprung trap: everything that came out of it, by sink."""

    service: Service
    hostile: HostileProvider
    canaries: Canaries
    caller_answers: dict[str, str] = field(default_factory=dict)
    failed_calls: set[str] = field(default_factory=set)
    operator_answers: dict[str, str] = field(default_factory=dict)
    _sinks: dict[str, str] = field(default_factory=dict)

    def spring(self) -> None:
        """Drives every error path there is, as a caller and as an operator."""
        self._call_everything()
        self._call_over_websocket()
        self._present_bad_keys()
        calls = len(list_models()) * 4
        self.service.usage_rows(calls)
        self._operate()

    def sinks(self) -> dict[str, str]:
        """Everything that a secret could have ended up in, by name; whole texts."""
        if not self._sinks:
            self._sinks = {
                "log": self.service.log_path.read_text(errors="replace"),
                "database": self._dump(),
                **{f"file {path}": text for path, text in self._files().items()},
                **{f"operator {name}": text for name, text in self.operator_answers.items()},
            }
        return self._sinks

    def _call_everything(self) -> None:
        texts = [{"role": "user", "content": self.canaries.prompt}]
        headers = {"x-custom": self.canaries.caller_header, "anthropic-version": "2023-06-01"}
        with httpx.Client(base_url=self.service.url, timeout=20) as client:
            for model in list_models():
                for path in ("/v1/chat/completions", "/v1/messages"):
                    for stream in (False, True):
                        body = {"model": model, "messages": texts, "max_tokens": 9, "stream": stream}
                        answer = client.post(
                            path,
                            json=body,
                            headers={**headers, "authorization": f"Bearer {self.service.key}"},
                        )
                        name = f"{path} {model} stream={stream}"
                        self.caller_answers[name] = f"{answer.headers!r}\n{answer.text}"
                        if answer.status_code != 200 or "error" in answer.text:
                            self.failed_calls.add(name)

    def _call_over_websocket(self) -> None:
        key = {"authorization": f"Bearer {self.service.key}"}
        url = self.service.url.replace("http", "ws", 1) + "/v1/stream"
        with connect(url, additional_headers=key) as socket:
            for model in ("openai-hostile-good", "openai-hostile-quotes-500"):
                body = {"messages": [{"role": "user", "content": self.canaries.prompt}], "model": model}
                socket.send(json.dumps({"id": model, "body": body}))
                while (said := json.loads(socket.recv(timeout=10)))["type"] != "end":
                    self.caller_answers[f"websocket {model} {said['type']}"] = json.dumps(said)

    def _present_bad_keys(self) -> None:
        wrong = self.canaries.slots["unknown-key"] = mint_key()
        mistyped = self.canaries.slots["mistyped-key"] = mint_key()[:-1] + "!"
        password = self.canaries.slots["tried-password"] = a_secret("tried")
        with httpx.Client(base_url=self.service.url, timeout=20) as client:
            for key in (wrong, mistyped, a_secret("x")):
                for path in ("/v1/models", "/admin/v1/providers", "/metrics"):
                    client.get(path, headers={"authorization": f"Bearer {key}"})
                    client.get(path, headers={"x-api-key": key})
                    client.get(f"{path}?api_key={key}&access_token={key}")
            client.get("/admin/login/")
            token = client.cookies["csrftoken"]
            form = {"username": "admin", "password": password, "csrfmiddlewaretoken": token}
            client.post("/admin/login/", data=form, headers={"referer": f"{self.service.url}/admin/login/"})
            client.post("/admin/login/", data={**form, "csrfmiddlewaretoken": "bad"})

    def _operate(self) -> None:
        with self.service.admin() as api:
            minted = api.post("admin-tokens", json={"name": "t", "service": "t", "scopes": ["read"]}).json()
            self.canaries.slots["minted-token"] = minted["secret"]
            minted = api.post("api-keys", json={"name": "k"}).json()
            self.canaries.slots["minted-key"] = minted["secret"]
            for provider in api.get("providers").json()["results"]:
                for fails in (False, True):
                    self.hostile.fail_listing = fails
                    for act in ("test", "discover"):
                        answer = api.post(f"providers/{provider['id']}/{act}")
                        self.operator_answers[f"{act} {provider['name']} {fails}"] = answer.text
            for page in (
                "schema",
                "docs",
                "audit",
                "usage",
                "credentials",
                "api-keys",
                "admin-tokens",
                "workers",
            ):
                self.operator_answers[page] = api.get(page, params={"page_size": 500}).text
            revision = api.get("revisions").json()["results"][0]["revision"]
            self.operator_answers["revision"] = api.get(f"revisions/{revision}").text
        self._read_pages()
        for path in ("/readyz", "/healthz", "/metrics", "/v1/models"):
            self.operator_answers[path] = httpx.get(f"{self.service.url}{path}", timeout=20).text

    def _read_pages(self) -> None:
        with self.service.administrator() as person:
            self.operator_answers["page of usage"] = person.page("/admin/usage/usagerecord/")
            for model in ("openai-hostile-quotes-500", "anthropic-hostile-breaks-late"):
                row = self.service.sql("SELECT id FROM usage_usagerecord WHERE model = ?", model)[0]
                page = person.page(f"/admin/usage/usagerecord/{row['id']}/change/")
                self.operator_answers[f"page of {model}"] = page

    def _dump(self) -> str:
        path = self.service.data_dir / "tokenhub.sqlite3"
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
            return "\n".join(database.iterdump())

    def _files(self) -> dict[str, str]:
        folder = self.service.data_dir
        found = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.relative_to(folder).parts[0] != "secrets":
                data = path.read_bytes()
                found[str(path.relative_to(folder))] = data.decode("latin-1")
                if path.suffix == ".quarantine":
                    found[f"{path.name} opened"] = _open_quarantine(data)
        return found


def _open_quarantine(data: bytes) -> str:
    lines: list[Any] = [json.loads(line)["lines"] for line in data.splitlines()]
    return "\n".join(base64.b64decode(text).decode("latin-1") for kept in lines for text in kept)
