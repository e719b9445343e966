"""A database connection of its own for a background thread, outside the pool: LISTEN stays, nothing waits. Control plane."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.utils import load_backend

_POSTGRES_BOUNDS = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
}
"""Seconds, but for `tcp_user_timeout` in milliseconds: how soon a server that vanished is noticed."""


@contextmanager
def own_connection() -> Iterator[Any]:
    """Within, this thread's default connection is its own, kept open between queries; closed at the end.

    The pool hands out connections after an outage only when its growing pauses between attempts are over, and takes
    10 s to say that it has none; a connection of one's own tries when it is asked to. A thread that stands in a
    transaction already keeps the connection which has it.
    """
    before = connections[DEFAULT_DB_ALIAS]
    if before.in_atomic_block or (before.vendor == "sqlite" and before.is_in_memory_db()):
        yield before
        return
    settings = copy.deepcopy(before.settings_dict)
    settings["CONN_MAX_AGE"] = None
    if before.vendor == "postgresql":
        settings["OPTIONS"] = {**_POSTGRES_BOUNDS, **settings["OPTIONS"]}
        settings["OPTIONS"].pop("pool", None)
    own = load_backend(settings["ENGINE"]).DatabaseWrapper(settings, DEFAULT_DB_ALIAS)
    connections[DEFAULT_DB_ALIAS] = own
    try:
        yield own
    finally:
        own.close()
        connections[DEFAULT_DB_ALIAS] = before
