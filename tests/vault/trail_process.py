"""A process that writes audited changes: `python -m tests.vault.trail_process SLUG NUMBER`.

It says `ready`, waits for a line on standard input, then renames the team with that slug; every third change fails.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")
django.setup()

from django.db import connection, transaction  # noqa: E402 - Django must be set up before models can be imported

from access.actions import update_team  # noqa: E402
from access.models import Team  # noqa: E402
from tokenhub.control.actors import Actor  # noqa: E402


class Failed(Exception):
    """Ends every third change."""


def write(team: Team, actor: Actor, number: int) -> None:
    """One change; Failed for every third, after its entry was written."""
    with transaction.atomic():
        update_team(actor, team, name=f"{team.slug} {number}")
        if number % 3 == 2:
            raise Failed


def main(slug: str, numbers: int) -> None:
    """Writes as many changes."""
    team = Team.objects.get(slug=slug)
    actor = Actor.command(slug)
    connection.close()
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(numbers):
        with suppress(Failed):
            write(team, actor, number)
        time.sleep(0.02)  # SQLite gives the lock to whoever asks first: the others must get their turn
    connection.close()
    if connection.vendor == "postgresql":
        connection.close_pool()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
