"""Providers, endpoints, models and discovery: what is refused, and what discovery changes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from providers.actions import (
    create_endpoint,
    create_model,
    create_provider,
    delete_endpoint,
    delete_provider,
    update_endpoint,
    update_model,
    update_provider,
)
from providers.checks import check_stored_kinds
from providers.discovery import DiscoveryFailed, apply_discovery, discover_models
from providers.models import Endpoint, Model, Provider
from tests.snapshots.cast import OPERATOR, make_provider
from tokenhub.core.errors import Conflict, InvalidRequest
from vault.keyring import Keyring
from vault.models import AuditEntry

pytestmark = pytest.mark.django_db

SECRET = "sk-canary-51c0"
NOBODY = "http://127.0.0.1:9"
"""Where nobody listens."""


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("https://API.Example.com/", "https://api.example.com"),
        ("https://api.example.com:443/openai/", "https://api.example.com/openai"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/a/b", "http://[::1]:8000/a/b"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_an_endpoint_s_url_is_normalised(given: str, stored: str) -> None:
    endpoint = create_endpoint(OPERATOR, provider=make_provider(), url=given)
    assert Endpoint.objects.get(pk=endpoint.pk).url == stored


@pytest.mark.parametrize(
    "url",
    [
        "ftp://api.example.com",
        "api.example.com",
        "https://user:sk-1@api.example.com",
        "https://@api.example.com",
        "https://api.example.com?key=1",
        "https://api.example.com#x",
        "https://api.example.com/?",
        "https://",
        "https://a b",
        "https://api.example.com:0",
        "https://api.example.com:99999",
        "https://api.example.com/../x",
        "https://api.example.com/a%2fb",
        "https://api.example.com/a\r\nHost: x",
        "https://[::1",
        "http://h.example/a\r\nb",
        "http://h.example/a\tb",
        "http://h.example\n",
        "http://h.example/\x00",
        "http://[::1%25eth0]",
        "http://[fe80::1%eth0]:8000",
        "https://bücher.example",
        "http://１２７.０.０.１",
        "http://127。0。0。1",
        "https://api.example.com.",
        "https://api.example.com\\@evil.example",
        "https:\\\\evil.example",
        "https://api.example.com%2eevil.example",
        "http://0177.0.0.1",
        "http://127.1",
        "http://127.0.1",
        "http://2130706433",
        "http://017700000001",
        "http://0x7f.1",
        "http://0x7f000001",
        "http://0X7F.0.0.1",
        "http://host.0x7f",
        "http://127.0.0.1.",
        "http://127.0.0.256",
        "http://1.2.3.4.5",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    provider = make_provider()
    with pytest.raises(InvalidRequest) as refused:
        create_endpoint(OPERATOR, provider=provider, url=url)
    assert refused.value.param == "url"
    assert "sk-1" not in refused.value.message


@pytest.mark.parametrize(
    "headers",
    [
        [["Authorization", "Bearer x"]],
        [["X-API-Key", "x"]],
        [["host", "evil"]],
        [["Content-Length", "0"]],
        [["Connection", "close"]],
        [["transfer-encoding", "chunked"]],
        [["x-a", "b\r\nx-c: d"]],
        [["x-a\n", "b"]],
        [["x a", "b"]],
        [["x-a", "b"], ["X-A", "c"]],
        [["x-a"]],
        [["x-a", 1]],
        {"x-a": "b"},
        [["x-a", "b"]] * 33,
    ],
)
def test_headers_that_may_not_be_sent_are_refused(headers: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        create_provider(OPERATOR, name="acme", kind="openai", headers=headers)
    assert refused.value.param == "headers"
    assert not Provider.objects.exists()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "Acme"}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "acme\n"}, "name"),
        ({"kind": "unheard-of"}, "kind"),
        ({"profile": {"unheard_of": 1}}, "profile"),
        ({"profile": []}, "profile"),
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"total_timeout": 1e9}, "total_timeout"),
        ({"connect_timeout": 100, "total_timeout": 10}, "connect_timeout"),
        ({"connect_timeout": float("nan")}, "connect_timeout"),
        ({"on_disconnect": "explode"}, "on_disconnect"),
        ({"heartbeat_seconds": -1}, "heartbeat_seconds"),
        ({"id": 7}, "id"),
    ],
)
def test_a_provider_with_wrong_fields_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        create_provider(OPERATOR, **{"name": "acme", "kind": "openai", **fields})
    assert refused.value.param == param


def test_a_profile_s_settings_have_the_adapter_s_types() -> None:
    provider = make_provider()
    with pytest.raises(InvalidRequest, match="must be of the type str"):
        update_provider(OPERATOR, provider, profile={"api_path": 7})
    assert update_provider(OPERATOR, provider, profile={"api_path": "/v2"}).profile == {"api_path": "/v2"}


def test_a_taken_name_is_a_conflict() -> None:
    provider = make_provider()
    with pytest.raises(Conflict):
        create_provider(OPERATOR, name="acme", kind="openai")
    with pytest.raises(Conflict):
        create_model(OPERATOR, provider=provider, name="small")


@pytest.mark.parametrize(
    "name", ["", "auto", "pipeline/x", "*", "a//b", "/a", "a/", "a b", "ä", "-a", "a/../b", "a\n"]
)
def test_a_model_s_name_has_rules(name: str) -> None:
    provider = make_provider(models=())
    with pytest.raises(InvalidRequest):
        create_model(OPERATOR, provider=provider, name=name, upstream_name="x")


def test_slashes_colons_and_dots_may_stand_in_a_model_s_name() -> None:
    provider = make_provider(models=())
    for name in ("meta-llama/Llama-3.1-8B", "qwen2.5:7b", "org/team/model@2", "gpt-4o+"):
        assert create_model(OPERATOR, provider=provider, name=name).upstream_name == name


@pytest.mark.parametrize(
    "fields",
    [
        {"weight": 11},
        {"weight": -1},
        {"capabilities": ["flying"]},
        {"capabilities": "chat"},
        {"context_tokens": -5},
    ],
)
def test_a_model_with_wrong_fields_is_refused(fields: dict[str, Any]) -> None:
    model = make_provider().models.get(name="small")
    with pytest.raises(InvalidRequest) as refused:
        update_model(OPERATOR, model, **fields)
    assert refused.value.param == next(iter(fields))


def test_what_someone_else_changed_meanwhile_is_not_undone() -> None:
    provider = make_provider()
    mine, theirs = Provider.objects.get(), Provider.objects.get()
    update_provider(OPERATOR, theirs, label="Theirs")
    update_provider(OPERATOR, mine, notes="mine")
    provider.refresh_from_db()
    assert (provider.label, provider.notes) == ("Theirs", "mine")


def test_endpoints_are_changed_and_deleted_with_an_audit_row_each() -> None:
    endpoint = make_provider().endpoints.get()
    update_endpoint(OPERATOR, endpoint, weight=0)
    delete_endpoint(OPERATOR, endpoint)
    assert [entry.action for entry in AuditEntry.objects.all()[:2]] == ["endpoint.delete", "endpoint.update"]
    assert not Endpoint.objects.exists()


def test_a_provider_goes_with_what_belongs_to_it() -> None:
    delete_provider(OPERATOR, make_provider())
    assert not Model.objects.exists()
    assert not Endpoint.objects.exists()


def test_a_stored_provider_without_an_adapter_is_named_by_a_check() -> None:
    make_provider()
    assert check_stored_kinds(databases=["default"]) == []
    Provider.objects.update(kind="gone")
    (found,) = check_stored_kinds(databases=["default"])
    assert found.id == "providers.E002"
    assert "acme" in found.msg


class Vendor:
    """A provider on the loopback that lists models; what it answers and what it saw are plain attributes."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b""
        self.seen: list[tuple[str, dict[str, str]]] = []
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                vendor.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(vendor.status)
                for name, value in {**vendor.headers, "content-length": str(len(vendor.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(vendor.body)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def lists(self, *models: dict[str, Any]) -> None:
        """Sets the answer."""
        self.body = json.dumps(
            {"object": "list", "data": [{"object": "model", **model} for model in models]}
        ).encode()


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    """A running vendor."""
    vendor = Vendor()
    thread = threading.Thread(target=vendor.server.serve_forever, args=(0.02,))
    thread.start()
    yield vendor
    vendor.server.shutdown()
    thread.join(5)
    vendor.server.server_close()


@pytest.fixture
def asked(vendor: Vendor) -> Provider:
    """A provider whose endpoint is the vendor, with the models small (small-2) and large (large-2)."""
    provider = make_provider(headers=[["x-title", "Tokenhub"]])
    update_endpoint(OPERATOR, provider.endpoints.get(), url=vendor.url)
    return provider


@pytest.fixture
def keyring(vendor: Vendor, tmp_path: Path) -> Keyring:
    """Has the provider's secret."""
    return Keyring(
        {"TOKENHUB_CRED_ACME": SECRET, "TOKENHUB_CRED_ACME__ORIGIN": f"{vendor.url}, {NOBODY}"}, tmp_path
    )


def test_discovery_tells_new_and_gone_models_and_changes_nothing(
    vendor: Vendor, asked: Provider, keyring: Keyring
) -> None:
    vendor.lists({"id": "small-2"}, {"id": "huge 9"})
    diff = discover_models(asked, keyring=keyring)
    assert [model.upstream_name for model in diff.new] == ["huge 9"]
    assert (diff.gone, diff.unchanged) == (("large-2",), 1)
    path, headers = vendor.seen[0]
    assert path == "/v1/models"
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert headers["x-title"] == "Tokenhub"
    assert sorted(Model.objects.values_list("name", flat=True)) == ["large", "small"]


def test_only_what_was_chosen_is_taken_over(vendor: Vendor, asked: Provider, keyring: Keyring) -> None:
    vendor.lists({"id": "huge 9"}, {"id": "other"})
    diff = discover_models(asked, keyring=keyring)
    assert apply_discovery(OPERATOR, diff, ["huge 9", "large-2"]) == 2
    assert Model.objects.get(upstream_name="huge 9").name == "huge-9"
    assert not Model.objects.get(upstream_name="large-2").enabled
    assert Model.objects.get(upstream_name="small-2").enabled
    assert not Model.objects.filter(upstream_name="other").exists()
    with pytest.raises(InvalidRequest, match="not part of this discovery"):
        apply_discovery(OPERATOR, diff, ["never"])


def test_a_told_context_length_is_a_change(vendor: Vendor, asked: Provider, keyring: Keyring) -> None:
    vendor.lists(
        {"id": "small-2", "max_model_len": 8192, "context_length": 8192, "context_window": 8192},
        {"id": "large-2"},
    )
    diff = discover_models(asked, keyring=keyring)
    (changed,) = diff.changed
    assert changed.upstream_name == "small-2"
    assert ("context_tokens", 0, 8192) in changed.differences
    apply_discovery(OPERATOR, diff, ["small-2"])
    assert Model.objects.get(name="small").context_tokens == 8192
    assert discover_models(asked, keyring=keyring).changed == ()


def test_a_vendor_s_error_is_told_without_the_secret(
    vendor: Vendor, asked: Provider, keyring: Keyring
) -> None:
    vendor.status = 401
    vendor.body = json.dumps({"error": {"message": f"Incorrect API key provided: {SECRET}"}}).encode()
    with pytest.raises(DiscoveryFailed, match="answered 401") as refused:
        discover_models(asked, keyring=keyring)
    assert SECRET not in str(refused.value)


def test_a_redirect_is_not_followed(vendor: Vendor, asked: Provider, keyring: Keyring) -> None:
    vendor.status, vendor.headers = 302, {"location": f"{vendor.url}/elsewhere"}
    with pytest.raises(DiscoveryFailed, match="answered 302"):
        discover_models(asked, keyring=keyring)
    assert len(vendor.seen) == 1


@pytest.mark.parametrize("body", [b"", b"null", b"<html>", b'{"data": 7}', b'{"data": [', b"\xff\xfe"])
def test_an_answer_that_is_no_list_is_refused(
    vendor: Vendor, asked: Provider, keyring: Keyring, body: bytes
) -> None:
    vendor.body = body
    with pytest.raises(DiscoveryFailed):
        discover_models(asked, keyring=keyring)


def test_an_endless_list_is_cut_off(vendor: Vendor, asked: Provider, keyring: Keyring) -> None:
    vendor.body = b" " * (9 * 1024 * 1024)
    with pytest.raises(DiscoveryFailed, match="longer than"):
        discover_models(asked, keyring=keyring)


def test_nobody_listening_is_told_by_name(asked: Provider, vendor: Vendor, keyring: Keyring) -> None:
    update_endpoint(OPERATOR, asked.endpoints.get(), url=NOBODY)
    with pytest.raises(DiscoveryFailed, match="provider acme can't be reached: ConnectError"):
        discover_models(asked, keyring=keyring)


def test_a_provider_without_an_endpoint_can_not_be_asked(
    asked: Provider, vendor: Vendor, keyring: Keyring
) -> None:
    update_endpoint(OPERATOR, asked.endpoints.get(), enabled=False)
    with pytest.raises(InvalidRequest, match="no enabled endpoint"):
        discover_models(asked, keyring=keyring)
