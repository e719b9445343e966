"""The ledger's promises: append-only, whoever asks, and reproducible to the last digit."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from tests.usage.cast import RATES, make_final, make_intent
from tests.usage.conftest import change_row, make_record
from tokenhub.core.usage import Usage
from usage.appendonly import AppendOnly, LedgerDoor, open_ledger_door
from usage.ledger import Position, settle
from usage.models import JournalFile, UsageRecord
from usage.recompute import Difference, find_differences
from usage.rows import ATTEMPT_ID, COLUMNS, LedgerRow, make_row, make_unsettled_row

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def add_row(number: int = 1, **changes: object) -> UsageRecord:
    row = make_record(make_row(make_intent(number), make_final(number)), **changes)
    row.save()
    return row


def test_the_orm_refuses_to_change_or_delete_a_row() -> None:
    row = add_row()
    row.cost_nanos = 0
    for forbidden in (
        row.save,
        row.delete,
        UsageRecord.objects.all().delete,
        lambda: UsageRecord.objects.update(cost_nanos=0),
        lambda: UsageRecord.objects.bulk_update([row], ["cost_nanos"]),
    ):
        with pytest.raises(AppendOnly):
            forbidden()
    assert UsageRecord.objects.get().cost_nanos == make_final(1).cost_nanos


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE usage_usagerecord SET cost_nanos = 0",
        "UPDATE usage_usagerecord SET raw_usage = NULL",
        "DELETE FROM usage_usagerecord",
    ],
)
def test_the_database_itself_refuses_to_change_or_delete_a_row(statement: str) -> None:
    add_row()
    with (
        pytest.raises(DatabaseError, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert UsageRecord.objects.get().cost_nanos == make_final(1).cost_nanos


def test_the_door_opens_for_its_own_block_and_closes_again() -> None:
    add_row()
    with open_ledger_door("retention"):
        UsageRecord.objects.all()._raw_delete("default")
    assert (UsageRecord.objects.count(), LedgerDoor.objects.count()) == (0, 0)
    add_row()
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        UsageRecord.objects.all()._raw_delete("default")


def test_the_door_closes_when_its_block_fails() -> None:
    with pytest.raises(RuntimeError), open_ledger_door("retention"):
        raise RuntimeError
    assert LedgerDoor.objects.count() == 0


def test_a_second_row_of_an_attempt_is_not_taken_and_the_first_stays() -> None:
    refused: list[object] = []
    for final in (make_final(1), make_final(1, "failed")):
        settle(
            [make_row(make_intent(1), final)], [Position("f", "node", 7)], now=NOW, on_refused=refused.extend
        )
    assert UsageRecord.objects.get().outcome == "completed"
    assert refused == []
    assert list(JournalFile.objects.values_list("name", "offset")) == [("f", 7)]


def test_rows_that_break_a_constraint_are_handed_back_not_dropped() -> None:
    rows = [make_row(make_intent(number), make_final(number)) for number in range(9)]
    rows[4] = change_row(rows[4], input=-1)
    rows[6] = change_row(rows[6], outcome=None)
    refused: list[tuple[LedgerRow, str]] = []
    settle(rows, [], now=NOW, on_refused=refused.extend)
    assert [row[ATTEMPT_ID] for row, _ in refused] == ["att-4", "att-6"]
    assert UsageRecord.objects.count() == 7


VANISHING = {
    "sqlite": [
        "CREATE TRIGGER vanish BEFORE INSERT ON usage_usagerecord WHEN NEW.attempt_id = 'att-2' "
        "BEGIN SELECT RAISE(IGNORE); END"
    ],
    "postgres": [
        "CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.attempt_id = 'att-2' THEN RETURN NULL; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER vanish BEFORE INSERT ON usage_usagerecord FOR EACH ROW EXECUTE FUNCTION vanish()",
    ],
}


def test_a_row_that_is_not_stored_without_any_error_is_handed_back(database_kind: str) -> None:
    rows = [make_row(make_intent(number), make_final(number)) for number in range(4)]
    settle(rows[:1], [], now=NOW, on_refused=pytest.fail)
    with connection.cursor() as cursor:
        for statement in VANISHING[database_kind]:
            cursor.execute(statement)
    refused: list[tuple[LedgerRow, str]] = []
    settle(rows, [Position("f", "node", 7)], now=NOW, on_refused=refused.extend)
    assert [(row[ATTEMPT_ID], reason.split(":")[0]) for row, reason in refused] == [("att-2", "NotStored")]
    assert UsageRecord.objects.count() == 3
    assert JournalFile.objects.get().offset == 7


def test_every_value_is_stored_as_the_model_reads_it() -> None:
    started = datetime(2026, 9, 21, 12, 34, 56, tzinfo=UTC)
    intents = [
        make_intent(1, started_at=started.timestamp(), team='Köln "west"\\\n'),
        make_intent(2, price_rates=None),
    ]
    finals = [
        make_final(1, usage=Usage(raw={"a b": [1, 2.5, None, True, "\t"]})),
        make_final(2, cost_nanos=None),
    ]
    rows = [make_row(intent, final) for intent, final in zip(intents, finals, strict=True)]
    rows.append(make_unsettled_row(make_intent(3)))
    settle(rows, [], now=NOW, on_refused=pytest.fail)
    for row, stored in zip(rows, UsageRecord.objects.order_by("attempt_id"), strict=True):
        wanted = make_record(row)
        for name in COLUMNS:
            assert (name, getattr(stored, name)) == (name, getattr(wanted, name))


def test_rows_and_offsets_are_one_transaction() -> None:
    def fail(refused: object) -> None:
        raise OSError("no room in the quarantine")

    bad = make_row(make_intent(2), make_final(2, cost_nanos=-1))
    with pytest.raises(OSError, match="no room"):
        settle(
            [make_row(make_intent(1), make_final(1)), bad], [Position("f", "n", 1)], now=NOW, on_refused=fail
        )
    assert (UsageRecord.objects.count(), JournalFile.objects.count()) == (0, 0)


def test_every_row_is_reproduced_from_its_own_figures(capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(20):
        add_row(number)
    for row in (
        make_unsettled_row(make_intent(20)),
        make_row(make_intent(21, price_rates=None), make_final(21, cost_nanos=None)),
        make_row(make_intent(22), make_final(22, "failed", usage=Usage(source="none"), cost_nanos=0)),
    ):
        make_record(row).save()
    assert list(find_differences()) == []
    call_command("usage_recompute")
    out = capsys.readouterr().out
    assert out.startswith("23 rows, ")
    assert out.endswith("every cost reproduced\n")


@pytest.mark.parametrize(
    "changes",
    [{"cost_nanos": 1}, {"cost_nanos": None}, {"input": 1003}, {"price_rates": {"input": 1}}],
    ids=["wrong", "unpriced", "other tokens", "other rates"],
)
def test_a_cost_that_its_figures_do_not_give_is_found(
    changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    add_row(1)
    row = add_row(2, **changes)
    found = list(find_differences())
    assert [item.attempt_id for item in found] == ["att-2"]
    assert isinstance(found[0], Difference)
    assert found[0].recorded == row.cost_nanos != found[0].recomputed
    with pytest.raises(CommandError, match="1 of 2 rows differ") as caught:
        call_command("usage_recompute")
    assert caught.value.returncode == 1
    assert capsys.readouterr().out.startswith("att-2: recorded ")


def test_since_leaves_earlier_rows_out() -> None:
    early = add_row(1, cost_nanos=1)
    late = add_row(2, started_at=datetime(2030, 1, 1, tzinfo=UTC))
    assert early.started_at < late.started_at
    call_command("usage_recompute", since="2030-01-01")
    call_command("usage_recompute", since="2030-01-01T00:00:00Z")
    with pytest.raises(CommandError, match="1 of 2"):
        call_command("usage_recompute", since="2020-01-01")
    with pytest.raises(CommandError, match="neither a date"):
        call_command("usage_recompute", since="yesterday")


def test_a_row_knows_its_usage_and_its_price() -> None:
    row = add_row(1)
    row.refresh_from_db()
    assert row.as_usage() == make_final(1).usage
    price = row.as_price()
    assert price is not None
    assert (price.version, dict(price.rates)) == ("price-7", dict(RATES))
