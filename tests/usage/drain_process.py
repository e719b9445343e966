"""A process that drains a journal directory: `python -m tests.usage.drain_process DIRECTORY [crash|run]`.

It says `ready`, waits for a line on standard input where there is one, drains, and prints its totals as JSON. With `crash` it
dies by SIGKILL at the first file that it should delete: after the commit, before the deletion. With `run` it drains on a
thread, as a worker does, until standard input ends, and logs to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")
django.setup()

from django.db import connection  # noqa: E402

from usage.drain import Drainer  # noqa: E402 - Django must be set up before models can be imported


def _leave_database() -> None:
    """A pool that nobody closes keeps its process for twenty seconds after the end."""
    connection.close()
    if connection.vendor == "postgresql":
        connection.close_pool()


def _crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(directory: Path) -> int:
    """Drains on a thread until standard input ends."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    drainer = Drainer(directory, instance="drainer", interval=0.05)
    stop = threading.Event()
    thread = threading.Thread(target=drainer.run, args=(stop,))
    thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    stop.set()
    thread.join(60)
    drainer.close()
    print(json.dumps(asdict(drainer.totals)))
    return 0


def main(directory: Path, crash: bool) -> int:
    """Drains until nothing is left in reach, for at most a minute."""
    print("ready", flush=True)
    sys.stdin.readline()
    drainer = Drainer(
        directory, instance="drainer", batch=20, interval=0.02, remove=_crash if crash else os.unlink
    )
    empty = drainer.drain_until_empty(60)
    drainer.close()
    print(json.dumps(asdict(drainer.totals)))
    return 0 if empty else 1


if __name__ == "__main__":
    target = Path(sys.argv[1])
    status = run(target) if "run" in sys.argv[2:] else main(target, "crash" in sys.argv[2:])
    _leave_database()
    sys.exit(status)
