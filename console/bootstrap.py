"""The first start: schema, administrator, providers, a key, the declared configuration, a snapshot. Control plane.

Every step looks before it creates, so that it can run before each start. A lock lets one of several replicas go first.
"""

from __future__ import annotations

import fcntl
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import OperationalError, connection, transaction

from access.actions import create_api_key
from access.models import ApiKey
from console.declare import apply_declaration
from console.roles import ensure_roles
from providers.actions import create_endpoint, create_model, create_provider
from providers.adapters.registry import get_adapter
from providers.discovery import apply_discovery, discover_models
from providers.models import Model, Provider
from snapshots.publish import publish
from tokenhub.configfile import read_config_file
from tokenhub.control.actors import Actor
from tokenhub.core.errors import ConfigurationError, SettingInvalid, TokenhubError
from tokenhub.core.keys import find_key_parts
from tokenhub.environment import TokenhubSettings
from usage.actions import set_price
from vault.actions import create_credential
from vault.keyring import Keyring

_LOCK = 0x746F6B656E687562  # "tokenhub", as Postgres' advisory locks want a number
_POLL_SECONDS = 0.25

_SIMULATED_CAPABILITIES = [
    "chat",
    "completions",
    "embeddings",
    "streaming",
    "tools",
    "json_schema",
    "thinking",
]
# Rates are nano-dollars per million tokens: invented, so that budgets and reports have something to show.
_SIMULATED_MODELS: tuple[dict[str, Any], ...] = (
    {
        "name": "sim-small",
        "weight": 3,
        "context_tokens": 32_000,
        "max_output_tokens": 4_096,
        "expected_latency_ms": 50,
        "rates": {"input": 100_000_000, "output": 400_000_000},
    },
    {
        "name": "sim-large",
        "weight": 8,
        "context_tokens": 200_000,
        "max_output_tokens": 16_384,
        "expected_latency_ms": 200,
        "rates": {"input": 2_000_000_000, "cache_read": 200_000_000, "output": 8_000_000_000},
    },
)

_VENDORS = (
    ("openai", "OpenAI", "openai", "OPENAI_API_KEY"),
    ("anthropic", "Anthropic", "anthropic", "ANTHROPIC_API_KEY"),
)


@dataclass(slots=True)
class Report:
    """What a bootstrap did. `password` and `api_key` are those that were made in this run and are shown this once."""

    username: str = ""
    password: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)
    model: str = ""
    lines: list[str] = field(default_factory=list)
    vendors: list[Provider] = field(default_factory=list)


def run_bootstrap(
    settings: TokenhubSettings, environment: Mapping[str, str], *, wait_seconds: float
) -> Report:
    """Everything an installation needs before it serves. Raises ConfigurationError or SettingInvalid with what to mend.

    Waits up to `wait_seconds` for the database, and as long again for another bootstrap that runs at the same time.
    """
    report = Report()
    actor = Actor.bootstrap()
    _wait_for_database(wait_seconds)
    with _lock(settings.data_dir, wait_seconds):
        call_command("migrate", interactive=False, verbosity=0)
        # One transaction: all of it or nothing, and one published revision.
        with transaction.atomic():
            _ensure_administrator(settings, report)
            report.lines += ensure_roles(actor)
            if settings.simulated_provider:
                _ensure_simulated(actor, report)
            _ensure_vendors(actor, environment, report)
            config = read_config_file(settings.config, required=False)
            report.lines += apply_declaration(config, actor, Keyring(environment, settings.credentials_dir))
            _ensure_key(actor, settings, report)
        for provider in report.vendors:
            _discover(provider, actor, environment, settings, report)
        published = publish("bootstrap", actor)
    if published.failure:
        raise ConfigurationError(f"the configuration can't be published: {published.failure}")
    report.lines.append(f"configuration revision {published.revision} is in force")
    if connection.vendor == "postgresql" and (settings.data_dir / "secrets" / "key_pepper").exists():
        report.lines.append(
            "note: the key pepper is this data folder's own; several replicas need one TOKENHUB_KEY_PEPPER"
        )
    report.model = _choose_model()
    return report


