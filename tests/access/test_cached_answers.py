"""Cached answers in the database: found while they are good, counted when they save, dropped when they are over or too many."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from access import actions
from access.cached_answers import CachedAnswers, clear_cache, prune, read_cache
from access.models import CachedAnswer, CacheSaving, Project
from gateway.answer_cache import KeptAnswer
from gateway.keeping import StoreUnavailable
from tokenhub.control.actors import Actor
from vault.models import AuditEntry

pytestmark = pytest.mark.django_db(transaction=True)

ACTOR = Actor.system()


@pytest.fixture
def store() -> CachedAnswers:
    return CachedAnswers(KeptAnswer, StoreUnavailable, most=100)


@pytest.fixture
def project() -> Project:
    actor = ACTOR
    team = actions.create_team(actor, name="Red", slug="red")
    return actions.create_project(actor, team=team, name="Apollo", slug="apollo", cache_seconds=60)


def an_answer(**fields: Any) -> KeptAnswer:
    values = {
        "sealed": b"sealed",
        "model_id": "7",
        "cost_nanos": 1200,
        "input_tokens": 10,
        "output_tokens": 5,
    }
    return KeptAnswer(**{**values, "at": timezone.now().timestamp(), **fields})


def test_an_answer_is_found_until_it_is_over(store: CachedAnswers) -> None:
    kept = an_answer()
    assert store.find("n") is None
    store.keep("n", "red/apollo", kept, 60)
    assert store.find("n") == kept
    newer = an_answer(sealed=b"newer", cost_nanos=None)
    store.keep("n", "red/apollo", newer, 60)
    assert store.find("n") == newer
    CachedAnswer.objects.update(expires_at=timezone.now())
    assert store.find("n") is None


def test_savings_are_told_by_project_and_survive_a_database_that_fails(
    store: CachedAnswers, project: Project
) -> None:
    for _ in range(3):
        store.count_hit("red/apollo", an_answer())
    store.count_hit("red/gemini", an_answer(cost_nanos=None))
    rename(CacheSaving, "elsewhere")
    store._pass(pruning=False)
    rename(CacheSaving, CacheSaving._meta.db_table, "elsewhere")
    store.count_hit("red/apollo", an_answer())
    store.store_saved()
    store.store_saved()
    old = timezone.now().date() - timedelta(days=30)
    CacheSaving.objects.create(tenant="red/apollo", day=old, hits=1000)
    store.keep("n", "red/apollo", an_answer(), 60)
    store.keep("m", "red/gemini", an_answer(), 60)
    assert read_cache(project) == {
        "cache_seconds": 60,
        "answers": 1,
        "days": 30,
        "hits": 4,
        "saved_nanos": 4800,
        "input_tokens": 40,
        "output_tokens": 20,
    }
    assert CacheSaving.objects.get(tenant="red/gemini").saved_nanos == 0


def rename(model: Any, new: str, old: str = "") -> None:
    with connection.schema_editor() as editor:
        editor.alter_db_table(model, old or model._meta.db_table, new)


def test_the_thread_stores_what_is_left_when_it_is_stopped(store: CachedAnswers) -> None:
    store.count_hit("red/apollo", an_answer())
    stop = threading.Event()
    stop.set()
    store.run(stop)
    assert CacheSaving.objects.get().hits == 1


def test_what_is_over_goes_and_the_oldest_above_the_bound(store: CachedAnswers) -> None:
    now = timezone.now()
    for number in range(6):
        store.keep(
            str(number), "red/apollo", an_answer(at=now.timestamp() - number), 3 if number == 5 else 60
        )
    assert prune(now, 3) == 3
    assert set(CachedAnswer.objects.values_list("name", flat=True)) == {"0", "1", "2"}


def test_clearing_drops_the_projects_own_and_is_in_the_trail(store: CachedAnswers, project: Project) -> None:
    store.keep("n", "red/apollo", an_answer(), 60)
    store.keep("m", "red/gemini", an_answer(), 60)
    assert clear_cache(ACTOR, project) == 1
    assert [row.name for row in CachedAnswer.objects.all()] == ["m"]
    entry = AuditEntry.objects.latest("seq")
    assert (entry.action, entry.before) == ("project.clear_cache", {"answers": 1})


def test_a_database_that_fails_is_told_as_such(store: CachedAnswers) -> None:
    rename(CachedAnswer, "elsewhere")
    try:
        with pytest.raises(StoreUnavailable):
            store.find("n")
        with pytest.raises(StoreUnavailable):
            store.keep("n", "red/apollo", an_answer(), 60)
    finally:
        rename(CachedAnswer, CachedAnswer._meta.db_table, "elsewhere")
