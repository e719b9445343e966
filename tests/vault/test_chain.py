"""The audit trail's chain: what is done to entries behind the triggers' back is named, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from access.actions import create_team, update_team
from tests.snapshots.cast import OPERATOR
from tokenhub.control.actors import Actor
from vault.chain import CONTENT, GENESIS, digest_of, normalise
from vault.models import AuditEntry, AuditHead
from vault.trail import TrailBroken, append, read_out, verify
from vault.triggers import lifted

pytestmark = pytest.mark.django_db

Tamper = Callable[[], None]
LENGTH = 12
MIDDLE = 6
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def write_trail(length: int = LENGTH) -> None:
    """Entries of one team's changes; the last has no before."""
    for number in range(length):
        append(
            actor=OPERATOR,
            action="team.update",
            object_type="access.team",
            object_id=str(number),
            object_label=f"Team {number}",
            before={"name": f"Team {number}", "rates": {"input": 0.5}},
            after={"name": f"Team {number + 1}", "limits": [1, 2.0, None, True], "big": 10**18},
        )


def run_sql(statement: str, *values: Any) -> None:
    """Changes the trail as someone does who can write to the database and has lifted the triggers."""
    with lifted(connection), connection.cursor() as cursor:
        cursor.execute(statement, values)


def test_entries_are_numbered_without_a_gap_and_each_holds_the_hash_before_it() -> None:
    write_trail()
    before = GENESIS
    for number, entry in enumerate(AuditEntry.objects.order_by("seq"), start=1):
        assert (entry.seq, entry.prev_hash) == (number, before)
        assert entry.hash == digest_of(
            entry.seq, entry.prev_hash, {name: getattr(entry, name) for name in CONTENT}
        )
        before = entry.hash
    head = AuditHead.objects.get()
    assert (head.seq, head.hash) == (LENGTH, before)
    outcome = verify()
    assert (outcome.broken, outcome.checked, outcome.last, outcome.complete) == (None, LENGTH, LENGTH, True)


def test_a_change_that_fails_leaves_no_entry_and_no_gap() -> None:
    team = create_team(OPERATOR, name="Team", slug="team")

    def change_and_fail() -> None:
        with transaction.atomic():
            update_team(OPERATOR, team, name="Other")
            raise LookupError

    for _ in range(3):
        with pytest.raises(LookupError):
            change_and_fail()
    update_team(OPERATOR, team, name="Third")
    assert list(AuditEntry.objects.order_by("seq").values_list("seq", flat=True)) == [1, 2]
    assert verify().broken is None


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        -0.0,
        1e-7,
        0.1,
        1e15,
        1e22,
        1.5e300,
        -2.5e-300,
        float("nan"),
        float("inf"),
        2**53,
        10**30,
        "é\u2028\x7f",
        "",
    ],
)
def test_what_a_database_gives_back_has_the_hash_of_what_was_written(value: Any) -> None:
    append(
        actor=OPERATOR, action="x.y", object_type="x", after={"value": value, "inside": [{"value": value}]}
    )
    assert verify().broken is None


def test_normalised_values_are_plain() -> None:
    assert normalise({1: (1, float("nan"))}) == {"1": [1, "nan"]}


# --- tampering: every kind is named, with its place ---------------------------------------------------------------------

OTHER = {
    "at": NOON,
    "actor": "someone else",
    "actor_kind": "system",
    "address": "203.0.113.9",
    "action": "team.delete",
    "object_type": "access.project",
    "object_id": "other",
    "object_label": "Other",
    "before": json.dumps({"name": "Team 5", "rates": {"input": 0.25}}),
    "after": None,
    "prev_hash": "f" * 64,
    "hash": "f" * 64,
}


@pytest.mark.parametrize("seq", [1, MIDDLE, LENGTH])
@pytest.mark.parametrize("field", OTHER)
def test_an_altered_field_is_noticed(field: str, seq: int) -> None:
    write_trail()
    run_sql(f"UPDATE vault_auditentry SET {field} = %s WHERE seq = %s", OTHER[field], seq)
    found = verify().broken
    assert found is not None
    assert (found.kind, found.seq) == ("altered", seq)


