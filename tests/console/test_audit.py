"""The audit trail's pages and API, and who came, who went, and who was refused in it."""

from __future__ import annotations

import csv
import io
import json
import logging
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, Permission, User
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import AsyncClient, Client

from access.actions import create_admin_token, create_team, update_team
from console.roles import OWNER, ROLES, VAULT_ACTIONS, ensure_roles, list_differences
from console.sessions import FAILED, REFUSED, SIGN_IN, SIGN_OUT, Quota, Window, mask, record_failure
from tests.console.cast import CAST, Cast, a_person, a_person_who_may
from vault.export import COLUMNS
from vault.models import AuditEntry, AuditHead
from vault.trail import append, show, tell_head, verify
from vault.triggers import lifted

LIST = "/admin/vault/auditentry/"
PASSWORD = "the-canary-pass-phrase"


def read(answer: Any) -> str:
    return b"".join(answer.streaming_content).decode()


# --- pages --------------------------------------------------------------------------------------------------------------


def test_the_list_shows_where_the_trail_ends(superuser: Client) -> None:
    text = superuser.get(LIST).content.decode()
    assert AuditHead.objects.get().hash in text
    assert "Export as CSV" in text


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("actor=cast&action=team.create", 1),
        ("actor=nobody", 0),
        ("actor_kind__exact=user&object_type=auth.user", 1),
        ("address=203.0.113.9", 1),
        ("object_type=access.team", 1),
        ("at_from_0=2000-01-01&at_from_1=00:00:00&at_to_0=2000-01-02&at_to_1=00:00:00", 0),
        ("at_from_0=2000-01-01&at_from_1=00:00:00&action=team.create", 1),
        ("at_from_0=2000-01-01&action=team.create", 1),
        ("at_to_0=2000-01-01&action=team.create", 0),
        ("q=Project+acme", 1),
        ("q=nothing-like-it", 0),
    ],
)
def test_lists_and_exports_are_filtered_alike(query: str, found: int, superuser: Client) -> None:
    record_failure(Quota(FAILED), "someone", "203.0.113.9")
    assert superuser.get(f"{LIST}?{query}").context_data["cl"].result_count == found
    lines = read(superuser.get(f"{LIST}export/jsonl/?{query}")).splitlines()
    assert len(lines) == found
    rows = list(csv.reader(io.StringIO(read(superuser.get(f"{LIST}export/csv/?{query}")))))
    assert rows[0] == list(COLUMNS)
    assert len(rows) == found + 1


@pytest.mark.parametrize("odd", ["yesterday", "2000-13-01", "2000-01-01T00:00:00+01:00"])
def test_a_time_that_is_none_filters_nothing_silently(odd: str, superuser: Client) -> None:
    assert superuser.get(LIST, {"at_from_0": odd}).status_code == 302
    assert superuser.get(f"{LIST}export/csv/", {"at_from_0": odd}).status_code == 302


def test_exports_say_all_of_an_entry_and_hold_no_formulas(superuser: Client) -> None:
    for label in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"):
        append(actor=CAST, action="x.y", object_type="x", object_label=label, after={"name": label})
    answer = superuser.get(f"{LIST}export/csv/?action=x.y")
    assert 'attachment; filename="audit-' in answer["Content-Disposition"]
    labels = [row["object_label"] for row in csv.DictReader(io.StringIO(read(answer), newline=""))]
    assert labels == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "'\r=1"]
    lines = read(superuser.get(f"{LIST}export/jsonl/")).splitlines()
    assert [json.loads(line) for line in lines] == [
        show(entry) for entry in AuditEntry.objects.order_by("seq")
    ]


@pytest.mark.django_db(transaction=True)
async def test_under_asgi_exports_are_made_while_they_are_sent(recwarn: pytest.WarningsRecorder) -> None:
    await sync_to_async(create_team)(CAST, name="Team", slug="team")
    person = await sync_to_async(a_person)("superuser")
    client = AsyncClient()
    await sync_to_async(client.force_login)(person)
    answer = await client.get(f"{LIST}export/csv/?action=team.create")
    assert answer.is_async
    assert b"team.create" in b"".join([piece async for piece in answer])
    assert [warning for warning in recwarn if "iterator" in str(warning.message)] == []
    await sync_to_async(lambda: connection.close())()  # that thread's own


