"""The settings: TOKENHUB_* first, then config/config.yaml, then defaults; typed, checked, masked. Both planes.

Plain Python on purpose: `environ` (django-environ) imports `django.core.exceptions`, and whoever serves requests without
Django reads its settings here too. `tokenhub.settings` uses django-environ for what is Django's: the database URL.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tokenhub import setting_values as values
from tokenhub.configfile import ConfigFile, read_config_file
from tokenhub.core.addresses import PrivateOrigins
from tokenhub.core.errors import SettingInvalid

PREFIX = "TOKENHUB_"
BASE_DIR = Path(__file__).resolve().parent.parent
SECTIONS = ("settings", "providers", "models", "aliases", "teams", "projects", "keys")
"""What config.yaml may hold at its top. All but `settings` is declared into the database by `console.declare`."""

CREDENTIALS = PREFIX + "CRED_"
"""Variables of this prefix are no settings: they hold secrets that credentials refer to by name."""
VAULT_KEY = PREFIX + "VAULT_KEY"
"""The key of an environment slot. No setting either: settings stay in memory, and this is taken away once it is read."""
_CONFIG_PATH = BASE_DIR / "config" / "config.yaml"
_KUBERNETES = re.compile(r"TOKENHUB_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_KUBERNETES_HINT = (
    "Kubernetes adds such variables for a Service named tokenhub: set `enableServiceLinks: false` on the pod"
)


def _option(parse: values.Parse, default: Any, about: str, *, secret: bool = False) -> Any:
    return dataclasses.field(default=default, metadata={"parse": parse, "about": about, "secret": secret})


@dataclass(frozen=True, slots=True, repr=False)
class TokenhubSettings:
    """Every setting, typed. `repr` masks the secrets; `settings["PORT"]` reads like `settings.port`."""

    # Serving
    host: str = _option(values.host, "127.0.0.1", "address that the server listens on")
    port: int = _option(values.integer(1, 65535), 8080, "port that the server listens on")
    workers: int = _option(values.integer(1, 64), 1, "server processes")
    backlog: int = _option(values.integer(16, 65535), 2048, "connections that may wait to be accepted")
    head_timeout: float = _option(
        values.seconds(0.1, 300), 10.0, "seconds in which a request's head must arrive"
    )
    max_head_bytes: int = _option(values.integer(4096, 1 << 20), 65536, "longest request head in bytes")
    max_body_bytes: int = _option(values.integer(1024, 1 << 30), 25_000_000, "longest request body in bytes")
    body_timeout: float = _option(
        values.seconds(0.1, 3600), 60.0, "seconds in which a request's body must arrive"
    )
    shutdown_grace_seconds: float = _option(
        values.seconds(0, 3600), 30.0, "seconds that running requests get to end after SIGTERM"
    )
    idempotency_hours: int = _option(
        values.integer(1, 24 * 30), 24, "hours that an Idempotency-Key's answer is kept"
    )
    cache_most: int = _option(
        values.integer(100, 100_000_000), 100_000, "cached answers that are kept at most, of all projects"
    )
    decisions_per_second: int = _option(
        values.integer(0, 10_000),
        20,
        "routing decisions that a worker keeps a second, and as many that failed",
    )
    decisions_days: int = _option(values.integer(1, 3650), 14, "days that routing decisions are kept")
    decisions_most: int = _option(
        values.integer(100, 100_000_000), 200_000, "routing decisions that are kept at most"
    )
    trusted_proxies: tuple[str, ...] = _option(
        values.addresses, (), "addresses of proxies whose X-Forwarded-* headers are believed"
    )
    upstream_client: str = _option(
        values.choice("http1", "aiohttp"), "http1", "HTTP client towards providers"
    )
    allow_private_origins: PrivateOrigins = _option(
        values.private_origins,
        PrivateOrigins(),
        "hosts, `host:port` and networks that endpoints may lead to beside public addresses; `none`: no other",
    )
    simulated_provider: bool = _option(
        values.boolean, False, "bootstrap creates the simulated provider and its models"
    )

    # Files
    data_dir: Path = _option(values.path, BASE_DIR / "var", "folder for everything that Tokenhub writes")
    config: Path = _option(values.path, _CONFIG_PATH, "the configuration file")
    credentials_dir: Path = _option(
        values.path, Path("/run/secrets"), "folder that file credentials must be in"
    )
    static_root: Path | None = _option(
        values.path, None, "folder of collected static files; without it they are served from where they lie"
    )

    # Database
    database_url: str = _option(
        values.database_url,
        "",
        "`postgres://…` or `sqlite:///…`; default: SQLite in the data folder",
        secret=True,
    )
    database_pool_min: int = _option(
        values.integer(0, 100), 1, "Postgres connections kept open in each process"
    )
    database_pool_max: int = _option(values.integer(1, 500), 10, "most Postgres connections of each process")

    # Secrets and first objects
    secret_key: str = _option(
        values.secret(32), "", "Django's signing key; default: made at the first start", secret=True
    )
    key_pepper: bytes = _option(
        values.secret_bytes(32),
        b"",
        "key of the API keys' digests; default: made at the first start",
        secret=True,
    )
    previous_key_peppers: tuple[bytes, ...] = _option(
        values.secret_bytes_list(32), (), "peppers before the current one, oldest first", secret=True
    )
    admin_username: str = _option(values.text, "admin", "name of the first administrator")
    admin_password: str = _option(
        values.secret(8), "", "its password; default: made and printed once by bootstrap", secret=True
    )
    admin_token: str = _option(
        values.secret(24), "", "a token for /admin/v1 that needs no database entry", secret=True
    )
    bootstrap_key: str = _option(
        values.api_key, "", "the first API key, exactly; default: made and printed once", secret=True
    )

    # The vault
    cluster_secret: str = _option(
        values.secret(32),
        "",
        "lets an unlocked worker unlock the others; the same for every replica; default: one start's workers share one",
        secret=True,
    )
    vault_key_file: Path | None = _option(
        values.path, None, "a file with the key of a key file slot, which unlocks the vault at the start"
    )

    vault_kms: values.KmsSetting | None = _option(
        values.kms,
        None,
        "`aws:ARN` (or `aws:REGION/KEY`) of a KMS slot, which unlocks the vault at the start; `software:/PATH` for trials",
    )
    vault_kms_endpoint: str = _option(
        values.kms_endpoint, "", "URL in place of AWS KMS's public one, such as a VPC endpoint's"
    )

    # The admin site
    allowed_hosts: tuple[str, ...] = _option(
        values.names, ("localhost", "127.0.0.1", "[::1]"), "host names under which the admin site answers"
    )
    csrf_trusted_origins: tuple[str, ...] = _option(
        values.origins, (), "origins (`https://hub.example.com`) that may send its forms"
    )
    https: bool = _option(values.boolean, False, "served over HTTPS only: secure cookies, HSTS, redirects")
    require_mfa: str = _option(
        values.choice("off", "staff", "superusers"), "off", "whom the admin site makes enrol a second factor"
    )
    debug: bool = _option(values.boolean, False, "Django's debug pages; never in production")

    # Logs and metrics
    log_level: str = _option(
        values.choice("debug", "info", "warning", "error"), "info", "least level that is logged"
    )
    log_format: str = _option(values.choice("json", "console"), "json", "form of the log lines")
    metrics_token: str = _option(values.secret(16), "", "bearer token for /metrics", secret=True)
    metrics_allow: tuple[str, ...] = _option(
        values.addresses, ("127.0.0.0/8", "::1/128"), "networks that may read /metrics without the token"
    )

    def __repr__(self) -> str:
        shown = (
            f"{name}={'***' if is_secret(name) else repr(getattr(self, name))}" for name in option_names()
        )
        return f"TokenhubSettings({', '.join(shown)})"

    def __getitem__(self, name: str) -> Any:
        if name.lower() not in option_names():
            raise KeyError(name)
        return getattr(self, name.lower())

    @property
    def peppers(self) -> Mapping[int, bytes]:
        """Every pepper by its version, from 1 on; the highest is the current one."""
        return dict(enumerate((*self.previous_key_peppers, self.key_pepper), start=1))


_FIELDS = {field.name: field for field in dataclasses.fields(TokenhubSettings)}


def option_names() -> tuple[str, ...]:
    """Every setting's name in lower case, in the order in which the documentation lists them."""
    return tuple(_FIELDS)