def _wait_for_database(wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            connection.ensure_connection()
            return
        except OperationalError as error:
            if time.monotonic() >= deadline:
                raise ConfigurationError(
                    f"the database does not answer within {wait_seconds:g} s ({type(error).__name__}); "
                    "check TOKENHUB_DATABASE_URL and that the server runs"
                ) from error
        time.sleep(_POLL_SECONDS)


@contextmanager
def _lock(data_dir: Path, wait_seconds: float) -> Iterator[None]:
    """Lets one bootstrap run at a time: per data folder by a file lock, per Postgres by an advisory lock."""
    deadline = time.monotonic() + wait_seconds
    with (data_dir / "bootstrap.lock").open("w") as file:
        while not (_take_file(file.fileno()) and _take_postgres()):
            if time.monotonic() >= deadline:
                raise ConfigurationError(
                    f"another bootstrap has been running for {wait_seconds:g} s; look at its log"
                )
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            _release_postgres()


def _take_file(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take_postgres() -> bool:
    if connection.vendor != "postgresql":
        return True
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
        return bool(cursor.fetchone()[0])


def _release_postgres() -> None:
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def _ensure_administrator(settings: TokenhubSettings, report: Report) -> None:
    users = get_user_model().objects
    first = users.filter(is_superuser=True).order_by("pk").first()
    if first is not None:
        report.username = first.get_username()
        return
    password = settings.admin_password or secrets.token_urlsafe(18)
    try:
        validate_password(password)
    except ValidationError as error:
        raise SettingInvalid(f"TOKENHUB_ADMIN_PASSWORD: {' '.join(error.messages)}") from None
    users.create_superuser(settings.admin_username, password=password)
    report.username = settings.admin_username
    report.password = "" if settings.admin_password else password
    report.lines.append(f"+ administrator {settings.admin_username}")


def _ensure_simulated(actor: Actor, report: Report) -> None:
    if Provider.objects.filter(name="simulated").exists():
        return
    provider = create_provider(actor, name="simulated", kind="simulated", label="Simulated provider")
    origin = get_adapter("simulated").default_origin
    if origin:
        create_endpoint(actor, provider=provider, url=origin)
    for wanted in _SIMULATED_MODELS:
        fields = {name: value for name, value in wanted.items() if name != "rates"}
        model = create_model(actor, provider=provider, capabilities=_SIMULATED_CAPABILITIES, **fields)
        set_price(actor=actor, model=model, rates=wanted["rates"], note="simulated")
    report.lines.append("+ provider simulated with the models sim-small and sim-large")


def _ensure_vendors(actor: Actor, environment: Mapping[str, str], report: Report) -> None:
    """Providers whose usual variables are set. Which models they have is theirs to tell (`_discover`).

    A list of names and prices shipped with the code is wrong on the day a vendor changes it, and a wrong price is
    worse than none: unpriced calls are counted as such.
    """
    for kind, label, name, variable in _VENDORS:
        if environment.get(variable) and not Provider.objects.filter(name=name).exists():
            provider = create_provider(actor, name=name, kind=kind, label=label)
            create_endpoint(actor, provider=provider, url=get_adapter(kind).default_origin)
            create_credential(actor, provider=provider, name=variable, source="env", reference=variable)
            report.vendors.append(provider)
            report.lines.append(f"+ provider {name}, with the key in {variable}")
    _ensure_vllm(actor, environment, report)


def _ensure_vllm(actor: Actor, environment: Mapping[str, str], report: Report) -> None:
    url = environment.get("VLLM_BASE_URL", "").rstrip("/").removesuffix("/v1")
    if not url or Provider.objects.filter(name="vllm").exists():
        return
    provider = create_provider(actor, name="vllm", kind="vllm", label="vLLM")
    create_endpoint(actor, provider=provider, url=url)
    if environment.get("VLLM_API_KEY"):
        create_credential(
            actor, provider=provider, name="VLLM_API_KEY", source="env", reference="VLLM_API_KEY"
        )
    else:
        create_credential(actor, provider=provider, name="none", source="none")
    report.vendors.append(provider)
    report.lines.append(f"+ provider vllm at {url}")


def _discover(
    provider: Provider,
    actor: Actor,
    environment: Mapping[str, str],
    settings: TokenhubSettings,
    report: Report,
) -> None:
    """Takes over every model of a provider that was just made, so that it can be called at once. Outside of any transaction:
    nothing waits for a vendor with the database locked. A vendor that can't be asked is told, and no reason not to start.
    """
    keyring = Keyring(environment, settings.credentials_dir)
    try:
        diff = discover_models(provider, keyring=keyring, private=settings.allow_private_origins)
        count = apply_discovery(actor, diff, [model.upstream_name for model in diff.new])
    except TokenhubError as error:
        why = f"{error.message}; {error.hint}" if error.hint else error.message
        report.lines.append(
            f"note: the models of {provider.name} could not be listed ({why}); "
            "discover them in the admin, or declare them"
        )
        return
    report.lines.append(f"+ {count} models of {provider.name}, without prices until they are entered")


def _ensure_key(actor: Actor, settings: TokenhubSettings, report: Report) -> None:
    if settings.bootstrap_key:
        parts = find_key_parts(settings.bootstrap_key)
        if parts is not None and not ApiKey.objects.filter(key_id=parts.key_id).exists():
            create_api_key(actor, name="bootstrap", plaintext=settings.bootstrap_key)
            report.lines.append(f"+ API key {parts.key_id} from TOKENHUB_BOOTSTRAP_KEY")
    elif not ApiKey.objects.exists():
        key, report.api_key = create_api_key(actor, name="bootstrap")
        report.lines.append(f"+ API key {key.key_id}")


def _choose_model() -> str:
    """The model that the printed commands use: the cheapest to try, "" where there is none."""
    enabled = Model.objects.filter(enabled=True, provider__enabled=True).order_by("weight", "priority", "pk")
    return str(enabled.values_list("name", flat=True).first() or "")


def render_report(report: Report, settings: TokenhubSettings) -> str:
    """What bootstrap prints: what changed, what is shown only this once, and three commands to paste."""
    host = "localhost" if settings.host in ("127.0.0.1", "0.0.0.0", "::", "::1") else settings.host  # noqa: S104
    base = f"http://{host}:{settings.port}"
    key = report.api_key or "$TOKENHUB_API_KEY"
    lines = [*report.lines, ""]
    if report.password or report.api_key:
        lines += ["Shown this once; keep it:"]
        lines += [f"  admin password   {report.password}"] if report.password else []
        lines += [f"  API key          {report.api_key}"] if report.api_key else []
        lines += [""]
    model = report.model or "YOUR_MODEL"
    if not report.model:
        lines += ["There are no models yet: add one in the admin or in config/config.yaml.", ""]
    lines += [
        f"curl {base}/v1/chat/completions -H 'authorization: Bearer {key}' -H 'content-type: application/json' \\"
        if report.api_key
        else f"curl {base}/v1/chat/completions -H \"authorization: Bearer {key}\" -H 'content-type: application/json' \\",
        f"""  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'""",
        "",
        _python_command(base, report.api_key, model),
        "",
        f"{base}/admin/   as {report.username}",
    ]
    return "\n".join(lines)


def _python_command(base: str, api_key: str, model: str) -> str:
    key = f"'{api_key}'" if api_key else "os.environ['TOKENHUB_API_KEY']"
    return (
        f"python -c \"import os, openai; client = openai.OpenAI(base_url='{base}/v1', api_key={key}); "
        f"print(client.chat.completions.create(model='{model}', "
        "messages=[{'role': 'user', 'content': 'Hello'}]).choices[0].message.content)\""
    )
