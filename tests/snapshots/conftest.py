"""Puts SQLite's test database into a file: in memory, two threads of one process can't wait for each other's write."""

from __future__ import annotations

from django.conf import settings
from django.db import connections

if connections["default"].vendor == "sqlite":
    connections["default"].settings_dict["TEST"]["NAME"] = str(settings.TOKENHUB.data_dir / "tests.sqlite3")
