"""Endpoints whose URL is a denied address are refused when they are saved, and names when they are connected to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.test import override_settings

from providers.actions import create_endpoint, update_endpoint
from providers.discovery import DiscoveryFailed, discover_models
from providers.models import Endpoint, Provider
from providers.probe import check_connection
from providers.rules import check_literal_address, normalise_url
from tests.outbound.listening import Listeners, listening
from tests.outbound.origins import PUBLIC, list_denied
from tests.snapshots.cast import OPERATOR, make_provider
from tokenhub.core.addresses import PrivateOrigins, read_private_origins
from tokenhub.core.errors import InvalidRequest
from vault.keyring import Keyring

NONE = PrivateOrigins(())


def as_url(address: str) -> str:
    """An endpoint there."""
    return f"http://[{address}]:8000" if ":" in address else f"http://{address}:8000"


def allowing(*items: str) -> override_settings:
    """The setting, for as long as the block runs."""
    private = read_private_origins(items)
    return override_settings(TOKENHUB=replace(settings.TOKENHUB, allow_private_origins=private))


@pytest.mark.parametrize("address", [text for text in list_denied() if "%" not in text])
def test_every_denied_address_is_refused_with_its_kind_and_the_mend(address: str) -> None:
    with pytest.raises(ValidationError) as refused:
        check_literal_address(normalise_url(as_url(address)), NONE)
    (message,) = refused.value.messages
    assert "connections are not allowed" in message
    assert ":8000 to TOKENHUB_ALLOW_PRIVATE_ORIGINS" in message


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_accepted(address: str) -> None:
    check_literal_address(normalise_url(as_url(address)), NONE)


@pytest.mark.parametrize("url", ["https://api.example.com", "http://localhost:8000", "http://vllm:8000"])
def test_names_are_accepted_since_they_are_checked_when_connected_to(url: str) -> None:
    check_literal_address(normalise_url(url), NONE)


@pytest.mark.django_db
@pytest.mark.parametrize("url", ["http://169.254.169.254", "http://10.1.2.3:8000", "http://[fd00:ec2::254]"])
def test_actions_refuse_a_denied_address_and_the_setting_allows_it(url: str) -> None:
    provider = make_provider()
    with pytest.raises(InvalidRequest, match="TOKENHUB_ALLOW_PRIVATE_ORIGINS") as refused:
        create_endpoint(OPERATOR, provider=provider, url=url)
    assert refused.value.param == "url"
    named = str(refused.value.message).split("add ")[1].split(" to ")[0]
    with allowing(named):
        endpoint = create_endpoint(OPERATOR, provider=provider, url=url)
    with pytest.raises(InvalidRequest, match="not allowed"):
        update_endpoint(OPERATOR, endpoint, weight=3)
    # What is no longer allowed can still be taken out of service, and not back.
    update_endpoint(OPERATOR, endpoint, enabled=False)
    with pytest.raises(InvalidRequest, match="not allowed"):
        update_endpoint(OPERATOR, endpoint, enabled=True)


@pytest.mark.django_db
def test_loopback_is_allowed_by_default_and_by_none_refused() -> None:
    provider = make_provider()
    create_endpoint(OPERATOR, provider=provider, url="http://127.0.0.1:8000")
    with allowing("none"), pytest.raises(InvalidRequest, match="loopback"):
        create_endpoint(OPERATOR, provider=provider, url="http://127.0.0.1:8001")
    assert Endpoint.objects.filter(provider=provider, url__contains="127.0.0.1").count() == 1


@pytest.fixture
def door() -> Iterator[Listeners]:
    """A listening socket."""
    with listening("127.0.0.1") as found:
        yield found


@pytest.fixture
def inner(door: Listeners) -> Provider:
    """A provider whose endpoint is a name that leads to this machine."""
    provider = make_provider()
    provider.credentials.all().delete()
    update_endpoint(OPERATOR, provider.endpoints.get(), url=f"http://localhost:{door.port}")
    return provider


@pytest.mark.django_db
def test_discovery_connects_to_no_denied_address_and_says_the_mend(
    door: Listeners, inner: Provider, tmp_path: Path
) -> None:
    with pytest.raises(DiscoveryFailed, match="not allowed") as refused:
        discover_models(inner, keyring=Keyring({}, tmp_path), private=NONE)
    assert refused.value.code == "endpoint_not_allowed"
    assert f"localhost:{door.port} to TOKENHUB_ALLOW_PRIVATE_ORIGINS" in str(refused.value.hint)
    assert "127.0.0.1" not in refused.value.message
    assert door.count() == 0


@pytest.mark.django_db
def test_a_connection_test_takes_the_setting(door: Listeners, inner: Provider) -> None:
    with allowing("none"):
        report = check_connection(inner)
    assert not report.ok
    assert "not allowed" in report.message
    assert "TOKENHUB_ALLOW_PRIVATE_ORIGINS" in report.message
    assert door.count() == 0
