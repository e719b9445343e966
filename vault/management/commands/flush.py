"""Django's `flush`, which empties the whole database, the audit trail with it. Control plane."""

from __future__ import annotations

from typing import Any

from django.core.management.commands.flush import Command as FlushCommand
from django.db import connections

from vault.triggers import lifted


class Command(FlushCommand):
    """Empties every table. The audit trail's triggers would refuse; they are lifted meanwhile."""

    def handle(self, **options: Any) -> None:
        """Flushes the database that `--database` names."""
        with lifted(connections[options["database"]]):
            super().handle(**options)