def test_every_field_of_an_entry_is_covered() -> None:
    columns = {field.name for field in AuditEntry._meta.concrete_fields}
    assert columns - {"id", "seq"} == set(OTHER)


@pytest.mark.parametrize("microseconds", [1, -1])
def test_a_time_altered_by_a_microsecond_is_noticed(microseconds: int) -> None:
    write_trail()
    at = AuditEntry.objects.get(seq=MIDDLE).at + timedelta(microseconds=microseconds)
    run_sql("UPDATE vault_auditentry SET at = %s WHERE seq = %s", at, MIDDLE)
    assert verify().broken.seq == MIDDLE  # type: ignore[union-attr]


@pytest.mark.parametrize("seq", range(1, LENGTH))
def test_a_removed_entry_is_noticed(seq: int) -> None:
    write_trail()
    run_sql("DELETE FROM vault_auditentry WHERE seq = %s", seq)
    found = verify().broken
    assert found is not None
    assert (found.kind, found.seq, found.text) == ("missing", seq, f"entry {seq} is missing")


def test_several_removed_entries_are_named_together() -> None:
    write_trail()
    run_sql("DELETE FROM vault_auditentry WHERE seq BETWEEN 4 AND 7")
    assert verify().broken.text == "entries 4 to 7 are missing"  # type: ignore[union-attr]


@pytest.mark.parametrize("removed", range(1, LENGTH + 1))
def test_a_tail_that_was_cut_is_noticed(removed: int) -> None:
    write_trail()
    run_sql("DELETE FROM vault_auditentry WHERE seq > %s", LENGTH - removed)
    found = verify().broken
    assert found is not None
    assert (found.kind, found.seq) == ("cut", LENGTH - removed + 1)


@pytest.mark.parametrize("first", range(1, LENGTH))
def test_two_entries_that_changed_places_are_noticed(first: int) -> None:
    write_trail()
    with lifted(connection), connection.cursor() as cursor:
        for old, new in ((first, 99), (first + 1, first), (99, first + 1)):
            cursor.execute("UPDATE vault_auditentry SET seq = %s WHERE seq = %s", [new, old])
    found = verify().broken
    assert found is not None
    assert (found.kind, found.seq) == ("reordered", first)


def test_contents_that_changed_places_are_noticed() -> None:
    write_trail()
    first, second = AuditEntry.objects.order_by("seq")[3:5]
    with lifted(connection), connection.cursor() as cursor:
        for here, there in ((first, second), (second, first)):
            cursor.execute(
                "UPDATE vault_auditentry SET object_id = %s, object_label = %s, before = %s, after = %s, at = %s WHERE seq = %s",
                [
                    there.object_id,
                    there.object_label,
                    json.dumps(there.before),
                    json.dumps(there.after),
                    there.at,
                    here.seq,
                ],
            )
    found = verify().broken
    assert found is not None
    assert (found.kind, found.seq) == ("reordered", 4)


def insert_copy(of: int, seq: int, *, prev_hash: str = "0" * 64, digest: str = "0" * 64) -> None:
    names = ", ".join(CONTENT)
    run_sql(
        f"INSERT INTO vault_auditentry (seq, prev_hash, hash, {names}) "
        f"SELECT %s, %s, %s, {names} FROM vault_auditentry WHERE seq = %s",
        seq,
        prev_hash,
        digest,
        of,
    )


def test_an_inserted_entry_is_noticed() -> None:
    write_trail()
    with lifted(connection), connection.cursor() as cursor:
        for seq in range(LENGTH, MIDDLE - 1, -1):
            cursor.execute("UPDATE vault_auditentry SET seq = %s WHERE seq = %s", [seq + 1, seq])
    insert_copy(of=2, seq=MIDDLE)
    found = verify().broken
    assert found is not None
    assert found.seq == MIDDLE


