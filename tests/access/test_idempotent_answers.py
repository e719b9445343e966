"""Claims on idempotency keys in the database: one of many has it, a dead owner's ends, answers are kept until they are over."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from access.idempotency import AnswerStore, prune
from access.models import IdempotentAnswer
from gateway.idempotency import Claim
from gateway.keeping import StoreUnavailable

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def store() -> AnswerStore:
    return AnswerStore(Claim, StoreUnavailable, hours=1)


def test_one_of_many_has_it(store: AnswerStore) -> None:
    # At once, and over processes: `tests/e2e/test_idempotency.py`.
    found = [store.claim("n", "f", f"owner-{number}", 30) for number in range(40)]
    assert [claim.state for claim in found].count("claimed") == 1
    assert {claim.state for claim in found} == {"claimed", "running"}


def test_its_answer_is_for_all_who_ask_the_same(store: AnswerStore) -> None:
    assert store.claim("n", "f", "one", 30).state == "claimed"
    store.finish("n", "another", b"not mine")
    assert store.claim("n", "f", "two", 30) == Claim("running")
    store.finish("n", "one", b"sealed")
    assert store.claim("n", "f", "two", 30) == Claim("done", b"sealed")
    assert store.claim("n", "g", "two", 30) == Claim("other")
    store.release("n", "one")
    assert store.claim("n", "f", "two", 30).state == "done"


def test_a_dead_owners_claim_ends_and_one_has_it_then(store: AnswerStore) -> None:
    store.claim("n", "f", "dead", -1)
    found = [store.claim("n", "f", f"owner-{number}", 30) for number in range(16)]
    assert [claim.state for claim in found].count("claimed") == 1
    store.finish("n", "dead", b"too late")
    assert not IdempotentAnswer.objects.get().done


def test_a_renewed_claim_is_held_and_a_released_one_is_free(store: AnswerStore) -> None:
    store.claim("n", "f", "one", -1)
    store.renew("n", "one", 30)
    assert store.claim("n", "f", "two", 30).state == "running"
    store.release("n", "one")
    assert store.claim("n", "f", "two", 30).state == "claimed"


def test_what_is_over_is_as_if_it_had_never_been_and_goes(store: AnswerStore) -> None:
    for name in ("a", "b"):
        store.claim(name, "f", "one", 30)
        store.finish(name, "one", b"sealed")
    IdempotentAnswer.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert store.claim("a", "g", "two", 30).state == "claimed"
    assert prune(timezone.now()) == 1
    assert [row.name for row in IdempotentAnswer.objects.all()] == ["a"]


def test_a_database_that_fails_is_told_as_such(store: AnswerStore) -> None:
    with connection.schema_editor() as editor:
        editor.alter_db_table(IdempotentAnswer, IdempotentAnswer._meta.db_table, "elsewhere")
    try:
        with pytest.raises(StoreUnavailable):
            store.claim("n", "f", "one", 30)
    finally:
        with connection.schema_editor() as editor:
            editor.alter_db_table(IdempotentAnswer, "elsewhere", IdempotentAnswer._meta.db_table)