def is_secret(name: str) -> bool:
    """Whether a setting's value must never be shown."""
    return bool(_FIELDS[name].metadata["secret"])


def list_secrets(settings: TokenhubSettings) -> list[str | bytes]:
    """Every secret value that the settings hold, for a redactor; of the database's URL its password."""
    found: list[str | bytes] = []
    for name in filter(is_secret, option_names()):
        value = getattr(settings, name)
        if name == "database_url":
            password = urlsplit(value).password or ""
            value = (password, unquote(password))
        found += value if isinstance(value, tuple) else [value]
    return [value for value in found if value]


def about(name: str) -> str:
    """What a setting does, in one line."""
    return str(_FIELDS[name].metadata["about"])


def load_settings(environment: Mapping[str, str]) -> TokenhubSettings:
    """Reads all settings. Raises one SettingInvalid that names every wrong one, its source and the mend; never a secret.

    An empty variable counts as absent, since that is what Compose passes for one that is not set.
    """
    given = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value}
    config_path = given.get(PREFIX + "CONFIG")
    path = Path(config_path) if config_path else _CONFIG_PATH
    config = read_config_file(path, required=bool(config_path))
    problems = [*_unknown_variables(given), *_unknown_keys(config)]
    chosen: dict[str, Any] = {}
    for name in option_names():
        try:
            found = _find_text(name, given, config)
            if found is not None:
                chosen[name] = _parse(name, *found)
        except SettingInvalid as error:
            problems.append(error.message)
    if not problems:
        settings = TokenhubSettings(**chosen)
        problems = _contradictions(settings)
    if problems:
        raise SettingInvalid("\n".join(problems))
    return settings


