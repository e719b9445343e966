"""Sessions: what the database holds of them lets nobody in."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client

from signin.session_store import SessionStore, digest_of
from tests.signin.conftest import PASSWORD


@pytest.fixture
def browser(anna: User) -> Client:
    """A browser in which anna is signed in."""
    client = Client()
    client.post("/admin/login/?next=/admin/", {"username": "anna", "password": PASSWORD})
    return client


def is_in(key: str) -> bool:
    client = Client()
    client.cookies["sessionid"] = key
    return client.get("/admin/").status_code == 200


def test_the_row_of_a_session_does_not_let_anybody_in(browser: Client) -> None:
    key = browser.cookies["sessionid"].value
    row = Session.objects.get()
    assert key not in (row.session_key, row.session_data)
    assert is_in(key)
    assert not is_in(row.session_key)


def test_a_copy_of_somebodys_row_under_a_key_of_ones_own_is_no_session(browser: Client) -> None:
    row = Session.objects.get()
    row.session_key = digest_of("a" * 32)
    row.save(force_insert=True)
    assert not is_in("a" * 32)
    assert is_in(browser.cookies["sessionid"].value)


def test_signing_out_and_a_new_key_take_the_row_away(browser: Client) -> None:
    key = browser.cookies["sessionid"].value
    store = SessionStore(key)
    store["mark"] = 1
    store.cycle_key()
    store.save()
    assert not is_in(key)
    assert SessionStore(store.session_key)["mark"] == 1
    browser.cookies["sessionid"] = store.session_key
    browser.post("/admin/logout/")
    assert not is_in(store.session_key)
    assert not SessionStore().exists(store.session_key)


def test_a_key_that_a_browser_made_up_is_not_taken_over(db: None) -> None:
    store = SessionStore("b" * 32)
    assert dict(store.items()) == {}
    assert store.session_key is None


@pytest.mark.django_db(transaction=True)
def test_the_asynchronous_ways_find_the_same_rows() -> None:
    store = SessionStore()
    store["mark"] = 1
    store.save()
    again = SessionStore(store.session_key)
    assert async_to_sync(again.aget)("mark") == 1
    assert async_to_sync(again.aexists)(store.session_key)
    async_to_sync(again.adelete)()
    assert not Session.objects.exists()