def test_an_entry_appended_behind_the_head_is_noticed() -> None:
    write_trail()
    last = AuditEntry.objects.get(seq=LENGTH)
    copied = AuditEntry.objects.get(seq=2)
    digest = digest_of(LENGTH + 1, last.hash, {name: getattr(copied, name) for name in CONTENT})
    insert_copy(of=2, seq=LENGTH + 1, prev_hash=last.hash, digest=digest)
    found = verify().broken
    assert found is not None
    assert (found.kind, found.seq) == ("head", LENGTH + 1)


def test_an_entry_before_the_first_is_noticed() -> None:
    write_trail()
    insert_copy(of=2, seq=0)
    found = verify().broken
    assert found is not None
    assert (found.kind, found.seq) == ("inserted", 0)


@pytest.mark.parametrize("seq", range(1, LENGTH))
def test_an_entry_that_was_altered_with_its_hash_is_noticed_at_the_next(seq: int) -> None:
    write_trail()
    entry = AuditEntry.objects.get(seq=seq)
    fields = {name: getattr(entry, name) for name in CONTENT} | {"actor": "someone else"}
    run_sql(
        "UPDATE vault_auditentry SET actor = %s, hash = %s WHERE seq = %s",
        "someone else",
        digest_of(seq, entry.prev_hash, fields),
        seq,
    )
    found = verify().broken
    assert found is not None
    assert (found.kind, found.seq) == ("replaced", seq + 1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vault_audithead SET seq = 3",
        "UPDATE vault_audithead SET seq = 40",
        "UPDATE vault_audithead SET hash = repeat_f",
        "DELETE FROM vault_audithead",
    ],
)
def test_a_head_row_that_was_changed_is_noticed(statement: str) -> None:
    write_trail()
    run_sql(statement.replace("repeat_f", f"'{'f' * 64}'"))
    assert verify().broken.kind in ("head", "cut")  # type: ignore[union-attr]


def test_a_trail_written_anew_to_its_end_is_noticed_by_a_hash_kept_elsewhere() -> None:
    write_trail()
    kept = AuditHead.objects.get()
    with lifted(connection), connection.cursor() as cursor:
        before = AuditEntry.objects.get(seq=MIDDLE).prev_hash
        for entry in AuditEntry.objects.filter(seq__gte=MIDDLE).order_by("seq"):
            fields = {name: getattr(entry, name) for name in CONTENT} | {"actor": "someone else"}
            digest = digest_of(entry.seq, before, fields)
            cursor.execute(
                "UPDATE vault_auditentry SET actor = 'someone else', prev_hash = %s, hash = %s WHERE seq = %s",
                [before, digest, entry.seq],
            )
            before = digest
        cursor.execute("UPDATE vault_audithead SET hash = %s", [before])
    assert verify().broken is None
    found = verify(known={kept.seq: kept.hash}).broken
    assert found is not None
    assert (found.kind, found.seq) == ("replaced", LENGTH)


def test_a_tail_cut_together_with_the_head_row_is_noticed_by_a_hash_kept_elsewhere() -> None:
    write_trail()
    kept = AuditHead.objects.get()
    run_sql("DELETE FROM vault_auditentry WHERE seq > 6")
    run_sql("UPDATE vault_audithead SET seq = 6, hash = %s", AuditEntry.objects.get(seq=6).hash)
    assert verify().broken is None
    assert verify(known={kept.seq: kept.hash}).broken.kind == "cut"  # type: ignore[union-attr]


def test_nothing_is_appended_to_a_trail_whose_head_row_is_gone() -> None:
    write_trail()
    run_sql("DELETE FROM vault_audithead")
    with pytest.raises(TrailBroken, match="head row is missing"):
        create_team(OPERATOR, name="Team", slug="team")
    assert AuditEntry.objects.count() == LENGTH


# --- triggers -----------------------------------------------------------------------------------------------------------