def _unknown_variables(given: Mapping[str, str]) -> list[str]:
    known = {PREFIX + name.upper() for name in option_names()}
    known |= {f"{PREFIX}{name.upper()}_FILE" for name in option_names() if is_secret(name)}
    problems = []
    for name in sorted(set(given) - known):
        if name.startswith(CREDENTIALS) or name == VAULT_KEY:
            continue
        hint = _KUBERNETES_HINT if _KUBERNETES.fullmatch(name) else _near(name, known)
        problems.append(f"{name} (environment): there is no such setting{f'; {hint}' if hint else ''}")
    return problems


def _unknown_keys(config: ConfigFile) -> list[str]:
    problems = [
        f"{key} ({config.place((key,))}): there is no such section; there are {', '.join(SECTIONS)}"
        for key in config.data
        if key not in SECTIONS
    ]
    section = config.data.get("settings") or {}
    if not isinstance(section, dict):
        return [*problems, f"settings ({config.place(('settings',))}): must be a mapping of settings"]
    for key in section:
        place = config.place(("settings", key))
        if key not in _FIELDS or key == "config":
            hint = _near(key, option_names())
            problems.append(
                f"settings.{key} ({place}): there is no such setting{f'; {hint}' if hint else ''}"
            )
        elif is_secret(key):
            problems.append(
                f"settings.{key} ({place}): secrets don't belong in the configuration file; "
                f"use {PREFIX}{key.upper()} or {PREFIX}{key.upper()}_FILE"
            )
    return problems


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"near names: {', '.join(near)}" if near else ""


