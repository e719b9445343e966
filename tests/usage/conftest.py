"""A ledger that tests may fill from threads and processes, and that is empty again afterwards."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection

from usage.appendonly import open_ledger_door
from usage.models import UsageRecord
from usage.rows import COLUMNS, LedgerRow


@pytest.fixture
def ledger(transactional_db: None) -> Iterator[None]:
    """A database with real transactions. The rows are taken out through the door, which the flush after it can't use."""
    yield
    with open_ledger_door("a test is over"):
        UsageRecord.objects.all()._raw_delete("default")


@dataclass(frozen=True, slots=True)
class SharedDatabase:
    """This test's database as other processes reach it."""

    url: str
    data_dir: Path

    def start_drain(self, directory: Path, *arguments: str) -> subprocess.Popen[str]:
        """A process of its own that drains a directory and prints its totals as JSON."""
        command = [sys.executable, "-m", "tests.usage.drain_process", str(directory), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENHUB_")}
        environment |= {"TOKENHUB_DATABASE_URL": self.url, "TOKENHUB_DATA_DIR": str(self.data_dir)}
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def list_outcomes(self) -> dict[str, str]:
        """Outcome by attempt, in whatever database the processes wrote to."""
        if self.url.startswith("sqlite"):
            database = sqlite3.connect(self.url.removeprefix("sqlite:///"))
            rows = database.execute("SELECT attempt_id, outcome FROM usage_usagerecord").fetchall()
            database.close()
            return dict(rows)
        return dict(UsageRecord.objects.values_list("attempt_id", "outcome"))


def make_record(row: LedgerRow, **changes: object) -> UsageRecord:
    """The model instance of a row, not stored."""
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for name in ("started_at", "ended_at"):
        values[name] = values[name] and datetime.fromisoformat(values[name]).replace(tzinfo=UTC)
    for name in ("raw_usage", "price_rates"):
        values[name] = values[name] and json.loads(values[name])
    return UsageRecord(**(values | changes))


def change_row(row: LedgerRow, **changes: object) -> LedgerRow:
    """The row with other values."""
    return tuple([changes.get(name, value) for name, value in zip(COLUMNS, row, strict=True)])


def read_totals(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a drain process printed, once it ended well."""
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    totals: dict[str, Any] = json.loads(output.splitlines()[-1])
    return totals


@pytest.fixture
def shared_database(ledger: None, tmp_path: Path) -> SharedDatabase:
    """On SQLite a copy in a file, since tests' own is in memory; on Postgres the same database."""
    connection.ensure_connection()
    if connection.vendor == "sqlite":
        path = tmp_path / "shared.sqlite3"
        copy = sqlite3.connect(path)
        connection.connection.backup(copy)
        copy.close()
        return SharedDatabase(f"sqlite:///{path}", tmp_path / "data")
    settings = connection.settings_dict
    user = quote(settings["USER"], safe="")
    url = f"postgres://{user}@{settings['HOST']}:{settings['PORT']}/{settings['NAME']}"
    return SharedDatabase(url, tmp_path / "data")
