"""CPU of the drainer per ledger row: what one attempt costs from its two journal lines to its committed row.

    python -m benchmarks.drain [--postgres] [--rows 500] [--passes 20] [--rounds 5] [--steps]

A `Journal` writes attempts as the gateway does, 64 in flight; a `Drainer` carries them into a new SQLite file, or into a
Postgres server of the benchmark's own, in its loop of passes, each of which finds `--rows` more. What counts is the user and
system time of the draining thread; writing the journal is outside. The best of the rounds counts, for other work on the
machine only adds. Postgres's own CPU stands beside it. `--steps` adds a run under a sampling clock, which says where the time went.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import django

from benchmarks.accounting import cpu_seconds
from tests.fakes.temporary_postgres import TemporaryPostgres, start_postgres
from tokenhub.core.attempts import AttemptFinal, AttemptIntent
from tokenhub.core.usage import Usage
from usage.journal import Journal

IN_FLIGHT = 64
SAMPLE_SECONDS = 0.001
RATES = (("cache_read", 75_000_000), ("input", 150_000_000), ("output", 600_000_000))

STEPS = {
    "_find_owners": "find files",
    "read": "read, decode, pair",
    "_make_rows": "make rows",
    "_insert_all": "insert",
    "_save_positions": "offsets",
    "__exit__": "commit",
    "_report": "report",
}
"""What a function's time counts as, the innermost first; all other time is `other`."""


