"""Database work for the data plane, in threads of a pool: the connection goes back when it is done. Control plane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import Error as DatabaseError
from django.db import close_old_connections, connection


@contextmanager
def pooled(unavailable: type[Exception]) -> Iterator[None]:
    """Raises `unavailable` while the database can't be asked."""
    close_old_connections()
    try:
        yield
    except DatabaseError as error:
        raise unavailable from error
    finally:
        if not connection.in_atomic_block:
            connection.close()
