"""`manage.py bootstrap`: prepares an installation; safe to run before every start. Control plane."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from console.bootstrap import render_report, run_bootstrap
from tokenhub.core.errors import TokenhubError


class Command(BaseCommand):
    """Migrates, creates the first administrator and key, applies config.yaml, publishes, prints how to begin."""

    help = "Prepares the installation: schema, first administrator and key, declared configuration, first snapshot."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds `--wait`."""
        parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for the database (60)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs it; an error is one line."""
        try:
            report = run_bootstrap(settings.TOKENHUB, os.environ, wait_seconds=options["wait"])
        except TokenhubError as error:
            raise CommandError(error.message) from error
        self.stdout.write(render_report(report, settings.TOKENHUB))
