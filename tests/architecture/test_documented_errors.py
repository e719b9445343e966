"""docs/errors.md names every code that a caller or an operator can meet, and none that there is not."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.sources import list_sources
from tokenhub.core.errors import TokenhubError

ROOMS = (
    "access",
    "console",
    "gateway",
    "providers",
    "routing",
    "signin",
    "snapshots",
    "tokenhub",
    "usage",
    "vault",
)
NOT_IMPORTED = re.compile(r"\.migrations\b|\.asgi$|\.__main__$|^tokenhub\.settings$|\.management\b")
_CODE = re.compile(r"`([a-z][a-z0-9_]+)`")
NO_CODES = frozenset(
    {"deadline_connect", "deadline_first_event", "deadline_between_events", "deadline_total"}
)
"""Made of two parts in the sources: `deadline_` and which one."""


def list_errors(kind: type[TokenhubError] = TokenhubError) -> Iterator[type[TokenhubError]]:
    """The whole tree below TokenhubError."""
    for below in kind.__subclasses__():
        if not below.__module__.startswith("tests"):
            yield below
            yield from list_errors(below)


def list_codes() -> set[str]:
    """Codes of classes, and those that are given where an error is raised."""
    for room in ROOMS:
        package = importlib.import_module(room)
        for found in pkgutil.walk_packages(package.__path__, f"{room}."):
            if not NOT_IMPORTED.search(found.name):
                importlib.import_module(found.name)
    codes = {error.code for error in list_errors()}
    for source in list_sources():
        if source.path.parts[:2] in (("providers", "simulation"), ("providers", "mock")):
            continue  # They play vendors, and say vendors' codes.
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call):
                codes |= {
                    word.value.value
                    for word in node.keywords
                    if word.arg == "code"
                    and isinstance(word.value, ast.Constant)
                    and isinstance(word.value.value, str)
                    and "_" in word.value.value
                }
    return codes


def test_every_code_is_documented_and_every_documented_code_exists(repository: Path) -> None:
    told = set(_CODE.findall((repository / "docs" / "errors.md").read_text()))
    codes = list_codes()
    assert sorted(codes - told) == []
    texts = {
        node.value
        for source in list_sources()
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert sorted({word for word in told if "_" in word} - codes - texts - NO_CODES) == []
