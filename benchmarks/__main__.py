"""`python -m benchmarks`: starts everything, measures section by section, writes `benchmarks/results/<date>.md` and `.csv`."""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from benchmarks import peers
from benchmarks.heavy import measure_bodies, measure_memory
from benchmarks.report import render_run, write_csv
from benchmarks.scenarios import (
    Bench,
    measure_mixed,
    measure_open,
    measure_plain,
    measure_prompt,
    measure_start,
    measure_stream,
    measure_tools,
    measure_translated,
)
from benchmarks.subjects import Subject, make_direct, start_echo, start_nginx_proxy, start_tokenhub
from benchmarks.upstreams import Upstreams, start_upstreams
from tests.fakes.temporary_postgres import PostgresUnavailable, start_postgres

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SECTIONS: dict[str, Callable[[Bench], None]] = {
    # First what wants processes that have done nothing yet.
    "start": measure_start,
    "memory": measure_memory,
    "plain": measure_plain,
    "stream": measure_stream,
    "translated": measure_translated,
    "tools": measure_tools,
    "prompt": measure_prompt,
    "open": measure_open,
    "mixed": measure_mixed,
    "bodies": measure_bodies,
}
_DESCRIPTORS = 16384


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections: {', '.join(SECTIONS)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement (3)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of the main scenarios (2)")
    cache = os.environ.get("TOKENHUB_BENCH_PEERS", str(ROOT / "var" / "bench"))
    parser.add_argument(
        "--peers", type=Path, default=Path(cache), help="folder in which the peers are installed"
    )
    parser.add_argument("--without-peers", action="store_true", help="leaves LiteLLM and Portkey out")
    parser.add_argument("--without-postgres", action="store_true", help="leaves Tokenhub over Postgres out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
    given = parser.parse_args()
    given.only = given.only.split(",")
    if unknown := set(given.only) - set(SECTIONS):
        parser.error(f"--only: there is no section {', '.join(sorted(unknown))}")
    return given


def tell(line: str) -> None:
    """Progress, with the time and the machine's load."""
    print(f"[{time.strftime('%H:%M:%S')}, load {os.getloadavg()[0]:.1f}] {line}", flush=True)


@contextmanager
def _postgres(folder: Path) -> Iterator[Callable[[str], str]]:
    """A server of its own; called with a name it makes a database and gives its URL."""
    server = start_postgres(folder)

    def create(name: str) -> str:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return server.url.removesuffix("/postgres") + f"/{name}"

    try:
        yield create
    finally:
        server.stop()


def _start_subjects(
    stack: ExitStack, folder: Path, upstreams: Upstreams, given: argparse.Namespace, facts: list[str]
) -> list[Subject]:
    """Everything that is measured, one after the other; what is left out is named among the facts."""
    enter: Callable[[AbstractContextManager[Subject]], Subject] = stack.enter_context
    subjects = [enter(start_echo()), make_direct(upstreams)]
    if upstreams.mock:
        facts.append(
            "nginx is not installed: left out, and canned answers come from the slower mock provider"
        )
    else:
        subjects.append(enter(start_nginx_proxy(folder, upstreams)))
    for workers in (1, 2):
        subjects.append(enter(start_tokenhub(folder, upstreams, workers=workers, database="SQLite")))
    if given.without_postgres:
        facts.append("left out by --without-postgres: Tokenhub over Postgres")
    else:
        subjects += _start_over_postgres(stack, folder, upstreams, facts)
    if given.without_peers:
        facts.append(f"left out by --without-peers: {', '.join(peers.NAMES)}")
        return subjects
    return [*subjects, *_start_peers(stack, folder, upstreams, given.peers, facts)]


def _start_over_postgres(
    stack: ExitStack, folder: Path, upstreams: Upstreams, facts: list[str]
) -> list[Subject]:
    try:
        create = stack.enter_context(_postgres(folder / "postgres"))
    except PostgresUnavailable as error:
        facts.append(f"left out: Tokenhub over Postgres ({error})")
        return []
    facts.append("Postgres runs on the same machine with fsync off; its own CPU is not counted")
    return [
        stack.enter_context(
            start_tokenhub(
                folder,
                upstreams,
                workers=workers,
                database="Postgres",
                database_url=create(f"bench{workers}"),
            )
        )
        for workers in (1, 2)
    ]


def _start_peers(
    stack: ExitStack, folder: Path, upstreams: Upstreams, cache: Path, facts: list[str]
) -> list[Subject]:
    started = []
    for name, install, start in (
        ("LiteLLM", peers.install_litellm, peers.start_litellm),
        ("Portkey", peers.install_portkey, peers.start_portkey),
    ):
        tell(f"starting {name}; the first time installs it into {cache}")
        try:
            facts.append(f"{name} {install(cache)[1]}")
            started.append(stack.enter_context(start(cache, folder, upstreams)))
        except peers.PeerUnavailable as error:
            facts.append(f"left out: {name} ({error})")
            tell(facts[-1])
    return started


def main() -> None:
    """One run."""
    given = read_arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    began, facts = time.monotonic(), [f"load average at the start {os.getloadavg()[0]:.2f}"]
    with tempfile.TemporaryDirectory(prefix="tokenhub-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres runs as another user.
        upstreams = stack.enter_context(start_upstreams(folder))
        subjects = _start_subjects(stack, folder, upstreams, given, facts)
        tell(f"measuring: {', '.join(subject.name for subject in subjects)}")
        bench = Bench(subjects, upstreams, given.seconds, given.rounds, tell)
        for section, run in SECTIONS.items():
            if section in given.only:
                run(bench)
                facts.append(f"load average after {section} {os.getloadavg()[0]:.2f}")
    facts.append(f"took {time.monotonic() - began:.0f} s, {given.rounds} rounds of {given.seconds:g} s")
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{datetime.now(UTC):%Y-%m-%dT%H%M}.md"
    path.write_text(render_run(bench.rows, facts))
    write_csv(bench.rows, path.with_suffix(".csv"))
    tell(f"written: {path} and {path.with_suffix('.csv').name}")


if __name__ == "__main__":
    main()
