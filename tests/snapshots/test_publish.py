"""Publishing: only what is committed, only if it holds together, one after another, never backwards."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection, connections, transaction

from access.actions import revoke_api_key, rotate_api_key
from access.models import ApiKey
from providers.actions import update_model
from providers.models import Model, Provider
from snapshots import publish as publishing
from snapshots.compile import compile_snapshot
from snapshots.models import ConfigRevision, PublishState
from snapshots.publish import publish, publish_changes, publish_if_due
from tests.snapshots.cast import OPERATOR, make_key, make_provider
from tokenhub.control import changes
from tokenhub.control.actors import Actor
from tokenhub.core.snapshot import decode_snapshot
from tokenhub.core.specs import AliasSpec, AliasTargetSpec, Snapshot

pytestmark = pytest.mark.django_db(transaction=True)

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def newest() -> Snapshot:
    """The newest revision, decoded."""
    row = ConfigRevision.objects.first()
    assert row is not None
    assert row.payload is not None
    return decode_snapshot(bytes(row.payload))


@pytest.fixture
def silent() -> Iterator[None]:
    """Changes are not published by themselves."""
    changes.unsubscribe(publish_changes)
    yield
    changes.subscribe(publish_changes)


def test_a_committed_change_is_published_with_its_actor() -> None:
    make_provider()
    before = newest()
    update_model(OPERATOR, Model.objects.get(name="small"), weight=9)
    after = newest()
    assert after.revision == before.revision + 1
    assert [model.weight for model in after.models] == [9, 5]
    row = ConfigRevision.objects.get(revision=after.revision)
    assert (row.actor, row.note) == ("olga", "changed: providers")


def test_many_changes_in_one_transaction_are_one_revision() -> None:
    make_provider(models=())
    before = ConfigRevision.objects.count()
    with transaction.atomic():
        for model in ("a", "b", "c"):
            make_key(model)
            make_provider(model)
        assert ConfigRevision.objects.count() == before
    assert ConfigRevision.objects.count() == before + 1
    row = ConfigRevision.objects.first()
    assert row is not None
    assert row.note == "changed: access, providers, vault"


def test_a_rolled_back_change_is_not_published_and_does_not_stop_the_next() -> None:
    make_provider()
    before = ConfigRevision.objects.count()
    with transaction.atomic():
        make_key("gone")
        transaction.set_rollback(True)
    assert ConfigRevision.objects.count() == before
    with transaction.atomic():
        with transaction.atomic():
            make_key("gone too")
            transaction.set_rollback(True)
        make_key("kept")
    assert ConfigRevision.objects.count() == before + 1
    assert [key.name for key in newest().keys] == ["kept"]


def test_identical_content_makes_no_new_revision(silent: None) -> None:
    make_provider()
    first = publish("first", OPERATOR, now=NOW)
    again = publish("again", OPERATOR, now=NOW + timedelta(hours=1))
    assert (first.revision, first.created) == (1, True)
    assert (again.revision, again.created) == (1, False)
    assert ConfigRevision.objects.count() == 1


def test_a_damaged_revision_is_published_again(silent: None) -> None:
    make_provider()
    publish("x", OPERATOR)
    ConfigRevision.objects.update(payload=b"damaged")
    assert publish("again", OPERATOR).revision == 2
    assert newest().revision == 2


def test_a_snapshot_that_does_not_hold_together_is_refused_and_the_old_one_stays(silent: None) -> None:
    make_provider()
    good = publish("good", OPERATOR)

    def dangling(now: datetime) -> Snapshot:
        return replace(compile_snapshot(now), aliases=(AliasSpec("fast", (AliasTargetSpec("404"),)),))

    refused = publish("broken", OPERATOR, now=NOW, compiler=dangling)
    assert (refused.revision, refused.created) == (good.revision, False)
    assert "alias 'fast' refers to an unknown model '404'" in refused.failure
    state = PublishState.objects.get()
    assert (state.failure, state.failed_at, state.revision) == (refused.failure, NOW, good.revision)
    assert ConfigRevision.objects.count() == 1
    mended = publish("mended", OPERATOR)
    assert mended.failure == ""
    assert PublishState.objects.get().failure == ""


def test_a_compiler_that_crashes_is_a_kept_failure(silent: None) -> None:
    def crash(now: datetime) -> Snapshot:
        raise ZeroDivisionError("of all things")

    assert publish("x", OPERATOR, compiler=crash).failure == "ZeroDivisionError: of all things"
    assert PublishState.objects.get().failure == "ZeroDivisionError: of all things"


def test_a_change_stands_although_publishing_it_failed() -> None:
    make_provider()
    revision = newest().revision
    Provider.objects.update(headers=7)  # past the actions, which would have refused it
    key, _ = make_key()
    assert ApiKey.objects.get() == key
    assert PublishState.objects.get().failure.startswith("TypeError")
    assert newest().revision == revision
    Provider.objects.update(headers=[])
    make_key()
    assert len(newest().keys) == 2
    assert PublishState.objects.get().failure == ""


def test_eight_threads_publish_at_once_and_revisions_only_go_up(silent: None) -> None:
    make_provider()
    rounds = 5
    barrier = threading.Barrier(8)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            barrier.wait(10)
            for turn in range(rounds):
                make_key(f"{number}.{turn}")
                publish(f"{number}.{turn}", Actor.command(f"thread {number}"))
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    rows = list(ConfigRevision.objects.order_by("id"))
    revisions = [row.revision for row in rows]
    assert revisions == list(range(1, len(rows) + 1))
    held = [len(decode_snapshot(bytes(row.payload)).keys) for row in rows if row.payload is not None]
    assert held == sorted(held)
    assert held[-1] == 8 * rounds
    assert PublishState.objects.get().revision == revisions[-1]


def test_a_commit_in_the_midst_of_compiling_is_not_half_seen(silent: None) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("on SQLite nobody can commit while a publisher holds the write lock")
    make_key("before")
    counts: list[int] = []

    def write() -> None:
        make_key("meanwhile")
        connections.close_all()

    def compile_slowly(now: datetime) -> Snapshot:
        counts.append(ApiKey.objects.count())
        writer = threading.Thread(target=write)
        writer.start()
        writer.join(30)
        counts.append(ApiKey.objects.count())
        return compile_snapshot(now)

    publish("x", OPERATOR, compiler=compile_slowly)
    assert counts == [1, 1]
    assert [key.name for key in newest().keys] == ["before"]
    publish("y", OPERATOR)
    assert [key.name for key in newest().keys] == ["before", "meanwhile"]


def test_old_payloads_are_dropped_and_their_rows_kept(silent: None) -> None:
    for _ in range(publishing.KEEP_PAYLOADS + 3):
        make_key()
        publish("x", OPERATOR)
    assert ConfigRevision.objects.count() == publishing.KEEP_PAYLOADS + 3
    kept = ConfigRevision.objects.filter(payload__isnull=False)
    assert sorted(kept.values_list("revision", flat=True)) == list(range(4, publishing.KEEP_PAYLOADS + 4))


def test_revisions_go_on_above_the_last_one_given_out(silent: None) -> None:
    make_provider()
    publish("x", OPERATOR)
    ConfigRevision.objects.all().delete()
    PublishState.objects.update(revision=41)
    assert publish("x", OPERATOR).revision == 42
    PublishState.objects.all().delete()
    make_key()
    assert publish("x", OPERATOR).revision == 43


def test_an_expiry_is_published_when_it_is_due(silent: None) -> None:
    make_key(expires_at=NOW + timedelta(seconds=10))
    publish("x", OPERATOR, now=NOW)
    assert publish_if_due(NOW + timedelta(seconds=9)) is None
    due = publish_if_due(NOW + timedelta(seconds=10))
    assert due is not None
    assert due.created
    assert newest().keys == ()


def test_the_end_of_an_overlap_is_published_when_it_is_due(silent: None) -> None:
    key, _ = make_key()
    rotate_api_key(OPERATOR, key, overlap=timedelta(seconds=5), now=NOW)
    publish("x", OPERATOR, now=NOW)
    assert len(newest().keys[0].digests) == 2
    assert publish_if_due(NOW + timedelta(seconds=5)) is not None
    assert len(newest().keys[0].digests) == 1


def test_a_change_whose_publisher_died_is_published_by_the_next_check(silent: None) -> None:
    key, _ = make_key()
    publish("x", OPERATOR, now=NOW)
    revoke_api_key(OPERATOR, key, now=NOW)
    assert publish_if_due(NOW + timedelta(seconds=29)) is None
    found = publish_if_due(NOW + timedelta(seconds=30))
    assert found is not None
    assert found.created
    assert newest().keys == ()
    assert publish_if_due(NOW + timedelta(seconds=31)) is None


def test_only_one_of_many_workers_does_what_is_due(silent: None) -> None:
    make_provider()
    publish("x", OPERATOR, now=NOW)
    later = NOW + timedelta(minutes=5)
    barrier = threading.Barrier(8)
    done: list[bool] = []

    def work() -> None:
        barrier.wait(10)
        done.append(publish_if_due(later) is not None)
        connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == [False] * 7 + [True]


def test_publishing_inside_a_transaction_belongs_to_it() -> None:
    with transaction.atomic():
        make_key()
        assert publish("inside", OPERATOR).created
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SHOW transaction_isolation")
            assert cursor.fetchone() == ("read committed",)
    assert len(newest().keys) == 1
