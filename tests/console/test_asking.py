"""Discovery and connection tests through the admin pages and `/admin/v1`, against a provider on a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.test.utils import override_settings

from access.actions import create_admin_token
from providers.actions import create_endpoint, create_model, create_provider, update_endpoint
from providers.mock import MockOptions, MockProcess, closed_port, mock_process
from providers.models import Model, Provider
from tests.console.cast import CAST, HOSTILE, a_person, a_person_who_may
from vault.actions import create_credential
from vault.models import AuditEntry

SECRET = "sk-canary-0123456789abcdef"
LISTED = {"sim-small", "sim-large", "sim-reasoning", "sim-embedding"}

pytestmark = pytest.mark.xdist_group("asking")


@pytest.fixture(scope="module")
def vendor() -> Iterator[MockProcess]:
    """A provider in a process of its own that wants `SECRET`."""
    with mock_process(MockOptions(require_key=SECRET)) as process:
        yield process


@dataclass(frozen=True, slots=True)
class Asked:
    """A configured provider behind which the vendor stands, and what is done with it."""

    provider: Provider
    vendor: MockProcess

    def url(self, surface: str, page: str) -> str:
        """Where `test` or `discover` of this provider is."""
        if surface == "api":
            return f"/admin/v1/providers/{self.provider.pk}/{page}"
        return f"/admin/providers/provider/{self.provider.pk}/{page.partition('/')[0]}/"

    def fail_next(self, fault: str) -> None:
        """The vendor's next list of models is spoilt."""
        answer = httpx.post(f"{self.vendor.origin}/_faults", json={"fault": fault, "path": "/v1/models"})
        assert answer.status_code == 200

    def calls(self) -> int:
        """How often the vendor was asked since the test began."""
        found: int = httpx.get(f"{self.vendor.origin}/_stats?limit=0").json()["calls"]
        return found

    def names(self) -> set[str]:
        """The models in use."""
        return set(Model.objects.filter(provider=self.provider, enabled=True).values_list("name", flat=True))


@pytest.fixture
def asked(db: None, vendor: MockProcess, tmp_path: Path) -> Iterator[Asked]:
    """The vendor as a provider, with one model that it lists and one that it does not."""
    httpx.get(f"{vendor.origin}/_stats?reset=1")
    provider = create_provider(CAST, name="vendor", kind="openai", label=f"Vendor {HOSTILE}")
    create_endpoint(CAST, provider=provider, url=vendor.origin)
    (tmp_path / "vendor-key").write_text(SECRET)
    (tmp_path / "vendor-key.origin").write_text(vendor.origin)
    create_credential(CAST, provider=provider, name="main", source="file", reference="vendor-key")
    for name in ("sim-small", "retired"):
        create_model(CAST, provider=provider, name=name)
    with override_settings(TOKENHUB=replace(settings.TOKENHUB, credentials_dir=tmp_path)):
        yield Asked(provider, vendor)


@pytest.fixture
def browser(asked: Asked) -> Client:
    """The browser of someone with every permission who is no superuser."""
    client = Client(raise_request_exception=False)
    client.force_login(a_person("operator"))
    return client


def post(browser: Client, url: str, **fields: Any) -> Any:
    """A form to a page, JSON to the API."""
    if url.startswith("/admin/v1/"):
        return browser.post(url, json.dumps(fields), content_type="application/json")
    return browser.post(url, fields)


def report_of(browser: Client, asked: Asked, surface: str) -> dict[str, Any]:
    """How a connection test went, as the surface says it."""
    answer = post(browser, asked.url(surface, "test"))
    assert answer.status_code == 200
    assert SECRET not in answer.content.decode()
    if surface == "api":
        told: dict[str, Any] = answer.json()
        return told
    report = answer.context_data["report"]
    assert ("Not connected" in answer.content.decode()) is not report.ok
    return {name: getattr(report, name) for name in ("ok", "message", "models", "milliseconds")}


GARBAGE = [("bad-json", "no list of models"), ("null-body", "no list of models"), ("html", "no list of models"),
           ("empty", "no list of models"), ("500", "answered 500"), ("429", "answered 429"),
           ("reset", "can't be reached"), ("cut", "can't be reached")]  # fmt: skip
each_surface = pytest.mark.parametrize("surface", ["pages", "api"])


@each_surface
def test_a_connection_test_says_what_the_provider_lists_and_changes_nothing(
    surface: str, browser: Client, asked: Asked
) -> None:
    written = AuditEntry.objects.count()
    report = report_of(browser, asked, surface)
    assert (report["ok"], report["models"]) == (True, len(LISTED))
    assert report["milliseconds"] >= 0
    assert asked.calls() == 1
    assert asked.names() == {"sim-small", "retired"}
    assert AuditEntry.objects.count() == written


