"""How fast one password reaches every worker of a fleet, and a lock: `python -m benchmarks.vault_fleet`.

Real processes under load on Postgres (three instances of four workers) or SQLite (one of four): the drills' own fleet. Prints
one line of JSON, times in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from tests.e2e.vault_fleet import Load, a_fleet, p95


def measure(rounds: int, *, postgres: bool, instances: int, workers: int) -> dict[str, object]:
    """Locks and unlocks so often, and says how long it took until the last worker said so."""
    locks: list[float] = []
    unlocks: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="tokenhub-fleet-") as folder,
        a_fleet(Path(folder) / "fleet", instances=instances, workers=workers, postgres=postgres) as fleet,
        Load(fleet) as load,
    ):
        load.until(lambda: load.statuses("work-sealed")[200] > 20)
        for _ in range(rounds):
            locks.append(fleet.lock())
            time.sleep(0.3)
            unlocks.append(fleet.unlock())
            time.sleep(0.3)
        failed = sum(answer.status != 200 for answer in load.of("work-open"))
        return {
            "database": "postgres" if postgres else "sqlite",
            "workers": instances * workers,
            "rounds": rounds,
            **_summary("unlock", unlocks),
            **_summary("lock", locks),
            "requests": len(load.answers),
            "failed_requests_of_the_other_provider": failed,
        }


def _summary(name: str, values: list[float]) -> dict[str, float]:
    return {
        f"{name}_median": round(statistics.median(values), 2),
        f"{name}_p95": round(p95(values), 2),
        f"{name}_most": round(max(values), 2),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database", choices=("postgres", "sqlite"), default="postgres")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--instances", type=int, help="default: 3, on SQLite 1")
    parser.add_argument("--workers", type=int, default=4)
    given = parser.parse_args()
    postgres = given.database == "postgres"
    instances = (given.instances or 3) if postgres else 1
    print(
        json.dumps(measure(given.rounds, postgres=postgres, instances=instances, workers=given.workers)),
        flush=True,
    )


if __name__ == "__main__":
    main()
