"""Who may edit providers can't carry a key away: a credential goes to the origin that it was given for, by no detour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.actions import create_endpoint, create_provider, update_provider
from providers.discovery import discover_models
from providers.models import Provider
from tests.vault.vaults import ADMIN
from tokenhub.core.addresses import read_private_origins
from tokenhub.core.errors import InvalidRequest, TokenhubError
from vault.actions import create_credential
from vault.keyring import Keyring

pytestmark = pytest.mark.django_db

SECRET = "canary-key-of-the-true-origin"
TRUE_HOST = "api.acme.example"
DETOURS = [
    {"api_path": "@evil.example/v1"},
    {"api_path": ":99@evil.example/v1"},
    {"api_path": "\\@evil.example/v1"},
    {"api_path": ".evil.example/v1"},
    {"api_path": "evil"},
    {"api_path": "/v1 HTTP/1.1\r\nHost: evil.example\r\nx: "},
    {"api_path": "/v1\thttp://evil.example/"},
    {"api_path": "/../../v1"},
    {"api_path": "/v1#"},
    {"api_path": "/v1?to=evil"},
    {"api_query": "a=b HTTP/1.1\r\nHost: evil.example"},
    {"api_query": "a=b#@evil.example/"},
    {"api_query": "a=b c"},
    {"auth_header": "host"},
    {"auth_header": "transfer-encoding"},
    {"auth_header": "x\r\nhost"},
    {"auth_header": ""},
    {"auth_scheme": "Bearer x\r\nHost: evil.example\r\ny:"},
    {"auth_scheme": "two words"},
]


@pytest.fixture
def provider() -> Provider:
    """A provider with a key for its own origin."""
    made = create_provider(ADMIN, name="acme", kind="openai")
    create_endpoint(ADMIN, provider=made, url=f"https://{TRUE_HOST}")
    create_credential(ADMIN, provider=made, name="main", source="env", reference="TOKENHUB_CRED_ACME")
    return made


def discover(provider: Provider) -> list[httpx.Request]:
    """What goes over the network when somebody tests the connection."""
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b'{"data": []}'))

    environ = {"TOKENHUB_CRED_ACME": SECRET, "TOKENHUB_CRED_ACME__ORIGIN": f"https://{TRUE_HOST}"}
    discover_models(
        Provider.objects.get(pk=provider.pk),
        keyring=Keyring(environ, Path("absent")),
        private=read_private_origins([]),
        transport=httpx.MockTransport(answer),
    )
    return sent


def test_the_key_goes_to_its_origin(provider: Provider) -> None:
    (request,) = discover(provider)
    assert (str(request.url), request.headers["host"]) == (f"https://{TRUE_HOST}/v1/models", TRUE_HOST)
    assert request.headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("profile", DETOURS, ids=repr)
def test_a_profile_that_leads_elsewhere_is_refused(provider: Provider, profile: dict[str, Any]) -> None:
    (name,) = profile
    with pytest.raises(InvalidRequest, match=name):
        update_provider(ADMIN, provider, profile=profile)


@pytest.mark.parametrize("profile", DETOURS, ids=repr)
def test_also_one_that_got_into_the_database_sends_the_key_nowhere_else(
    provider: Provider, profile: dict[str, Any]
) -> None:
    Provider.objects.filter(pk=provider.pk).update(profile=profile)
    try:
        sent = discover(provider)
    except (TokenhubError, ValueError):
        return
    for request in sent:
        assert (request.url.host, request.headers.get_list("host")) == (TRUE_HOST, [TRUE_HOST])
        assert not any(mark in value for _, value in request.headers.raw for mark in (b"\r", b"\n"))


@pytest.mark.parametrize(
    "profile",
    [
        {"api_path": ""},
        {
            "api_path": "/openai/deployments/{model}",
            "api_query": "api-version=2024-10-21",
            "auth_header": "api-key",
        },
        {"auth_scheme": ""},
        {"api_path": "/compatible-mode/v1"},
    ],
    ids=repr,
)
def test_what_vendors_need_is_taken(provider: Provider, profile: dict[str, Any]) -> None:
    update_provider(ADMIN, provider, profile=profile)