@each_surface
@pytest.mark.parametrize(("fault", "words"), GARBAGE)
def test_a_connection_test_names_what_is_wrong_with_the_answer(
    fault: str, words: str, surface: str, browser: Client, asked: Asked
) -> None:
    asked.fail_next(fault)
    report = report_of(browser, asked, surface)
    assert (report["ok"], report["models"]) == (False, 0)
    assert words in report["message"]


def refuse_connections(asked: Asked, port: int) -> None:
    """The provider's address becomes one where nobody listens, and its key may go there."""
    origins = settings.TOKENHUB.credentials_dir / "vendor-key.origin"
    origins.write_text(f"http://127.0.0.1:{port}")
    update_endpoint(CAST, asked.provider.endpoints.get(), url=f"http://127.0.0.1:{port}")


@each_surface
def test_a_connection_test_names_a_refused_connection(surface: str, browser: Client, asked: Asked) -> None:
    with closed_port() as port:
        refuse_connections(asked, port)
        report = report_of(browser, asked, surface)
    assert not report["ok"]
    assert "can't be reached: ConnectError" in report["message"]


@each_surface
def test_a_refused_credential_is_told_without_repeating_it(
    surface: str, browser: Client, asked: Asked, tmp_path: Path
) -> None:
    wrong = "sk-wrong-0123456789abcdef"
    (tmp_path / "vendor-key").write_text(wrong)
    report = report_of(browser, asked, surface)
    assert not report["ok"]
    assert "answered 401" in report["message"]
    assert wrong not in report["message"]
    for page in ("test", "discover"):
        assert wrong not in post(browser, asked.url(surface, page)).content.decode()


@each_surface
def test_discovery_shows_the_difference_and_changes_nothing(
    surface: str, browser: Client, asked: Asked
) -> None:
    answer = post(browser, asked.url(surface, "discover"), ask="1")
    assert answer.status_code == 200
    if surface == "api":
        diff = answer.json()
        new, gone, unchanged = {row["upstream_name"] for row in diff["new"]}, diff["gone"], diff["unchanged"]
    else:
        found = answer.context_data["diff"]
        new, gone, unchanged = {row.upstream_name for row in found.new}, list(found.gone), found.unchanged
        text = answer.content.decode()
        assert "3 new, 1 gone, 0 changed, 1 as configured." in text
        assert "<script>alert" not in text
    assert new == LISTED - {"sim-small"}
    assert (gone, unchanged) == (["retired"], 1)
    assert asked.names() == {"sim-small", "retired"}


@each_surface
def test_what_is_chosen_of_a_discovery_is_taken_over_and_audited(
    surface: str, browser: Client, asked: Asked
) -> None:
    before = AuditEntry.objects.count()
    page = "discover/apply" if surface == "api" else "discover"
    answer = post(browser, asked.url(surface, page), apply="1", chosen=["sim-large", "retired"])
    if surface == "api":
        assert (answer.status_code, answer.json()) == (200, {"applied": 2})
    else:
        assert (answer.status_code, answer["Location"].partition("?")[0]) == (302, "/admin/providers/model/")
        assert "2 models of" in browser.get(answer["Location"]).content.decode()
    assert asked.names() == {"sim-small", "sim-large"}
    written = AuditEntry.objects.order_by("id")[before:]
    assert {(entry.action, entry.actor) for entry in written} == {
        ("model.create", "operator"),
        ("model.update", "operator"),
    }


@each_surface
@pytest.mark.parametrize("chosen", [["sim-large", "never-listed"], ["sim-small"]])
def test_what_is_no_part_of_the_discovery_is_refused_and_nothing_taken_over(
    chosen: list[str], surface: str, browser: Client, asked: Asked
) -> None:
    page = "discover/apply" if surface == "api" else "discover"
    answer = post(browser, asked.url(surface, page), apply="1", chosen=chosen)
    assert answer.status_code == (400 if surface == "api" else 200)
    assert "is not part of this discovery" in answer.content.decode().replace("&#x27;", "'")
    assert asked.names() == {"sim-small", "retired"}


@each_surface
@pytest.mark.parametrize("applying", [False, True])
@pytest.mark.parametrize(("fault", "words"), [*GARBAGE, ("401", "answered 401"), ("", "can't be reached")])
def test_a_discovery_that_fails_says_why_and_changes_nothing(
    fault: str, words: str, applying: bool, surface: str, browser: Client, asked: Asked
) -> None:
    page = "discover/apply" if surface == "api" and applying else "discover"
    fields = {"apply": "1", "chosen": ["sim-large"]} if applying else {"ask": "1"}
    with closed_port() as port:
        if fault:
            asked.fail_next(fault)
        else:
            refuse_connections(asked, port)
        answer = post(browser, asked.url(surface, page), **fields)
    if surface == "api":
        assert (answer.status_code, answer.json()["code"]) == (502, "discovery_failed")
        assert words in answer.json()["detail"]
    else:
        assert answer.status_code == 200
        assert words in answer.context_data["failure"].message
        assert answer.context_data["diff"] is None
    assert SECRET not in answer.content.decode()
    assert asked.names() == {"sim-small", "retired"}