REFUSED = [
    "UPDATE vault_auditentry SET seq = seq + 100",
    "DELETE FROM vault_auditentry WHERE seq = 2",
    "UPDATE vault_audithead SET seq = 0",
    "UPDATE vault_audithead SET hash = 'x'",
    "UPDATE vault_audithead SET seq = seq + 2",
    "DELETE FROM vault_audithead",
    "TRUNCATE vault_auditentry",
    "TRUNCATE vault_audithead",
    "REPLACE INTO vault_auditentry SELECT * FROM vault_auditentry WHERE seq = 2",
    "REPLACE INTO vault_audithead SELECT * FROM vault_audithead",
]


@pytest.mark.parametrize("statement", REFUSED)
def test_the_database_refuses(statement: str) -> None:
    only = {"TRUNCATE": "postgresql", "REPLACE": "sqlite"}.get(statement.split()[0], connection.vendor)
    if only != connection.vendor:
        pytest.skip(f"only {only} has this statement")
    write_trail(3)
    rows = list(AuditEntry.objects.values())
    with (
        pytest.raises(DatabaseError, match=r"append-only|only moves on"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert list(AuditEntry.objects.values()) == rows
    assert verify().broken is None


# --- walking ------------------------------------------------------------------------------------------------------------


def test_a_walk_goes_on_where_an_earlier_one_stopped() -> None:
    write_trail()
    outcome = verify(start=5)
    assert (outcome.broken, outcome.checked, outcome.last) == (None, LENGTH - 4, LENGTH)
    assert verify(start=LENGTH + 1).broken is None
    assert verify(start=LENGTH + 2).broken.kind == "missing"  # type: ignore[union-attr]


def test_a_walk_with_a_time_limit_stops_after_a_chunk_and_says_so() -> None:
    write_trail(1_001)
    first = verify(seconds=0)
    assert (first.checked, first.complete, first.broken) == (1_000, False, None)
    rest = verify(start=first.last + 1, seconds=0)
    assert (rest.checked, rest.broken) == (1, None)


def test_entries_are_read_out_oldest_first_in_chunks() -> None:
    write_trail()
    assert [entry.seq for entry in read_out(AuditEntry.objects.all(), chunk=5)] == list(range(1, LENGTH + 1))


# --- commands -----------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    output = StringIO()
    call_command("audit", *arguments, stdout=output, stderr=StringIO())
    return output.getvalue()


def test_verify_says_where_the_trail_ends() -> None:
    write_trail()
    head = AuditHead.objects.get()
    assert f"12 entries, unbroken; the last is 12:{head.hash}" in run("verify")
    assert json.loads(run("verify", "--json", "--from", "4")) == {
        "ok": True,
        "first": 4,
        "last": 12,
        "hash": head.hash,
        "checked": 9,
        "broken": None,
        "complete": True,
    }
    assert "unbroken" in run("verify", "--expect", f"12:{head.hash}")
    with pytest.raises(CommandError, match="another hash than was kept"):
        run("verify", "--expect", f"3:{head.hash}")


def test_verify_exits_with_one_at_the_first_break() -> None:
    write_trail()
    run_sql("UPDATE vault_auditentry SET actor = 'x' WHERE seq >= 4")
    with pytest.raises(CommandError, match="entry 4 was altered") as stopped:
        run("verify")
    assert stopped.value.returncode == 1


def test_exports_hold_what_was_asked_for_and_no_formulas() -> None:
    write_trail(2)
    append(
        actor=Actor("user", "=cmd|' /C calc'!A0"), action="x.y", object_type="x", object_label="\t@SUM(A1)"
    )
    lines = [json.loads(line) for line in run("export").splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3]
    assert lines[2]["actor"] == "=cmd|' /C calc'!A0"
    table = run("export", "--format", "csv")
    assert table.splitlines()[0].startswith("seq,at,actor,")
    assert "'=cmd" in table
    assert "'\t@SUM" in table
    assert ",=cmd" not in table
    assert run("export", "--until", "2020-01-01") == ""
    assert len(run("export", "--since", "2020-01-01T00:00:00Z").splitlines()) == 3
