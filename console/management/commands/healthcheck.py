"""`manage.py healthcheck`: asks the server on this machine whether it lives. Control plane; for containers."""

from __future__ import annotations

import http.client
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is bound, not bound here


class Command(BaseCommand):
    """Exits with 0 if the server answers 200, else with 1."""

    help = "Asks /healthz (or /readyz with --ready) of the server on this machine; exits with 1 unless it is well."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds `--ready` and `--timeout`."""
        parser.add_argument("--ready", action="store_true", help="ask /readyz instead of /healthz")
        parser.add_argument("--timeout", type=float, default=3.0, help="seconds (3)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Asks once."""
        host = _EVERYWHERE.get(settings.TOKENHUB.host, settings.TOKENHUB.host)
        path = "/readyz" if options["ready"] else "/healthz"
        connection = http.client.HTTPConnection(host, settings.TOKENHUB.port, timeout=options["timeout"])
        try:
            connection.request("GET", path)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            self.stderr.write(f"{path}: {type(error).__name__}")
            sys.exit(1)
        finally:
            connection.close()
        if status != 200:
            self.stderr.write(f"{path}: {status}")
            sys.exit(1)