@each_surface
@pytest.mark.parametrize("page", ["test", "discover"])
def test_a_provider_that_can_not_be_asked_is_told_apart_from_one_that_fails(
    page: str, surface: str, browser: Client, asked: Asked
) -> None:
    update_endpoint(CAST, asked.provider.endpoints.get(), enabled=False)
    answer = post(browser, asked.url(surface, page))
    assert answer.status_code == (400 if (surface, page) == ("api", "discover") else 200)
    assert "has no enabled endpoint" in answer.content.decode()
    assert asked.calls() == 0


# --- who may ------------------------------------------------------------------------------------------------------

MAY_TEST = ("providers.view_provider", "providers.change_provider")
MAY_DISCOVER = ("providers.view_provider", "providers.add_model", "providers.change_model")
PAGES = [
    ("pages", "test", MAY_TEST),
    ("pages", "discover", MAY_DISCOVER),
    ("api", "test", MAY_TEST),
    ("api", "discover", MAY_DISCOVER),
    ("api", "discover/apply", MAY_DISCOVER),
]
FIELDS = {"apply": "1", "chosen": ["sim-large"]}


def signed_in(person: User) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(person)
    return client


@pytest.mark.parametrize(("surface", "page", "needed"), PAGES)
def test_whoever_has_just_the_permissions_may_ask(
    surface: str, page: str, needed: tuple[str, ...], asked: Asked
) -> None:
    person = signed_in(a_person_who_may(*needed))
    assert post(person, asked.url(surface, page), **FIELDS).status_code in (200, 302)
    assert asked.calls() == 1


@pytest.mark.parametrize(("surface", "page", "needed"), PAGES)
def test_with_one_permission_less_nobody_is_asked(
    surface: str, page: str, needed: tuple[str, ...], asked: Asked
) -> None:
    # Django's pages let whoever may change a row look at it.
    for number, missing in enumerate(needed[1:] if (surface, page) == ("pages", "test") else needed):
        rest = [name for name in needed if name != missing]
        person = signed_in(a_person_who_may(*rest, username=f"person-{number}"))
        assert post(person, asked.url(surface, page), **FIELDS).status_code == 403, missing
    assert asked.calls() == 0
    assert asked.names() == {"sim-small", "retired"}


@pytest.mark.parametrize(("surface", "page", "needed"), PAGES)
@pytest.mark.parametrize("kind", ["nobody", "viewer", "no staff", "finance"])
def test_roles_that_only_look_and_strangers_ask_nobody(
    kind: str, surface: str, page: str, needed: tuple[str, ...], asked: Asked
) -> None:
    client = Client(raise_request_exception=False)
    if kind == "viewer":
        client.force_login(a_person("viewer"))
    elif kind == "no staff":
        person = a_person("operator")
        person.is_staff = False
        person.save()
        client.force_login(person)
    elif kind == "finance":
        client.force_login(
            a_person_who_may("providers.view_provider", "providers.view_model", "usage.add_price")
        )
    refused = {"pages": {302, 403}, "api": {401, 403}}
    answer = post(client, asked.url(surface, page), **FIELDS)
    assert answer.status_code in refused[surface]
    assert answer.status_code != 302 or answer["Location"].startswith("/admin/login/")
    assert asked.calls() == 0
    assert asked.names() == {"sim-small", "retired"}


@pytest.mark.parametrize(("scopes", "status"), [(["read"], 403), (["read", "write"], 200)])
@pytest.mark.parametrize("page", ["test", "discover", "discover/apply"])
def test_a_token_that_only_reads_asks_nobody(page: str, scopes: list[str], status: int, asked: Asked) -> None:
    _, secret = create_admin_token(CAST, name="ci", service="ci", scopes=scopes)
    client = Client(headers={"authorization": f"Bearer {secret}"})
    assert post(client, asked.url("api", page), **FIELDS).status_code == status
    assert asked.calls() == (status == 200)


@pytest.mark.parametrize(("surface", "page"), [(surface, page) for surface, page, _ in PAGES])
def test_asking_from_another_site_is_refused(surface: str, page: str, asked: Asked) -> None:
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    client.force_login(a_person("superuser"))
    assert post(client, asked.url(surface, page), **FIELDS).status_code == 403
    assert asked.calls() == 0
