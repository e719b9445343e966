"""Looks at a page as it stands in the browser: what axe finds in both themes, what sticks out, what the console says."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from playwright.sync_api import Page

from tests.e2e.npm import install_packages

PACKAGES = Path(__file__).parent / "axe"
GRAVE = ("serious", "critical")
ALL_RULES = "axe.run(WHERE, {resultTypes: ['violations']})"
COLOURS = "axe.run(WHERE, {runOnly: ['color-contrast'], resultTypes: ['violations']})"
"""Only colours differ between the themes."""

FRAME = "#nav-sidebar"
"""The menu, the same on every page, and the most of many."""

SHOWN = """
new Promise(done => {
  const look = () => document.documentElement.hasAttribute('x-cloak')
    ? requestAnimationFrame(look) : document.fonts.ready.then(() => requestAnimationFrame(done));
  look();
})
"""


def listen(page: Page) -> list[str]:
    """What the browser's console complains of from now on."""
    heard: list[str] = []
    page.on("console", lambda said: heard.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: heard.append(str(error)))
    return heard


def settle(page: Page) -> None:
    """Waits until the loaded page is shown: its scripts have run, and its fonts are there."""
    page.wait_for_load_state("load")
    page.evaluate(f"{SHOWN}.then(() => null)")


def overflow_of(page: Page) -> int:
    """How many pixels the page sticks out at the side."""
    wide: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wide


def look(page: Page, *, frame: bool = True) -> list[str]:
    """What is grave about the page in either theme, and whether it sticks out. Leaves it dark.

    Without `frame` the menu is left out, which somebody has looked at on another page.
    """
    settle(page)
    where = "document" if frame else f"{{exclude: [['{FRAME}']]}}"
    wide = overflow_of(page)
    # The content security policy allows no script of ours; the debugger's protocol is not bound by it.
    page.evaluate(_read_axe())
    found = list(_list_grave(page, ALL_RULES.replace("WHERE", where)))
    page.evaluate("document.documentElement.classList.add('dark', 'dark-mode')")
    found += [f"dark: {text}" for text in _list_grave(page, COLOURS.replace("WHERE", where))]
    return [*found, *([f"sticks out by {wide} pixels"] if wide > 0 else [])]


@cache
def _read_axe() -> str:
    return (install_packages(PACKAGES) / "node_modules/axe-core/axe.min.js").read_text()


def _list_grave(page: Page, script: str) -> Iterator[str]:
    """Each serious or critical finding as `rule: element`."""
    for finding in page.evaluate(script)["violations"]:
        if finding["impact"] in GRAVE:
            yield from (f"{finding['id']}: {node['html'][:200]}" for node in finding["nodes"])
