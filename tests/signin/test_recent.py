"""Recent authentication as a decorator and a mixin, without any page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.messages.storage.base import BaseStorage
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.utils import timezone

from signin.recent import RECENT, is_recent, recently_confirmed
from signin.sessions import CONFIRMED

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class KeptInHand(BaseStorage):
    """Messages that nobody stores."""

    def _get(self, *args: Any, **kwargs: Any) -> Any:
        return [], True

    def _store(self, messages: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        return []


def a_request(method: str, confirmed: timedelta | None) -> HttpRequest:
    request: Any = getattr(RequestFactory(), method)("/grave/?x=1")
    request.session = {} if confirmed is None else {CONFIRMED: (timezone.now() - confirmed).timestamp()}
    request._messages = KeptInHand(request)
    return request


@recently_confirmed
def grave(request: HttpRequest, word: str) -> HttpResponse:
    """A function."""
    return HttpResponse(word)


class Pages:
    """A method of something else."""

    @recently_confirmed
    def grave(self, request: HttpRequest, word: str) -> HttpResponse:
        return HttpResponse(word)


VIEWS = [grave, Pages().grave]


@pytest.mark.parametrize(
    ("ago", "recent"),
    [
        (timedelta(0), True),
        (RECENT - timedelta(seconds=1), True),
        (RECENT, False),
        (timedelta(seconds=-1), False),
    ],
)
def test_five_minutes_are_recent(ago: timedelta, recent: bool) -> None:
    assert is_recent({CONFIRMED: (NOON - ago).timestamp()}, NOON) is recent


def test_a_session_that_proved_nothing_is_not_recent() -> None:
    assert not is_recent({}, NOON)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_recent_proof_lets_through(view: Any, method: str) -> None:
    assert view(a_request(method, timedelta(minutes=1)), "done").content == b"done"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("confirmed", [None, RECENT])
def test_otherwise_it_asks_first_and_comes_back(view: Any, method: str, confirmed: Any) -> None:
    request = a_request(method, confirmed)
    answer = view(request, "done")
    assert answer.status_code == 302
    assert answer["Location"] == "/admin/confirm/?next=%2Fgrave%2F%3Fx%3D1"
    said = [str(message) for message in request._messages._queued_messages]
    assert any("Nothing was changed" in text for text in said) is (method == "post")
