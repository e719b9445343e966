"""Tells the other workers' agents to look at the vault now, instead of at their next poll. Postgres only. Control plane."""

from __future__ import annotations

from django.db import connection

CHANNEL = "tokenhub_vault"
"""The Postgres channel. What it says has no payload, so that nobody could learn or do anything by it."""


def tell_workers() -> None:
    """Comes through when the transaction commits; on SQLite nothing happens, and the next poll finds what changed."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"NOTIFY {CHANNEL}")
