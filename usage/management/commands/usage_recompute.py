"""`usage_recompute`: checks every row's cost against its own figures; exit 1 on any difference. Control plane."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.dateparse import parse_date, parse_datetime

from tokenhub.core.money import usd_from_nanos
from usage.recompute import Recomputation, find_differences


class Command(BaseCommand):
    """Prices the ledger again."""

    help = "Prices every ledger row again from its own figures and rates; prints differences and exits 1 if there are any."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds `--since`."""
        parser.add_argument(
            "--since", help="date or ISO time (UTC without a zone) of the first attempt; default: all"
        )

    def handle(self, *args: Any, since: str | None, **options: Any) -> None:
        """Raises CommandError (exit 1) after printing every difference."""
        seen, wrong = Recomputation(), 0
        for item in find_differences(_parse(since), seen=seen):
            wrong += 1
            recorded = "unpriced" if item.recorded is None else f"{item.recorded} n$"
            recomputed = "unpriced" if item.recomputed is None else f"{item.recomputed} n$"
            self.stdout.write(f"{item.attempt_id}: recorded {recorded}, its figures give {recomputed}")
        if wrong:
            raise CommandError(f"{wrong} of {seen.rows} rows differ", returncode=1)
        self.stdout.write(f"{seen.rows} rows, {usd_from_nanos(seen.cost_nanos)} USD: every cost reproduced")


def _parse(text: str | None) -> datetime | None:
    """Raises CommandError for what is neither a date nor a time."""
    if text is None:
        return None
    try:
        day = parse_date(text)
        moment = datetime(day.year, day.month, day.day) if day else parse_datetime(text)  # noqa: DTZ001 - zone below
    except ValueError as error:
        raise CommandError(f"--since {text}: {error}") from error
    if moment is None:
        raise CommandError(f"--since {text}: neither a date (2026-01-31) nor a time (2026-01-31T12:00:00Z)")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
