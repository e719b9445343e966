"""The shape of files and functions: short, named, and saying what they are for."""

from __future__ import annotations

import ast
import re

from tests.architecture.sources import ROOT, list_sources

MAX_FILE_LINES = 500
MAX_TEST_FILE_LINES = 700
"""Tests carry whole payloads, so that what goes in and what comes out stand side by side."""
MAX_FUNCTION_LINES = 60
FORBIDDEN_NAMES = {
    "utils",
    "util",
    "helpers",
    "helper",
    "common",
    "services",
    "managers",
    "misc",
    "stuff",
    "tools",
}
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError|coming soon)\b", re.IGNORECASE)
PLACES = re.compile(r"(?<![\w.])/(?:work|root)/|/home/\w+/")


def _length(path_text: str) -> int:
    return path_text.count("\n") + 1


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    long = {
        str(source.path): lines
        for source in list_sources(tests=True)
        if (lines := _length((ROOT / source.path).read_text()))
        > (MAX_TEST_FILE_LINES if source.path.parts[0] == "tests" else MAX_FILE_LINES)
    }
    assert long == {}


def test_no_function_is_longer_than_sixty_lines() -> None:
    long = {}
    for source in list_sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long[f"{source.path}:{node.lineno} {node.name}"] = lines
    assert long == {}


def test_every_file_says_what_it_owns() -> None:
    silent = [
        str(source.path)
        for source in list_sources(tests=True)
        if source.tree.body and not ast.get_docstring(source.tree)
    ]
    assert silent == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    vague = [
        str(source.path)
        for source in list_sources(tests=True)
        if FORBIDDEN_NAMES & {part.strip("_") for part in source.path.with_suffix("").parts}
    ]
    assert vague == []


def test_package_files_hold_nothing_but_names() -> None:
    """A package's `__init__` may say what it is and pass names on; code in it would run on every import below."""
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    busy = [
        f"{source.path}:{node.lineno}"
        for source in list_sources(tests=True)
        if source.path.name == "__init__.py"
        for node in source.tree.body
        if not isinstance(node, allowed)
    ]
    assert busy == []


def test_imports_stand_at_the_top() -> None:
    hidden = []
    for source in list_sources():
        if source.path.name == "apps.py":
            continue  # `ready()` is the first moment at which models may be imported
        for function in ast.walk(source.tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden += [
                    f"{source.path}:{node.lineno}"
                    for node in ast.walk(function)
                    if isinstance(node, ast.Import | ast.ImportFrom)
                ]
    assert hidden == []


def test_nothing_is_left_unfinished_and_no_machine_is_named() -> None:
    found = []
    for source in list_sources():
        for number, line in enumerate((ROOT / source.path).read_text().splitlines(), start=1):
            if UNFINISHED.search(line) or PLACES.search(line):
                found.append(f"{source.path}:{number}: {line.strip()}")
    assert found == []


def test_tests_patch_nothing() -> None:
    patched = []
    for source in list_sources(tests=True):
        for node in ast.walk(source.tree):
            name = (
                node.attr
                if isinstance(node, ast.Attribute)
                else node.id
                if isinstance(node, ast.Name)
                else ""
            )
            owner = (
                node.value.id if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else ""
            )
            if name in {"MagicMock", "AsyncMock"} or (owner, name) in {
                ("mock", "patch"),
                ("monkeypatch", "setattr"),
            }:
                patched.append(f"{source.path}:{node.lineno}")
    assert patched == []
