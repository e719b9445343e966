"""`manage.py serve`: runs the production server with the settings. Both planes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandParser
from django.db import connections

from tokenhub.process import harden_process
from tokenhub.server import build_config, leave_on_signals, run_server


class Command(BaseCommand):
    """Serves until SIGTERM."""

    help = "Serves /v1 and the admin on TOKENHUB_HOST:TOKENHUB_PORT with TOKENHUB_WORKERS processes."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds `--bootstrap`."""
        parser.add_argument(
            "--bootstrap", action="store_true", help="run `bootstrap` first, as the container does"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Returns after a clean end."""
        # The first process of a container ignores SIGTERM unless it says otherwise.
        leave_on_signals()
        if not settings.TOKENHUB.debug:
            harden_process()
        if options["bootstrap"]:
            call_command("bootstrap", stdout=self.stdout)
            # The workers are started as fresh processes; this one must not hold connections that nobody uses.
            connections.close_all()
        if settings.TOKENHUB.workers > 1:
            _share_metrics(settings.TOKENHUB.data_dir / "metrics-django")
        run_server(build_config(settings.TOKENHUB))


def _share_metrics(folder: Path) -> None:
    """Lets prometheus_client add up the counters of all workers; files of an earlier run would count twice."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
