"""`manage.py roles`: which roles are missing or lack what this version gives them; `--apply` adds it. Control plane."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from console.roles import ensure_roles, list_differences
from tokenhub.control.actors import Actor


class Command(BaseCommand):
    """Compares the roles with those of this version. Nothing is ever taken from a role."""

    help = "Shows what the installation's roles lack; exit 1 if they lack something. --apply adds it, and takes nothing away."

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds `--apply`."""
        parser.add_argument("--apply", action="store_true", help="add what is missing")

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError (exit 1) where something is missing and was not added."""
        if options["apply"]:
            for line in ensure_roles(Actor.command("roles"), widen=True) or ["nothing is missing"]:
                self.stdout.write(line)
            return
        differences = list_differences()
        for difference in differences:
            state = "is missing" if difference.missing else f"lacks {', '.join(difference.lacks)}"
            self.stdout.write(f"role {difference.name} {state}")
        if differences:
            raise CommandError("--apply adds it", returncode=1)
        self.stdout.write("nothing is missing")