def test_the_page_verifies_and_names_the_break(superuser: Client) -> None:
    assert "Verify the audit trail" in superuser.get(f"{LIST}verify/").content.decode()
    assert "The trail is unbroken" in superuser.post(f"{LIST}verify/").content.decode()
    with lifted(connection), connection.cursor() as cursor:
        cursor.execute("UPDATE vault_auditentry SET actor = 'x' WHERE seq = 3")
    text = superuser.post(f"{LIST}verify/").content.decode()
    assert "The trail is broken" in text
    assert "Entry 3 was altered" in text
    assert "The trail is unbroken" in superuser.post(f"{LIST}verify/", {"from": "5"}).content.decode()
    for odd in ("x", "-1", "9" * 40, "²"):
        assert superuser.post(f"{LIST}verify/", {"from": odd}).status_code == 200


def test_who_may_look_may_not_carry_away(cast: Cast) -> None:
    looker, client = a_person_who_may("vault.view_auditentry"), Client()
    client.force_login(looker)
    text = client.get(LIST).content.decode()
    assert "Export as" not in text
    for form in ("csv", "jsonl"):
        assert client.get(f"{LIST}export/{form}/").status_code == 403
        assert client.get(f"/admin/v1/audit/export/{form}").status_code == 403
    assert client.post(f"{LIST}verify/").status_code == 200
    nobody = Client()
    nobody.force_login(a_person_who_may(username="nobody"))
    assert nobody.post(f"{LIST}verify/").status_code == 403


def test_the_api_filters_pages_and_exports(superuser: Client) -> None:
    page = superuser.get("/admin/v1/audit?action=team.create&page_size=1").json()
    entry = AuditEntry.objects.get(action="team.create")
    assert (page["count"], page["results"][0]["seq"], page["results"][0]["hash"]) == (
        1,
        entry.seq,
        entry.hash,
    )
    assert superuser.get("/admin/v1/audit?until=2000-01-01T00:00:00Z").json()["count"] == 0
    lines = read(superuser.get("/admin/v1/audit/export/jsonl?actor=cast")).splitlines()
    assert len(lines) == AuditEntry.objects.filter(actor="cast").count()
    assert superuser.get("/admin/v1/audit/export/csv?since=yesterday").status_code == 400


# --- the log ------------------------------------------------------------------------------------------------------------


