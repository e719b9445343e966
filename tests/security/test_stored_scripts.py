"""What foreign servers and callers wrote is shown as text: in a real browser nothing of it runs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client
from playwright.sync_api import Page

from tests.console.browser import in_browser
from tests.console.cast import a_cast, a_person, a_worker, an_attempt
from usage.appendonly import open_ledger_door
from usage.models import Price, UsageRecord

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    # Django's live server leaves its threads' connections to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PAYLOADS = (
    "<script>window.owned=1</script><img src=x onerror=window.owned=2>",
    '"><svg onload=window.owned=3><b x-data x-init="window.owned=4">',
    "' x-init='window.owned=5' x-data='{}' autofocus onfocus='window.owned=6",
    "</script></title></textarea><script>window.owned=7</script>{{ 7*7 }}{% debug %}",
    "javascript:window.owned=8//\u202e\u0000\u2028",
)
FOREIGN = (
    "served_model",
    "upstream_request_id",
    "error_detail",
    "finish_reason",
    "asked_model",
    "upstream_model",
)


@pytest.fixture
def session(transactional_db: None) -> Iterator[str]:
    """A superuser's session on an installation whose ledger is full of payloads."""
    a_cast()
    for number, payload in enumerate(PAYLOADS):
        told = payload.replace("\0", "")
        lengths = {name: UsageRecord._meta.get_field(name).max_length for name in FOREIGN}
        fields: dict[str, Any] = {name: told[: lengths[name]] for name in FOREIGN}
        an_attempt(number, outcome="failed", error_class="transient", **fields, raw_usage={told: told})
        a_worker(number, error=told)
    client = Client()
    client.force_login(a_person("superuser"))
    yield str(client.cookies["sessionid"].value)
    with open_ledger_door("a test is over"):
        UsageRecord.objects.all()._raw_delete("default")
        Price.objects.all()._raw_delete("default")
    # The live server's threads left their connections: collected here, they are no later test's warning.
    gc.collect()


def list_paths() -> list[str]:
    """Pages that show the ledger's and the workers' texts, and pages that repeat their own address."""
    rows = UsageRecord.objects.order_by("id").values_list("pk", flat=True)
    shown = [f"/admin/usage/usagerecord/{row}/change/" for row in rows]
    repeated = [f"/admin/usage/usagerecord/?q={quote(payload)}" for payload in PAYLOADS[:2]]
    repeated += [f"/admin/?next={quote(payload)}&{quote(payload)}=1" for payload in PAYLOADS[:1]]
    return ["/admin/", "/admin/usage/usagerecord/", "/admin/snapshots/workerstatus/", *shown, *repeated]


def test_no_page_runs_what_foreign_servers_wrote(live_server: Any, session: str) -> None:
    paths = list_paths()

    def visit(page: Page) -> tuple[list[str], list[str]]:
        ran: list[str] = []
        blocked: list[str] = []
        page.on("dialog", lambda dialog: ran.append(dialog.message))
        page.on(
            "console", lambda said: blocked.append(said.text) if "Content Security" in said.text else None
        )
        for path in paths:
            answer = page.goto(path)
            assert answer is not None
            assert answer.status == 200, path
            page.wait_for_load_state("networkidle")
            if page.evaluate("window.owned") is not None:
                ran.append(path)
        return ran, blocked

    ran, blocked = in_browser(live_server.url, session, visit)
    assert ran == []
    assert blocked == [], "the policy had to stop what should not have been markup at all"


def test_the_payloads_would_run_where_nothing_escapes_them(live_server: Any, session: str) -> None:
    """Keeps the test above honest: the first payload, put into a page as markup, is what the browser complains of."""

    def visit(page: Page) -> list[str]:
        heard: list[str] = []
        page.on("console", lambda said: heard.append(said.text))
        page.goto("/admin/")
        page.evaluate("text => { document.body.insertAdjacentHTML('beforeend', text) }", PAYLOADS[0])
        page.wait_for_timeout(300)
        return [text for text in heard if "Content Security" in text]

    assert in_browser(live_server.url, session, visit)
