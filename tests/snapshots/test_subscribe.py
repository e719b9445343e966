"""Following: every new revision arrives, a broken one never does, and the database may go away."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import connection, connections

from access.actions import create_team, revoke_api_key, update_team
from snapshots.last_good import write_last_good
from snapshots.models import ConfigRevision, PublishState, WorkerStatus
from snapshots.subscribe import Subscriber
from tests.snapshots.cast import OPERATOR, make_key, make_provider, wait_until
from tests.snapshots.outage import Outage
from tokenhub.core.current import Current
from tokenhub.core.snapshot import decode_snapshot, encode_snapshot
from tokenhub.core.specs import Snapshot

pytestmark = pytest.mark.django_db(transaction=True)

PROMISED_SECONDS = 2.0


def make_subscriber(
    tmp_path: Path, on_snapshot: Callable[[Snapshot], None], instance: str = "worker-1"
) -> Subscriber:
    return Subscriber(on_snapshot=on_snapshot, last_good=tmp_path / "last-good.json", instance=instance)


@contextmanager
def running(subscriber: Subscriber) -> Iterator[None]:
    """The subscriber in a thread of its own, as the server has it."""
    stop = threading.Event()

    def work() -> None:
        try:
            subscriber.run(stop)
        finally:
            connections.close_all()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(15)
        assert not thread.is_alive()


def corrupt(revision: int, payload: bytes) -> None:
    """Puts other bytes in the place of a published revision's."""
    ConfigRevision.objects.filter(revision=revision).update(payload=payload)


def test_an_empty_database_gets_its_first_revision(tmp_path: Path) -> None:
    subscriber = make_subscriber(tmp_path, lambda snapshot: None)
    snapshot = subscriber.load_initial()
    assert snapshot is not None
    assert (snapshot.revision, subscriber.revision, subscriber.last_error) == (1, 1, "")
    assert ConfigRevision.objects.get().note == "first start"


def test_every_worker_has_a_new_revision_within_two_seconds(tmp_path: Path) -> None:
    workers = [Current() for _ in range(4)]
    subscribers = [
        make_subscriber(tmp_path, current.swap, f"worker-{number}") for number, current in enumerate(workers)
    ]
    for subscriber, current in zip(subscribers, workers, strict=True):
        snapshot = subscriber.load_initial()
        assert snapshot is not None
        current.swap(snapshot)
    with running(subscribers[0]), running(subscribers[1]), running(subscribers[2]), running(subscribers[3]):
        for _ in range(3):
            make_key()
            row = ConfigRevision.objects.first()
            assert row is not None
            wait_until(
                lambda newest=row.revision: all(c.get().revision == newest for c in workers), PROMISED_SECONDS
            )
        wait_until(lambda: set(WorkerStatus.objects.values_list("revision", flat=True)) == {row.revision})
        assert WorkerStatus.objects.count() == 4
        assert {status.pid for status in WorkerStatus.objects.all()} == {os.getpid()}
    assert not WorkerStatus.objects.exists()
    assert decode_snapshot((tmp_path / "last-good.json").read_bytes()) == workers[0].get()


def test_a_revoked_key_and_a_disabled_team_s_key_are_gone_within_two_seconds(tmp_path: Path) -> None:
    from_team, _ = make_key("of a team", team=create_team(OPERATOR, name="Blue", slug="blue"))
    key, _ = make_key()
    current = Current()
    with running(make_subscriber(tmp_path, current.swap)):
        wait_until(lambda: current.find() is not None and len(current.get().keys) == 2)
        revoke_api_key(OPERATOR, key)
        wait_until(lambda: key.key_id not in current.get().key_by_id, PROMISED_SECONDS)
        update_team(OPERATOR, from_team.team, enabled=False)
        wait_until(lambda: current.get().keys == (), PROMISED_SECONDS)


def test_a_broken_revision_is_refused_reported_and_the_old_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_provider()
    current = Current()
    subscriber = make_subscriber(tmp_path, current.swap)
    with running(subscriber):
        wait_until(lambda: current.find() is not None)
        good = current.get().revision
        payload = encode_snapshot(Snapshot(revision=good + 1, created_at=0.0))
        ConfigRevision.objects.create(
            revision=good + 1,
            created_at="2030-01-01T00:00Z",
            sha256="0" * 64,
            content_sha256="0",
            payload=payload,
        )
        PublishState.objects.update(revision=good + 1)
        wait_until(lambda: "does not match its digest" in subscriber.last_error)
        wait_until(lambda: WorkerStatus.objects.filter(error__contains="does not match its digest").exists())
        assert subscriber.public_error == subscriber.last_error
        assert (subscriber.revision, current.get().revision) == (good, good)
        make_key()
        wait_until(lambda: current.get().revision == good + 2)
        wait_until(lambda: WorkerStatus.objects.filter(error="", revision=good + 2).exists())
    assert decode_snapshot((tmp_path / "last-good.json").read_bytes()).revision == good + 2
    refusals = [record for record in caplog.records if "is refused" in record.getMessage()]
    assert len(refusals) == 1


