"""Drives Debian's Chromium over the console and writes down what its console says. Runs in a thread of its own.

Playwright's synchronous API keeps an event loop in its thread, in which Django refuses to touch the database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from playwright.sync_api import Page, sync_playwright

from tests.console.looking import listen, overflow_of, settle

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Visit:
    """One page as the browser saw it: status, complaints of its console, pixels that stick out at the side."""

    path: str
    status: int
    complaints: tuple[str, ...]
    overflow: int


def in_browser[Result](
    base: str, session: str, work: Callable[[Page], Result], *, width: int = 1280, scheme: Any = "light"
) -> Result:
    """Runs `work` with a page that is signed in by its session cookie; `base` is the server's URL."""

    def run() -> Result:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                reduced_motion="reduce",
                base_url=base,
            )
            if session:
                context.add_cookies([{"name": "sessionid", "value": session, "url": base}])
            try:
                return work(context.new_page())
            finally:
                browser.close()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run).result(timeout=300)


def visit_all(page: Page, paths: Sequence[str]) -> list[Visit]:
    """Each page, loaded to its end."""
    heard = listen(page)
    visits = []
    for path in paths:
        heard.clear()
        answer = page.goto(path)
        settle(page)
        visits.append(Visit(path, answer.status if answer else 0, tuple(heard), overflow_of(page)))
    return visits
