"""Reports of health in the database: written where there is news, read by others while their worker lives."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from routing.health_reports import HealthTeller, Told, list_reports, prune_reports
from routing.models import HealthReport

pytestmark = pytest.mark.django_db(transaction=True)
QUIET: dict[str, Any] = {"endpoints": {}, "credentials": [], "targets": {}}
RESTING: dict[str, Any] = {
    "endpoints": {"7": {"state": "open", "rest": 20.0, "failures": 3, "in_flight": 0}},
    "credentials": [{"id": "3", "model": "9", "rest": 60.0}],
    "targets": {},
}


class Worker:
    """A worker that reports what it is told to, and keeps what it hears."""

    def __init__(self, name: str) -> None:
        self.report = QUIET
        self.heard = Told()
        self.teller = HealthTeller(name, lambda: self.report, self._take)

    def _take(self, told: Told) -> None:
        self.heard = told


def test_what_one_finds_resting_the_other_hears_and_it_not() -> None:
    one, two = Worker("one"), Worker("two")
    one.report = RESTING
    one.teller.tell()
    two.teller.tell()
    assert one.heard == Told()
    [(endpoint_id, seconds)] = two.heard.endpoints
    assert (endpoint_id, 19 < seconds <= 20) == ("7", True)
    [(credential_id, model_id, seconds)] = two.heard.credentials
    assert (credential_id, model_id, 59 < seconds <= 60) == ("3", "9", True)
    one.report = QUIET
    one.teller.tell()
    two.teller.tell()
    assert two.heard == Told()


def test_a_dead_workers_word_ends() -> None:
    one, two = Worker("one"), Worker("two")
    one.report = RESTING
    one.teller.tell()
    HealthReport.objects.update(at=timezone.now() - timedelta(seconds=16))
    two.teller.tell()
    assert two.heard == Told()
    assert list_reports() == []


def test_age_counts_against_a_rest() -> None:
    one, two = Worker("one"), Worker("two")
    one.report = {**RESTING, "credentials": []}
    one.teller.tell()
    HealthReport.objects.update(at=timezone.now() - timedelta(seconds=12))
    two.teller.tell()
    [(_, seconds)] = two.heard.endpoints
    assert 7 < seconds <= 8


def test_a_quiet_worker_writes_now_and_then() -> None:
    one = Worker("one")
    for _ in range(4):
        one.teller.tell()
    assert HealthReport.objects.count() == 0
    one.teller.tell()
    assert [report.instance for report in list_reports()] == ["one"]


def test_reports_of_workers_long_gone_go() -> None:
    one = Worker("one")
    one.report = RESTING
    one.teller.tell()
    assert prune_reports() == 0
    HealthReport.objects.update(at=timezone.now() - timedelta(minutes=10))
    assert prune_reports() == 1