def make_usage(number: int) -> Usage:
    """As OpenAI tells it."""
    raw = {
        "prompt_tokens": 40,
        "completion_tokens": 20 + number % 80,
        "total_tokens": 60 + number % 80,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    return Usage(input=40, output=20 + number % 80, raw=raw)


def make_intent(identity: str, number: int) -> AttemptIntent:
    """What the gateway knows before dispatch."""
    return AttemptIntent(
        attempt_id=identity,
        request_id=f"req_{identity}",
        number=1,
        started_at=time.time(),
        key_id=f"{number % 50}",
        team="research",
        project="search",
        operation="chat",
        streamed=bool(number % 2),
        asked_model="fast",
        model_id="12",
        model="gpt-4o-mini",
        upstream_model="gpt-4o-mini-2026-07-18",
        provider_id="3",
        provider=f"openai-{number % 3}",
        endpoint="https://api.openai.com:443",
        credential_id="5",
        snapshot_revision=9,
        price_version="price-7",
        price_rates=RATES,
        input_estimate=75,
    )


def make_final(identity: str, number: int) -> AttemptFinal:
    """How it ended."""
    return AttemptFinal(
        attempt_id=identity,
        outcome="completed",
        ended_at=time.time(),
        usage=make_usage(number),
        cost_nanos=18_000 + number,
        status=200,
        finish_reason="stop",
        duration_ms=512 + number % 100,
        first_token_ms=120,
        relayed_events=7,
        upstream_request_id=f"req_{identity[::-1]}",
        served_model="gpt-4o-mini-2026-07-18",
    )


@dataclass
class Passes:
    """Stands in for the event that stops `Drainer.run`: at each wait it writes the next pass's attempts, until all are."""

    journal: Journal
    rows: int
    left: int
    cpu: float = 0.0
    number: int = 0
    prefix: str = field(default_factory=lambda: os.urandom(10).hex())
    open: deque[tuple[str, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        for _ in range(IN_FLIGHT):
            self._begin()
        self._write()
        self._since = time.thread_time()

    def is_set(self) -> bool:
        return self.left < 0

    def wait(self, seconds: float) -> None:
        """Called after each pass; what it does is left out of the account."""
        self.cpu += time.thread_time() - self._since
        if self.left:
            self._write()
        self.left -= 1
        self._since = time.thread_time()

    def _write(self) -> None:
        for _ in range(self.rows):
            self._begin()
            identity, number = self.open.popleft()
            self.journal.final(make_final(identity, number))

    def _begin(self) -> None:
        identity = f"{self.prefix}{self.number:08x}"
        self.journal.intent(make_intent(identity, self.number))
        self.open.append((identity, self.number))
        self.number += 1


def play(folder: Path, rows: int, passes: int) -> float:
    """One round; returns the drainer's CPU seconds per row."""
    from usage.drain import Drainer  # noqa: PLC0415 - Django must be set up before models can be imported

    journal = Journal(folder, instance="bench", min_free_bytes=0)
    drainer = Drainer(folder, instance="bench", on_drained=journal.note_drained)
    turns = Passes(journal, rows, passes - 1)
    drainer.run(turns)  # type: ignore[arg-type]
    totals = drainer.totals
    journal.close()
    drainer.close()
    shutil.rmtree(folder)
    if totals.rows != rows * passes or totals.error or totals.quarantined:
        raise RuntimeError(f"the drain went wrong: {totals}")
    return turns.cpu / totals.rows


def clear_ledger(template: Path | None) -> None:
    """An empty ledger: SQLite's file as it was after its migrations, Postgres's tables without rows."""
    from django.db import connection  # noqa: PLC0415

    if template is None:
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE usage_usagerecord, usage_journalfile")
    connection.close()
    if template is not None:
        path = Path(connection.settings_dict["NAME"])
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        shutil.copy(template, path)


class Sampler:
    """Counts by step where the process is at every tick of its own CPU time. The main thread's frames; Linux's SIGPROF."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Sampler:
        signal.signal(signal.SIGPROF, self._note)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        step = "other"
        while frame is not None:
            name = frame.f_code.co_name
            if name == "_write" and frame.f_code.co_filename == __file__:
                return
            if step == "other":
                step = STEPS.get(name, step)
            frame = frame.f_back
        self.counts[step] += 1


def prepare(folder: Path, postgres: bool) -> tuple[Path | None, TemporaryPostgres | None]:
    """Django over a migrated database: the SQLite file's copy to begin from, or the server."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tokenhub.settings"
    os.environ["TOKENHUB_DATA_DIR"] = str(folder / "data")
    server = start_postgres(folder / "postgres") if postgres else None
    os.environ["TOKENHUB_DATABASE_URL"] = server.url if server is not None else ""
    django.setup()
    from django.core.management import call_command  # noqa: PLC0415
    from django.db import connection  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    path = connection.settings_dict["NAME"]
    connection.close()
    if server is not None:
        return None, server
    shutil.copy(path, folder / "template.sqlite3")
    return folder / "template.sqlite3", None


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """All rounds, printed."""
    template, server = prepare(folder, arguments.postgres)
    kind = "Postgres" if server is not None else "SQLite"
    print(f"{platform.platform()}, Python {platform.python_version()}, {kind}; load {os.getloadavg()[0]:.1f}")
    done = arguments.rows * arguments.passes
    try:
        found = []
        for turn in range(arguments.rounds):
            clear_ledger(template)
            before = cpu_seconds(server.process.pid if server is not None else 0).total
            found.append(play(folder / f"journal-{turn}", arguments.rows, arguments.passes) * 1e6)
            after = cpu_seconds(server.process.pid if server is not None else 0).total
            beside = f", the server {(after - before) / done * 1e6:.0f}" if server is not None else ""
            print(f"round {turn + 1}: {found[-1]:.1f} us a row{beside}")
        print(f"best: {min(found):.1f} us a row, {arguments.rows} rows a pass, {arguments.passes} passes")
        if arguments.steps:
            clear_ledger(template)
            with Sampler() as sampler:
                play(folder / "journal-steps", arguments.rows, arguments.passes)
            for step, count in sampler.counts.most_common():
                print(f"  {step:20} {100 * count / sampler.counts.total():5.1f} %")
    finally:
        if server is not None:
            from django.db import connection  # noqa: PLC0415

            connection.close()
            connection.close_pool()
            server.stop()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drain", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--postgres", action="store_true", help="a Postgres server of its own instead of SQLite"
    )
    parser.add_argument("--rows", type=int, default=500, help="attempts that each pass finds")
    parser.add_argument("--passes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", action="store_true", help="also says where the time goes")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tokenhub-bench-drain-"))
    try:
        measure(arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
