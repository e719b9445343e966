"""Workers tell each other through the database what rests, and the console what they measure: a thread of each. Control plane.

A report is a hint: it makes other workers leave an endpoint or a credential alone sooner, and never brings one back. Without
the database each worker finds out by itself.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import Error as DatabaseError
from django.utils import timezone

from routing.models import HealthReport
from snapshots.connection import own_connection

logger = logging.getLogger(__name__)

_EVERY_SECONDS = 1.0
_QUIET_SECONDS = 5.0
"""How often a report is written in which nothing rests."""

FRESH = timedelta(seconds=15)
"""The age up to which a report tells of a living worker."""

_PRUNE_EVERY = 60
"""Passes between two looks for reports of workers long gone."""

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """What others say rests: endpoints with their seconds, credentials with model ("" = all) and seconds."""

    endpoints: tuple[tuple[str, float], ...] = ()
    credentials: tuple[tuple[str, str, float], ...] = ()


class HealthTeller:
    """Tells what `report()` gives for this instance, and hands what others tell to `take`. Both are called in this thread."""

    def __init__(self, instance: str, report: Callable[[], Report], take: Callable[[Told], None]) -> None:
        self._instance = instance
        self._report = report
        self._take = take
        self._written: Report = {}
        self._quiet_passes = 0
        self._passes = 0

    def run(self, stop: threading.Event) -> None:
        """Tells until `stop` is set, then takes the report back."""
        with own_connection() as connection:
            while not stop.wait(_EVERY_SECONDS):
                try:
                    self.tell()
                except DatabaseError as error:
                    logger.debug("health is not told: %s", type(error).__name__)
                    connection.close()
                except TimeoutError:
                    continue  # The loop is busy; it is asked again.
            with contextlib.suppress(DatabaseError):
                HealthReport.objects.filter(instance=self._instance).delete()

    def tell(self) -> None:
        """One report, where there is news, and what others tell by now. Raises DatabaseError."""
        report = self._report()
        rests = has_rests(report)
        self._quiet_passes += 1
        if rests or has_rests(self._written) or self._quiet_passes * _EVERY_SECONDS >= _QUIET_SECONDS:
            self._quiet_passes = 0
            self._written = report
            HealthReport.objects.update_or_create(
                instance=self._instance,
                defaults={"at": timezone.now(), "rests": rests, "report": report},
            )
        self._take(self.read_told())
        self._passes += 1
        if self._passes % _PRUNE_EVERY == 0:
            prune_reports()

    def read_told(self) -> Told:
        """What other living workers say rests."""
        now = timezone.now()
        rows = HealthReport.objects.filter(rests=True, at__gt=now - FRESH).exclude(instance=self._instance)
        endpoints: list[tuple[str, float]] = []
        credentials: list[tuple[str, str, float]] = []
        for row in rows:
            age = (now - row.at).total_seconds()
            for endpoint_id, told in row.report.get("endpoints", {}).items():
                if told["rest"] > age:
                    endpoints.append((endpoint_id, told["rest"] - age))
            for told in row.report.get("credentials", ()):
                if told["rest"] > age:
                    credentials.append((told["id"], told["model"], told["rest"] - age))
        return Told(tuple(endpoints), tuple(credentials))


def has_rests(report: Report) -> bool:
    """Whether anything rests in a report."""
    endpoints: Iterable[Any] = report.get("endpoints", {}).values()
    return bool(report.get("credentials")) or any(told["rest"] > 0 for told in endpoints)


def list_reports() -> list[HealthReport]:
    """The living workers' reports."""
    return list(HealthReport.objects.filter(at__gt=timezone.now() - FRESH).order_by("instance"))


def prune_reports() -> int:
    """Deletes reports of workers that are long gone; how many."""
    return HealthReport.objects.filter(at__lt=timezone.now() - 20 * FRESH).delete()[0]