class Heard(logging.Handler):
    """What the audit log was told."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def heard() -> Any:
    handler = Heard()
    log = logging.getLogger("tokenhub.audit")
    log.addHandler(handler)
    yield handler.records
    log.removeHandler(handler)


@pytest.mark.django_db(transaction=True)
def test_an_entry_is_told_to_the_log_after_the_commit_and_never_after_a_rollback(heard: list[Any]) -> None:
    team = create_team(CAST, name="Team", slug="team")
    assert heard.pop().audit == show(AuditEntry.objects.get())

    def change_and_fail() -> None:
        with transaction.atomic():
            update_team(CAST, team, name="Other")
            raise LookupError

    with pytest.raises(LookupError):
        change_and_fail()
    assert heard == []
    with transaction.atomic():
        update_team(CAST, team, name="Third")
        assert heard == []
    assert [record.audit["seq"] for record in heard] == [2]


def test_the_end_of_the_trail_is_told_at_a_start(cast: Cast, heard: list[Any]) -> None:
    tell_head()
    head = AuditHead.objects.get()
    assert heard[-1].audit_head == {"seq": head.seq, "hash": head.hash}


# --- who came, who went, who was refused --------------------------------------------------------------------------------


def sign_in(username: str, password: str, address: str = "198.51.100.1") -> Client:
    client = Client(REMOTE_ADDR=address)
    client.post("/admin/login/", {"username": username, "password": password})
    return client


def test_signing_in_and_out_is_recorded_with_the_address(db: None) -> None:
    person = a_person("viewer")
    client = sign_in("viewer", "a pass phrase")
    client.post("/admin/logout/")
    assert list(
        AuditEntry.objects.order_by("seq").values_list(
            "action", "actor", "actor_kind", "address", "object_id"
        )
    ) == [
        (SIGN_IN, "viewer", "user", "198.51.100.1", str(person.pk)),
        (SIGN_OUT, "viewer", "user", "198.51.100.1", str(person.pk)),
    ]


def test_a_failed_sign_in_keeps_the_name_only_of_someone_who_exists(db: None) -> None:
    person = a_person("viewer")
    sign_in("viewer", PASSWORD, "198.51.100.2")
    sign_in(PASSWORD, "x", "198.51.100.2")
    known, unknown = AuditEntry.objects.filter(action=FAILED).order_by("seq")
    assert (known.actor, known.actor_kind, known.address) == ("viewer", "anonymous", "198.51.100.2")
    assert known.object_id == str(person.pk)
    assert (unknown.actor, unknown.object_id, unknown.object_label) == ("t…", "", "t…")
    assert PASSWORD not in str([show(entry) for entry in AuditEntry.objects.all()])
    assert PASSWORD[1:] not in str([show(entry) for entry in AuditEntry.objects.all()])


@pytest.mark.parametrize(
    ("name", "masked"), [("", "…"), ("a", "a…"), ("=x", "…"), ("\0x", "…"), ("é" * 999, "é…")]
)
def test_unknown_names_are_masked(name: str, masked: str, db: None) -> None:
    assert mask(name) == masked
    record_failure(Quota(FAILED), name, "203.0.113.9")
    assert AuditEntry.objects.get().actor == masked


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_failed_sign_ins_of_one_address_are_bounded_and_the_rest_is_counted(db: None) -> None:
    clock = Clock()
    quota = Quota(FAILED, (Window(60, 3, 100),), clock)
    for _ in range(50):
        record_failure(quota, "someone", "203.0.113.9")
    assert AuditEntry.objects.count() == 3
    record_failure(quota, "someone", "203.0.113.10")
    assert AuditEntry.objects.latest("seq").after == {"known": False, "not_written": {"203.0.113.9": 47}}
    record_failure(quota, "someone", "203.0.113.11")
    assert AuditEntry.objects.latest("seq").after == {"known": False}
    other_process = Quota(FAILED, (Window(60, 3, 100),), clock)
    record_failure(other_process, "someone", "203.0.113.9")
    assert AuditEntry.objects.count() == 5


def test_a_flood_of_failed_sign_ins_does_not_reach_the_trail(
    db: None, django_assert_num_queries: Any
) -> None:
    quota = Quota(FAILED, (Window(60, 3, 100),), Clock())
    for _ in range(4):
        record_failure(quota, "someone", "203.0.113.9")
    with django_assert_num_queries(20):  # whether there is such a user, each time
        for _ in range(20):
            record_failure(quota, "someone", "203.0.113.9")


def test_failed_sign_ins_of_many_addresses_are_bounded_in_all(db: None) -> None:
    clock = Clock()
    quota = Quota(FAILED, (Window(3600, 3, 10),), clock)
    for number in range(2_000):
        clock.now += 0.5
        record_failure(quota, "someone", f"2001:db8::{number:x}")
    assert AuditEntry.objects.count() == 10
    assert verify().broken is None


def test_a_refusal_is_recorded_with_who_asked_for_what(cast: Cast) -> None:
    client = Client(REMOTE_ADDR="198.51.100.3", raise_request_exception=False)
    client.force_login(a_person_who_may(username="nobody"))
    assert client.get("/admin/access/team/add/").status_code == 403
    assert client.get("/admin/v1/teams").status_code == 403
    page, api = AuditEntry.objects.filter(action=REFUSED).order_by("seq")
    assert (page.actor, page.address, page.object_label) == (
        "nobody",
        "198.51.100.3",
        "/admin/access/team/add/",
    )
    assert (page.object_id, page.after) == ("admin:access_team_add", {"method": "GET"})
    assert (api.object_label, api.object_id) == ("/admin/v1/teams", "control:team-list")


def test_a_token_s_refusal_names_the_token(cast: Cast) -> None:
    _, secret = create_admin_token(CAST, name="r", service="ci", scopes=["read"])
    client = Client(REMOTE_ADDR="198.51.100.4", headers={"authorization": f"Bearer {secret}"})
    assert client.post("/admin/v1/teams", {}, content_type="application/json").status_code == 403
    entry = AuditEntry.objects.get(action=REFUSED)
    assert entry.actor_kind == "token"
    assert entry.actor.startswith("ci:")
    assert secret not in str(show(entry))


# --- roles --------------------------------------------------------------------------------------------------------------


def test_every_installation_has_the_roles_and_seeding_again_does_nothing(db: None) -> None:
    lines = ensure_roles(CAST)
    assert len(lines) == 1 + len(ROLES)
    assert set(Group.objects.values_list("name", flat=True)) == {OWNER, *ROLES}
    assert AuditEntry.objects.filter(action="role.create").count() == 1 + len(ROLES)
    assert ensure_roles(CAST) == []
    assert list_differences() == []
    assert AuditEntry.objects.count() == 1 + len(ROLES)


def test_a_role_is_its_installation_s_and_only_widened_when_asked_to(db: None) -> None:
    ensure_roles(CAST)
    finance = Group.objects.get(name="finance")
    finance.permissions.add(Permission.objects.get(codename="view_alias"))
    finance.permissions.remove(Permission.objects.get(codename="add_price"))
    held = set(finance.permissions.values_list("codename", flat=True))
    (line,) = ensure_roles(CAST)
    assert line.startswith("note: role finance lacks usage.add_price")
    assert set(finance.permissions.values_list("codename", flat=True)) == held
    with pytest.raises(CommandError):
        call_command("roles", stdout=io.StringIO())
    call_command("roles", "--apply", stdout=io.StringIO())
    assert set(finance.permissions.values_list("codename", flat=True)) == held | {"add_price"}
    assert AuditEntry.objects.get(action="role.update").actor == "roles"


def test_roles_name_only_permissions_that_exist_or_are_the_vault_s(db: None) -> None:
    rows = Permission.objects.values_list("content_type__app_label", "codename")
    there = {f"{app}.{name}" for app, name in rows}
    assert set().union(*ROLES.values()) - there <= VAULT_ACTIONS


def test_roles_keep_apart_what_must_be_apart() -> None:
    writing = {
        role: {name for name in names if not name.split(".")[1].startswith("view_")}
        for role, names in ROLES.items()
    }
    assert writing["viewer"] == set()
    assert writing["finance"] == {"usage.add_price"}
    assert not any(name.startswith("vault.") for name in writing["operator"])
    assert all(name.startswith("vault.") for name in writing["vault admin"])
    assert all(name.startswith("access.") and "apikey" in name for name in writing["developer"])
    for role in ("operator", "developer", "finance", "viewer"):
        assert not ROLES[role] & {"vault.view_auditentry", *VAULT_ACTIONS}
    assert "vault.view_credential" not in ROLES["viewer"]
    for names in ROLES.values():
        assert not any(name.startswith("auth.") or "admintoken" in name for name in names)


def test_an_operator_can_not_give_himself_what_he_lacks(cast: Cast) -> None:
    ensure_roles(CAST)
    person = User.objects.create_user("olga", password="a pass phrase", is_staff=True)
    person.groups.add(Group.objects.get(name="operator"))
    client = Client(raise_request_exception=False)
    client.force_login(person)
    assert client.get("/admin/providers/provider/").status_code == 200
    assert client.get("/admin/vault/credential/add/").status_code == 403
    assert client.get(f"/admin/vault/credential/{cast.credential.pk}/delete/").status_code == 403
    assert client.get("/admin/access/admintoken/add/").status_code == 403
    assert client.get("/admin/auth/user/").status_code == 403
    assert client.get(LIST).status_code == 403
