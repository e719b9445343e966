"""`usage_drain`: carries what dead processes left in a journal directory into the ledger, once. Control plane."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from usage.drain import Drainer


class Command(BaseCommand):
    """Drains a directory."""

    help = "Adopts the journal files of dead processes and settles them. Files of living processes are left to those."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the directory and `--timeout`."""
        parser.add_argument("directory", type=Path, help="the journal's directory")
        parser.add_argument("--timeout", type=float, default=60.0, help="seconds to try for (default 60)")

    def handle(self, *args: Any, directory: Path, timeout: float, **options: Any) -> None:
        """Raises CommandError (exit 1) if something is left that should have been settled."""
        if not directory.is_dir():
            raise CommandError(f"{directory} is no directory")
        drainer = Drainer(directory, instance="usage_drain")
        try:
            empty = drainer.drain_until_empty(timeout)
        finally:
            drainer.close()
        done = drainer.totals
        self.stdout.write(
            f"{done.rows} rows ({done.unsettled} unsettled), {done.quarantined} kept aside, {done.files_removed} files done"
        )
        if not empty:
            raise CommandError(f"{done.backlog_bytes} bytes are left: {done.error or 'not within the time'}")
