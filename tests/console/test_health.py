"""The health board in the console and over the API: what living workers tell, the worst of their rests, in words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from providers.models import Endpoint, Model
from routing.models import HealthReport
from tests.console.cast import Cast
from vault.models import Credential

pytestmark = pytest.mark.django_db


def a_report(
    instance: str, *, rest: float = 0.0, failures: int = 0, seconds_old: float = 0.0
) -> HealthReport:
    """A worker's report of the cast's endpoint, credential and model."""
    endpoint, credential, model = Endpoint.objects.get(), Credential.objects.first(), Model.objects.first()
    assert credential is not None
    assert model is not None
    state = "open" if rest else "closed"
    report: dict[str, Any] = {
        "endpoints": {str(endpoint.pk): {"state": state, "rest": rest, "failures": failures, "in_flight": 2}},
        "credentials": [{"id": f"{credential.pk}@4", "model": str(model.pk), "rest": 40.0}] if rest else [],
        "targets": {str(model.pk): {"ttft": 0.25, "seconds_per_token": 0.02, "failure": 0.3, "in_flight": 2}},
    }
    at = timezone.now() - timedelta(seconds=seconds_old)
    return HealthReport.objects.create(instance=instance, at=at, rests=bool(rest), report=report)


def test_the_board_has_the_worst_rest_and_the_mean_figures(superuser: Client, cast: Cast) -> None:
    a_report("one")
    a_report("two", rest=12.0, failures=3)
    a_report("dead", rest=500.0, failures=9, seconds_old=60)
    board = superuser.get("/admin/v1/health").json()
    assert [worker["instance"] for worker in board["workers"]] == ["one", "two"]
    [provider] = [one for one in board["providers"] if one["models"]]
    [endpoint] = provider["endpoints"]
    assert (endpoint["state"], endpoint["failures"], endpoint["in_flight"]) == ("open", 3, 4)
    assert endpoint["workers"] == ["two"]
    assert 11 < endpoint["rest"] <= 12
    assert [len(credential["rests"]) for credential in provider["credentials"] if credential["rests"]] == [1]
    [model] = provider["models"]
    assert (model["ttft"], model["tokens_per_second"], model["failure"]) == (0.25, 50.0, 0.3)


def test_the_page_says_it_in_words(superuser: Client, cast: Cast) -> None:
    assert "No worker has told anything yet" in superuser.get("/admin/routing/health/").content.decode()
    a_report("two", rest=12.0, failures=3)
    text = superuser.get("/admin/routing/health/").content.decode()
    assert "after 3 failures in a row" in text
    assert "30 %" in text
    live = superuser.get("/admin/routing/health/?live=1").content.decode()
    assert "after 3 failures in a row" in live
    assert "<html" not in live
