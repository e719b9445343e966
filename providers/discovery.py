"""Asks a provider which models it has, and compares them with what is configured. Control plane."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
from django.db import transaction
from django.utils import timezone

from providers.actions import create_model, update_model
from providers.adapters.base import Target
from providers.adapters.registry import get_adapter
from providers.models import Model, Provider
from snapshots.compile import build_provider, list_sealed
from tokenhub.control.actors import Actor
from tokenhub.control.outbound import AnswerRefused, OutboundRefused, make_client
from tokenhub.core.addresses import PrivateOrigins
from tokenhub.core.errors import InvalidRequest, ServiceError
from tokenhub.core.secret_bytes import Secret, mask_secret
from tokenhub.core.specs import CAPABILITIES, EndpointSpec, ModelSpec, ProviderSpec
from vault.keyring import Destination, Keyring

MAX_BYTES = 8 * 1024 * 1024
MAX_SECONDS = 30.0
MAX_MODELS = 5000
DISCOVERY_PERMISSIONS = ("providers.view_provider", "providers.add_model", "providers.change_model")
"""What pages and API ask of whoever discovers: taking models over adds and changes them."""
_TOLD = ("context_tokens", "max_output_tokens", "capabilities")
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII | re.IGNORECASE)
_LINE_END = re.compile(r"[\r\n\0]")
_TARGET = re.compile(rb"/[!\"$-~]*")
_FOREIGN = re.compile(r"[^A-Za-z0-9._:/@+-]+", re.ASCII)


class DiscoveryFailed(ServiceError):
    """The provider could not be asked, or its answer is no list of models; the message says which."""

    code = "discovery_failed"
    status = 502


class Difference(NamedTuple):
    """One field of a model as it is configured, and as the provider tells it."""

    field: str
    configured: Any
    told: Any


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model as the provider tells it. `told` has only what it told: tokens, and capabilities as a sorted list."""

    upstream_name: str
    told: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name that it gets for callers: the provider's own, with what names may not have replaced."""
        return _FOREIGN.sub("-", self.upstream_name).strip("-./:@+")


@dataclass(frozen=True, slots=True)
class ChangedModel:
    """A configured model of which the provider tells something else."""

    upstream_name: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class DiscoveryDiff:
    """What a provider has against what is configured. `gone` and the keys of `chosen` are upstream names."""

    provider_id: int
    new: tuple[FoundModel, ...] = ()
    gone: tuple[str, ...] = ()
    changed: tuple[ChangedModel, ...] = ()
    unchanged: int = 0


