"""Decisions in the database: stored in batches, held while it is away, dropped by age and number, shown to their own key."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.utils import timezone

from gateway.decisions import KeptDecision
from routing.decision_store import DecisionWriter, answer_decision, find_decision, prune
from routing.models import DecisionRecord
from tests.console.cast import a_decision

pytestmark = pytest.mark.django_db(transaction=True)


def kept(number: int, **fields: Any) -> KeptDecision:
    """One as the data plane gives it."""
    defaults: dict[str, Any] = {
        "request_id": f"req_{number}",
        "at": 1_700_000_000.0 + number,
        "key_id": "key1",
        "team": "",
        "project": "apollo",
        "asked": "auto",
        "policy": "",
        "model": "m",
        "provider": "p",
        "status": 200,
        "attempts": 1,
        "document": b'{"reason":"auto","candidates":[]}',
    }
    return KeptDecision(**{**defaults, **fields})


class Waiting:
    """What a worker has ready."""

    def __init__(self, *decisions: KeptDecision) -> None:
        self.left = list(decisions)

    def take(self, most: int) -> list[KeptDecision]:
        taken, self.left = self.left[:most], self.left[most:]
        return taken


def test_what_waits_is_stored_once() -> None:
    again = kept(1, asked="again")
    writer = DecisionWriter(Waiting(*map(kept, range(450)), again).take, days=1, most=1000)
    assert writer.store() == 451
    assert DecisionRecord.objects.count() == 450
    row = find_decision("req_1")
    assert row is not None
    assert (row.asked, row.at) == ("auto", datetime.fromtimestamp(1_700_000_001, UTC))
    assert row.document == {"reason": "auto", "candidates": []}


def test_characters_that_a_database_does_not_take_spoil_nothing() -> None:
    document = json.dumps({"reason": "a\0b"}).encode()
    writer = DecisionWriter(Waiting(kept(1, asked="x\0y", document=document)).take, days=1, most=1000)
    assert writer.store() == 1
    row = find_decision("req_1")
    assert row is not None
    assert (row.asked, row.document) == ("x\ufffdy", {"reason": "a\ufffdb"})


def test_a_batch_that_was_not_taken_is_held_and_stored_later() -> None:
    waiting = Waiting(kept(1), kept(2))
    writer = DecisionWriter(waiting.take, days=1, most=1000)
    with connection.schema_editor() as editor:
        editor.alter_db_table(DecisionRecord, DecisionRecord._meta.db_table, "elsewhere")
    try:
        with pytest.raises(DatabaseError):
            writer.store()
        assert waiting.left == []
    finally:
        with connection.schema_editor() as editor:
            editor.alter_db_table(DecisionRecord, "elsewhere", DecisionRecord._meta.db_table)
    assert writer.store() == 2
    assert DecisionRecord.objects.count() == 2


def test_old_ones_and_too_many_go_the_oldest_first() -> None:
    now = timezone.now()
    for number in range(30):
        a_decision(number, at=now - timedelta(days=number))
    assert prune(now - timedelta(days=19, hours=12), 1000) == 10
    assert prune(now - timedelta(days=365), 5) == 15
    assert DecisionRecord.objects.count() == 5
    assert prune(now - timedelta(days=365), 5) == 0


def test_a_decision_is_told_to_its_own_key_only() -> None:
    a_decision(1, key_id="mine")
    told = answer_decision("request-1", "mine")
    assert told is not None
    document = json.loads(told)
    assert (document["request_id"], document["policy"]["name"]) == ("request-1", "night")
    assert document["attempts"][0]["outcome"] == "completed"
    assert answer_decision("request-1", "another") is None
    assert answer_decision("request-2", "mine") is None