def test_a_snapshot_that_its_worker_refuses_leaves_the_old_one(tmp_path: Path) -> None:
    seen: list[int] = []

    def only_the_first(snapshot: Snapshot) -> None:
        if seen:
            raise ValueError("not this one")
        seen.append(snapshot.revision)

    make_provider()
    subscriber = make_subscriber(tmp_path, only_the_first)
    with running(subscriber):
        wait_until(lambda: seen != [])
        make_key()
        wait_until(lambda: "ValueError: not this one" in subscriber.last_error)
        assert subscriber.public_error == f"revision {seen[0] + 1} is refused: ValueError"
        assert subscriber.revision == seen[0]


def test_a_lower_revision_is_ignored_and_said(tmp_path: Path) -> None:
    make_provider()
    current = Current()
    subscriber = make_subscriber(tmp_path, current.swap)
    with running(subscriber):
        wait_until(lambda: current.find() is not None)
        before = current.get()
        ConfigRevision.objects.filter(revision=before.revision).delete()
        wait_until(lambda: f"is below {before.revision}" in subscriber.last_error)
        assert current.get() is before


def test_a_worker_starts_from_the_last_good_file_while_the_database_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_provider()
    key, _ = make_key()
    assert make_subscriber(tmp_path, lambda snapshot: None).load_initial() is not None
    current = Current()
    subscriber = make_subscriber(tmp_path, current.swap)
    outage = Outage(tmp_path)
    stop = threading.Event()

    def start_and_follow() -> None:
        snapshot = subscriber.load_initial()
        assert snapshot is not None
        current.swap(snapshot)
        subscriber.run(stop)

    thread = outage.run(start_and_follow)
    try:
        wait_until(lambda: current.find() is not None, 20)
        assert key.key_id in current.get().key_by_id
        assert "the database can't be read: " in subscriber.last_error
        assert subscriber.public_error == "the database can't be read", "a driver's text names host and user"
        revoke_api_key(OPERATOR, key)
        outage.end()
        wait_until(lambda: key.key_id not in current.get().key_by_id, 10)
        wait_until(lambda: subscriber.last_error == subscriber.public_error == "")
        assert subscriber.age_seconds < 5
        if connection.vendor == "postgresql":
            outage.begin()
            wait_until(lambda: subscriber.last_error != "", 10)
            other, _ = make_key("made meanwhile")
            outage.end()
            wait_until(lambda: other.key_id in current.get().key_by_id, 10)
    finally:
        stop.set()
        thread.join(15)
    expected = 2 if connection.vendor == "postgresql" else 1
    downs = [record for record in caplog.records if "the database can't be read" in record.getMessage()]
    ups = [record for record in caplog.records if "the database is back" in record.getMessage()]
    assert (len(downs), len(ups)) == (expected, expected)


def test_nothing_is_loaded_where_neither_database_nor_file_is(tmp_path: Path) -> None:
    subscriber = make_subscriber(tmp_path, lambda snapshot: None)
    found: list[object] = []
    Outage(tmp_path).run(lambda: found.append(subscriber.load_initial())).join(30)
    assert found == [None]
    assert subscriber.revision == 0


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format":"other"}', b"\xff" * 100])
def test_a_broken_last_good_file_is_not_used(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "last-good.json").write_bytes(content)
    subscriber = make_subscriber(tmp_path, lambda snapshot: None)
    found: list[object] = []
    with caplog.at_level(logging.ERROR):
        Outage(tmp_path).run(lambda: found.append(subscriber.load_initial())).join(30)
    assert found == [None]
    assert "last-good snapshot can't be used" in caplog.text
    assert subscriber.public_error == "the database can't be read"


def test_a_broken_newest_revision_at_the_start_falls_back_to_the_last_good_file(tmp_path: Path) -> None:
    make_provider()
    first = make_subscriber(tmp_path, lambda snapshot: None).load_initial()
    assert first is not None
    make_key()
    corrupt(first.revision + 1, b"garbage")
    subscriber = make_subscriber(tmp_path, lambda snapshot: None)
    assert subscriber.load_initial() == first
    assert "does not match its digest" in subscriber.last_error


def test_the_last_good_file_is_private_and_whole_whoever_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last-good.json"
    contents = [bytes([65 + number]) * 1_000_000 for number in range(8)]
    threads = [threading.Thread(target=write_last_good, args=(path, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert path.read_bytes() in contents
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == ["last-good.json"]


def test_a_full_or_forbidden_disk_does_not_keep_a_revision_from_coming_into_force(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    subscriber = Subscriber(
        on_snapshot=lambda snapshot: None, last_good=tmp_path / "file" / "last-good.json", instance="worker-1"
    )
    assert subscriber.load_initial() is not None


def test_the_keyring_and_the_snapshot_s_types_load_no_django(repository: Path) -> None:
    code = "import sys, vault.keyring, tokenhub.core.snapshot; print('django' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "False"
