"""`manage.py audit verify` and `audit export`: checks the trail's chain, and reads the trail out. Control plane."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.dateparse import parse_date, parse_datetime

from vault.export import write_lines
from vault.models import AuditEntry
from vault.trail import Outcome, read_out, verify

PROGRESS = 100_000
"""Entries between two lines of progress."""


def parse_moment(text: str) -> datetime:
    """A date or an ISO time, in UTC without a zone. Raises ArgumentTypeError."""
    try:
        day = parse_date(text)
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC) if day else parse_datetime(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text}: {error}") from error
    if moment is None:
        raise ArgumentTypeError(f"{text}: neither a date (2026-01-31) nor a time (2026-01-31T12:00:00Z)")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_known(text: str) -> tuple[int, str]:
    """`SEQ:HASH`. Raises ArgumentTypeError."""
    seq, _, digest = text.partition(":")
    if not seq.isdecimal() or int(seq) < 1 or len(digest) != 64:
        raise ArgumentTypeError(f"{text}: not SEQ:HASH, with a hash of 64 hexadecimal digits")
    return int(seq), digest.lower()


class Command(BaseCommand):
    """Checks the audit trail, or writes it to standard output."""

    help = "verify: walks along the audit trail's hash chain; exit 1 at the first break. export: writes entries, oldest first."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the two subcommands."""
        commands = parser.add_subparsers(dest="what", required=True)
        check = commands.add_parser("verify", help="check the chain")
        check.add_argument(
            "--from", dest="start", type=int, default=1, metavar="SEQ", help="the first entry to check (1)"
        )
        check.add_argument(
            "--expect",
            type=parse_known,
            action="append",
            default=[],
            metavar="SEQ:HASH",
            help="a hash that was kept elsewhere, e.g. out of the log; may be given several times",
        )
        check.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
        export = commands.add_parser("export", help="write entries to standard output")
        export.add_argument("--format", dest="form", choices=("csv", "jsonl"), default="jsonl")
        export.add_argument(
            "--since", type=parse_moment, help="date or ISO time (UTC without a zone), included"
        )
        export.add_argument(
            "--until", type=parse_moment, help="date or ISO time (UTC without a zone), not included"
        )

    def handle(self, *args: Any, what: str, **options: Any) -> None:
        """Raises CommandError (exit 1) for a broken chain."""
        if what == "verify":
            self.verify(options["start"], dict(options["expect"]), options["json"])
        else:
            self.export(options["form"], options["since"], options["until"])

    def verify(self, start: int, known: dict[int, str], as_json: bool) -> None:
        """Prints the outcome."""
        said = 0

        def tell(done: int, total: int) -> None:
            nonlocal said
            if done - said >= PROGRESS:
                said = done
                self.stderr.write(f"… entry {done:,} of {total:,}", self.style.NOTICE)

        outcome = verify(start=max(1, start), known=known, progress=tell)
        if as_json:
            self.stdout.write(json.dumps(_as_json(outcome)))
        elif outcome.broken is None:
            self.stdout.write(
                f"{outcome.checked:,} entries, unbroken; the last is {outcome.last}:{outcome.hash}"
            )
        if outcome.broken is not None:
            raise CommandError(f"broken: {outcome.broken.text}", returncode=1)

    def export(self, form: str, since: datetime | None, until: datetime | None) -> None:
        """Streams the entries."""
        entries = AuditEntry.objects.all()
        if since is not None:
            entries = entries.filter(at__gte=since)
        if until is not None:
            entries = entries.filter(at__lt=until)
        for line in write_lines(form, read_out(entries)):
            self.stdout.write(line, ending="")


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {"ok": outcome.broken is None, **asdict(outcome)}
