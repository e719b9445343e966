"""Fixtures of the console's tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from providers.models import Endpoint
from snapshots.models import ConfigRevision
from tests.console.cast import NOON, Cast, a_cast, a_decision, a_person, a_worker, an_attempt, sample_ids
from usage.appendonly import open_ledger_door
from usage.models import Price, UsageRecord


@pytest.fixture
def cast(db: None) -> Cast:
    """One of everything, an attempt and a worker with it."""
    made = a_cast()
    an_attempt(1)
    a_decision(1)
    a_worker(1)
    Group.objects.create(name="finance")
    return made


@pytest.fixture
def operator(cast: Cast) -> Client:
    """A browser of someone with every permission who is no superuser."""
    client = Client()
    client.force_login(a_person("operator"))
    return client


@pytest.fixture
def superuser(cast: Cast) -> Client:
    """A superuser's browser."""
    client = Client()
    client.force_login(a_person("superuser"))
    return client


@pytest.fixture
def ids(cast: Cast) -> dict[str, str]:
    """An existing id for each model, a revision 1 among them."""
    if not ConfigRevision.objects.filter(revision=1).exists():
        ConfigRevision.objects.create(revision=1, created_at=NOON, sha256="", content_sha256="")
    a_person("viewer")
    return {**sample_ids(), "providers.endpoint": str(Endpoint.objects.values_list("pk", flat=True).get())}


@pytest.fixture
def session(transactional_db: None) -> Iterator[str]:
    """A superuser's session, on an installation with one of everything, whose ledger is taken out through its door."""
    a_cast()
    an_attempt(1)
    a_decision(1)
    a_worker(1, error='fails <b x-data="x">')
    client = Client()
    client.force_login(a_person("superuser"))
    yield str(client.cookies["sessionid"].value)
    gc.collect()  # the live server's threads leave their connections to the collector: here, where it is expected
    with open_ledger_door("a test is over"):
        UsageRecord.objects.all()._raw_delete("default")
        Price.objects.all()._raw_delete("default")