def discover_models(
    provider: Provider,
    *,
    keyring: Keyring,
    private: PrivateOrigins | None = None,
    transport: httpx.BaseTransport | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> DiscoveryDiff:
    """Asks the provider's first enabled endpoint, with its first enabled credential, and compares.

    Nothing is changed. Raises DiscoveryFailed; InvalidRequest where the provider can't be asked at all.
    `private`: where connections may go beside public addresses (None = loopback). `transport` stands for the
    network (None = the real one); `clock` is monotonic seconds.
    """
    spec = build_provider(
        provider,
        provider.endpoints.filter(enabled=True).order_by("draining", "id"),
        provider.credentials.filter(enabled=True).order_by("-weight", "id"),
        list_sealed(timezone.now(), credential__provider=provider),
    )
    if not spec.endpoints:
        raise InvalidRequest(f"provider {spec.name} has no enabled endpoint", hint="add one, or enable one")
    header = get_adapter(spec.kind).auth_header(spec.profile)
    destination = Destination(spec.endpoints[0].origin, spec.kind, header)
    secret = keyring.get_secret(spec.credentials[0], destination) if spec.credentials else ""
    timeout = httpx.Timeout(min(MAX_SECONDS, spec.timeouts.between_events), connect=spec.timeouts.connect)
    with make_client(
        private or PrivateOrigins(), timeout=timeout, max_bytes=MAX_BYTES, transport=transport
    ) as client:
        body = _fetch_list(spec, secret, client, clock)
    return compare_models(provider, _read_list(spec, body))


def compare_models(provider: Provider, found: Collection[FoundModel]) -> DiscoveryDiff:
    """The difference between what was found and the provider's configured models."""
    rows = {row.upstream_name: row for row in provider.models.order_by("-enabled", "id")}
    by_name = {model.upstream_name: model for model in found}
    changed = []
    for name in sorted(rows.keys() & by_name.keys()):
        told = by_name[name].told
        configured = {field: getattr(rows[name], field) for field in told}
        differences = tuple(
            Difference(field, configured[field], told[field])
            for field in _TOLD
            if field in told and _comparable(configured[field]) != _comparable(told[field])
        )
        if differences:
            changed.append(ChangedModel(name, differences))
    return DiscoveryDiff(
        provider_id=provider.pk,
        new=tuple(by_name[name] for name in sorted(by_name.keys() - rows.keys())),
        gone=tuple(sorted(name for name in rows.keys() - by_name.keys() if rows[name].enabled)),
        changed=tuple(changed),
        unchanged=len(rows.keys() & by_name.keys()) - len(changed),
    )


def apply_discovery(actor: Actor, diff: DiscoveryDiff, chosen: Collection[str]) -> int:
    """Takes the chosen upstream names over, all or none: new ones are created, gone ones disabled, changed ones updated.

    Returns how many were. Raises InvalidRequest for a name that the diff does not have.
    """
    new = {model.upstream_name: model for model in diff.new}
    changed = {model.upstream_name: model for model in diff.changed}
    unknown = sorted(set(chosen) - new.keys() - changed.keys() - set(diff.gone))
    if unknown:
        raise InvalidRequest(
            f"{unknown[0]!r} is not part of this discovery", param="chosen", hint="discover again"
        )
    provider = Provider.objects.get(pk=diff.provider_id)
    with transaction.atomic():
        for name in sorted(set(chosen)):
            if name in new:
                told = {"capabilities": sorted(get_adapter(provider.kind).capabilities), **new[name].told}
                create_model(actor, provider=provider, name=new[name].name, upstream_name=name, **told)
                continue
            fields = (
                {part.field: part.told for part in changed[name].differences}
                if name in changed
                else {"enabled": False}
            )
            for row in Model.objects.filter(provider=provider, upstream_name=name):
                update_model(actor, row, **fields)
    return len(set(chosen))


def _fetch_list(
    spec: ProviderSpec, secret: Secret, client: httpx.Client, clock: Callable[[], float]
) -> bytes:
    """The body of the provider's list, bounded in size and time."""
    target = Target(spec, ModelSpec("", "", spec.id, ""), spec.endpoints[0], secret)
    try:
        request = get_adapter(spec.kind).models_request(target)
    except ValueError as error:
        raise InvalidRequest(str(error), hint="enter this provider's models by hand") from error
    headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in request.headers]
    sent = {name for name, _ in headers}
    headers += [(name, value) for name, value in spec.headers if name.lower() not in sent]
    url = _url_of(spec.endpoints[0], request.path)
    if not all(_is_field(name, value) for name, value in headers):
        raise InvalidRequest("the profile's header for the credential can't be sent")
    try:
        with client.stream(
            request.method.decode("ascii"), url, headers=headers, content=request.body
        ) as response:
            body = _read_timely(response, clock() + MAX_SECONDS, clock)
    except OutboundRefused as error:
        message = f"the endpoint of provider {spec.name} is not allowed: {error}"
        raise DiscoveryFailed(message, code="endpoint_not_allowed", hint=error.hint) from error
    except AnswerRefused as error:
        raise DiscoveryFailed(f"provider {spec.name} answered no list of models: {error}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DiscoveryFailed(f"provider {spec.name} can't be reached: {type(error).__name__}") from error
    if response.status_code != 200:
        failure = get_adapter(spec.kind).classify(response.status_code, {}, body)
        raise DiscoveryFailed(
            f"provider {spec.name} answered {response.status_code}: {_without(secret, failure.message)}"
        )
    return body


def _is_field(name: str, value: str) -> bool:
    """Whether it is one header of its own, and none of the connection's."""
    return _NAME.fullmatch(name) is not None and name.lower() != "host" and not _LINE_END.search(value)


def _url_of(endpoint: EndpointSpec, path: bytes) -> httpx.URL:
    """The URL of a path at the endpoint, put together from its parts: in text, a path could become another host.

    Raises InvalidRequest for what is no path.
    """
    if _TARGET.fullmatch(path) is None:
        raise InvalidRequest(
            "the profile's path or query can't stand in a URL", hint="begin api_path with a slash"
        )
    return httpx.URL(scheme=endpoint.scheme, host=endpoint.host, port=endpoint.port, raw_path=path)


def _read_timely(response: httpx.Response, deadline: float, clock: Callable[[], float]) -> bytes:
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if clock() > deadline:
            raise DiscoveryFailed(f"the list of models took longer than {MAX_SECONDS:g} s")
    return bytes(body)


def _read_list(spec: ProviderSpec, body: bytes) -> list[FoundModel]:
    try:
        entries = get_adapter(spec.kind).read_models(body)
    except ValueError as error:
        raise DiscoveryFailed(f"provider {spec.name} answered no list of models: {error}") from error
    if len(entries) > MAX_MODELS:
        raise DiscoveryFailed(
            f"provider {spec.name} lists {len(entries)} models; at most {MAX_MODELS} are taken"
        )
    return [FoundModel(str(entry["id"]), _read_told(entry)) for entry in entries]


def _read_told(entry: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for field in ("context_tokens", "max_output_tokens"):
        value = entry.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            told[field] = value
    if entry.get("capabilities"):
        told["capabilities"] = sorted(set(entry["capabilities"]) & set(CAPABILITIES))
    return told


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def _without(secret: Secret, text: str) -> str:
    """The text without the credential, which some providers repeat in their errors."""
    return mask_secret(text, secret, "***")[:500]
