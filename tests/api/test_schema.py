"""The OpenAPI document: the same for all who ask, also at the same time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIRequestFactory, force_authenticate

from tokenhub.control.urls import SchemaView


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.00001)
    yield
    sys.setswitchinterval(before)


def a_document(_: int = 0) -> Any:
    request = APIRequestFactory().get("/admin/v1/schema")
    force_authenticate(request, User(username="someone", is_staff=True))
    return SchemaView.as_view()(request).data


def test_documents_made_at_the_same_time_are_the_same(eager_threads: None) -> None:
    alone = a_document()
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(a_document, range(12)))
    assert all(document == alone for document in together)