def _find_text(name: str, given: Mapping[str, str], config: ConfigFile) -> tuple[str, str] | None:
    """A setting's text and where it comes from, or None where only the default is left."""
    variable = PREFIX + name.upper()
    file_variable = f"{variable}_FILE"
    if is_secret(name) and file_variable in given:
        if variable in given:
            raise SettingInvalid(
                f"{variable} (environment): {file_variable} is set too; leave one of them out"
            )
        return _read_secret(
            file_variable, Path(given[file_variable])
        ), f"{given[file_variable]}, {file_variable}"
    if variable in given:
        return given[variable], "environment"
    section = config.data.get("settings")
    if isinstance(section, dict) and name in section and section[name] is not None and not is_secret(name):
        return _as_text(section[name]), config.place(("settings", name))
    return None


def _as_text(value: Any) -> str:
    """A YAML value in the form that an environment variable would have."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value)


def _read_secret(variable: str, path: Path) -> str:
    try:
        content = path.read_text(encoding="utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingInvalid(f"{variable} (environment): {path} is not text in UTF-8") from None
    except OSError as error:
        raise SettingInvalid(f"{variable} (environment): {path} can't be read: {error.strerror}") from None
    if not content:
        raise SettingInvalid(f"{variable} (environment): {path} is empty")
    return content


def _parse(name: str, text: str, source: str) -> Any:
    try:
        return _FIELDS[name].metadata["parse"](text)
    except ValueError as error:
        shown = "the value" if is_secret(name) else repr(text)
        hint = f"; {_KUBERNETES_HINT}" if text.startswith("tcp://") and not is_secret(name) else ""
        # The cause is left out: for a secret it may quote the value.
        raise SettingInvalid(f"{PREFIX}{name.upper()} ({source}): {shown} {error}{hint}") from None


def _contradictions(settings: TokenhubSettings) -> list[str]:
    problems = []
    if settings.database_pool_min > settings.database_pool_max:
        problems.append(
            f"{PREFIX}DATABASE_POOL_MIN: {settings.database_pool_min} is above {PREFIX}DATABASE_POOL_MAX"
        )
    if settings.debug and settings.https:
        problems.append(f"{PREFIX}DEBUG: debug pages show settings and code; not together with {PREFIX}HTTPS")
    return problems


def with_data_folder(settings: TokenhubSettings) -> TokenhubSettings:
    """The settings, once their data folder exists and is closed to other users: sessions and the journal are in it.

    A folder of somebody else's (a mounted volume) is left as it is. Raises SettingInvalid where it can't be made.
    """
    folder = settings.data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _close_to_others(folder)
    except OSError as error:
        raise SettingInvalid(
            f"{PREFIX}DATA_DIR: {folder} can't be made or read: {error.strerror}; give a folder that this user owns"
        ) from error
    return settings


def _close_to_others(folder: Path) -> None:
    found = folder.stat()
    # The sticky bit marks a folder that is shared on purpose, such as /tmp.
    if found.st_uid != os.geteuid() or found.st_mode & stat.S_ISVTX or not found.st_mode & 0o077:
        return
    with contextlib.suppress(PermissionError):  # some volumes refuse it to their owner too
        folder.chmod(0o700)


def with_generated_secrets(settings: TokenhubSettings) -> TokenhubSettings:
    """The settings with a signing key and a pepper: those given, else those in the data folder, made at the first start.

    Raises SettingInvalid where the data folder can't be written. Processes that start together agree on one secret.
    """
    folder = settings.data_dir / "secrets"
    made: dict[str, Any] = {}
    if not settings.secret_key:
        made["secret_key"] = _keep_secret(folder / "secret_key")
    if not settings.key_pepper:
        made["key_pepper"] = _keep_secret(folder / "key_pepper").encode()
    return dataclasses.replace(settings, **made)


def _keep_secret(path: Path) -> str:
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_once(path, secrets.token_urlsafe(48))
        content = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SettingInvalid(
            f"{PREFIX}DATA_DIR: {path} can't be read or written: {error.strerror}; give a folder that this user owns"
        ) from error
    if len(content) < 32:
        raise SettingInvalid(
            f"{PREFIX}DATA_DIR: {path} holds fewer than 32 characters; restore it from a backup"
        )
    return content


def _write_once(path: Path, content: str) -> None:
    """Writes a whole file, or leaves the one that another process put there meanwhile."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
