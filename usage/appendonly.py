"""What makes rows append-only: refusals in the ORM, and the one door through the database's own triggers. Control plane.

The triggers (migration 0002) refuse UPDATE and DELETE on the ledger, whoever asks, unless a row stands in `usage_ledgerdoor`.
`open_ledger_door` puts that row in and takes it out within one transaction, so that no other connection ever sees it.
It is for retention and for tests' tidying; nothing else may use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import models, transaction


class AppendOnly(Exception):
    """Someone tried to change or delete what is only ever added to."""


class AppendOnlyQuerySet(models.QuerySet):
    """Reads and appends; refuses everything else. Raises AppendOnly."""

    def update(self, **kwargs: Any) -> int:
        raise AppendOnly(f"{self.model._meta.verbose_name_plural} can't be changed")

    def bulk_update(self, *args: Any, **kwargs: Any) -> int:
        raise AppendOnly(f"{self.model._meta.verbose_name_plural} can't be changed")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise AppendOnly(f"{self.model._meta.verbose_name_plural} can't be deleted")


class AppendOnlyModel(models.Model):
    """A row that is written once."""

    objects = AppendOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Appends a new row. Raises AppendOnly for one that is stored already."""
        if not self._state.adding:
            raise AppendOnly(f"{self._meta.verbose_name_plural} can't be changed")
        kwargs["force_insert"] = True
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        """Raises AppendOnly."""
        raise AppendOnly(f"{self._meta.verbose_name_plural} can't be deleted")


class LedgerDoor(models.Model):
    """While a row stands here, its own transaction may change the ledger. Never committed."""

    reason = models.CharField(max_length=200)


@contextmanager
def open_ledger_door(reason: str) -> Iterator[None]:
    """One transaction in which ledger rows may be deleted by SQL (`_raw_delete`) or changed. The reason is for a debugger."""
    with transaction.atomic():
        door = LedgerDoor.objects.create(reason=reason)
        yield
        door.delete()
