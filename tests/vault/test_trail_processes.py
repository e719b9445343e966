"""The audit trail under several writers at once: one order, no gap, no deadlock."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import pytest
from django.db import connection, transaction

from access.actions import create_team, update_team
from access.models import Team
from tests.snapshots.cast import OPERATOR
from vault.models import AuditEntry
from vault.trail import verify

pytestmark = pytest.mark.django_db(transaction=True)

WRITERS = 3
CHANGES = 30
KEPT = WRITERS * (CHANGES - CHANGES // 3)


def make_teams(*slugs: str) -> list[Team]:
    return [create_team(OPERATOR, name=slug, slug=slug) for slug in slugs]


def share_database(folder: Path) -> str:
    """The test's database as other processes reach it; on SQLite a copy in a file, since the test's own is in memory."""
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        path = folder / "shared.sqlite3"
        copy = sqlite3.connect(path)
        connection.connection.backup(copy)
        copy.close()
        return f"sqlite:///{path}"
    settings = connection.settings_dict
    return f"postgres://{quote(settings['USER'], safe='')}@{settings['HOST']}:{settings['PORT']}/{settings['NAME']}"


def test_processes_that_write_at_once_leave_one_chain_without_a_gap(tmp_path: Path) -> None:
    slugs = [f"writer-{number}" for number in range(WRITERS)]
    make_teams(*slugs)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENHUB_")}
    environment |= {
        "TOKENHUB_DATABASE_URL": share_database(tmp_path),
        "TOKENHUB_DATA_DIR": str(tmp_path / "data"),
    }
    environment["TOKENHUB_LOG_LEVEL"] = "error"
    pipe = subprocess.PIPE

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, *arguments]
        return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    writers = [start("-m", "tests.vault.trail_process", slug, str(CHANGES)) for slug in slugs]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n", writer.communicate(timeout=30)[1]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        errors = writer.communicate(timeout=120)[1]
        assert writer.returncode == 0, errors
    said, errors = start("manage.py", "audit", "verify").communicate(timeout=60)
    assert f"{WRITERS + KEPT} entries, unbroken" in said, errors
    listed, _ = start("manage.py", "audit", "export", "--format", "csv").communicate(timeout=60)
    actors = [line.split(",")[2] for line in listed.splitlines()[1 + WRITERS :]]
    assert {actor: actors.count(actor) for actor in slugs} == dict.fromkeys(slugs, KEPT // WRITERS)
    # They really wrote by turns, not one after the other.
    assert sum(one != two for one, two in pairwise(actors)) > WRITERS


def in_threads(works: list[Callable[[], None]]) -> None:
    """Runs all at once, each with a connection of its own. Raises the first error."""
    if connection.vendor == "sqlite":
        pytest.skip("the tests' SQLite is in memory and has one connection; processes are tested above")

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(run, work) for work in works]:
            done.result(timeout=60)


def test_threads_that_write_at_once_leave_one_chain_without_a_gap() -> None:
    teams = make_teams("a", "b", "c", "d")

    def write(team: Team) -> Callable[[], None]:
        def work() -> None:
            for number in range(20):
                update_team(OPERATOR, team, name=f"{team.slug} {number}")

        return work

    in_threads([write(team) for team in teams])
    assert AuditEntry.objects.count() == 4 + 4 * 20
    assert verify().broken is None


def test_transactions_with_several_changes_in_opposite_orders_don_t_block_each_other() -> None:
    first, second = make_teams("first", "second")
    barrier = threading.Barrier(2)

    def write(*teams: Team) -> Callable[[], None]:
        def work() -> None:
            barrier.wait(20)
            for number in range(15):
                with transaction.atomic():
                    for team in teams:
                        update_team(OPERATOR, team, name=f"{teams[0].slug} {number}")

        return work

    in_threads([write(first, second), write(second, first)])
    assert AuditEntry.objects.count() == 2 + 2 * 2 * 15
    assert verify().broken is None
