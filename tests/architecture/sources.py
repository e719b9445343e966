"""The project's own Python files, as the architecture's tests look at them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
APPS = ("access", "console", "orchestration", "providers", "routing", "signin", "snapshots", "usage", "vault")
PACKAGES = (*APPS, "gateway", "tokenhub")


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its path from the root, its dotted name, and its syntax tree."""

    path: Path
    module: str
    tree: ast.Module

    def imports(self) -> Iterator[tuple[int, str, str]]:
        """(line, module, name) of each import; name is "" for `import module`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name, "") for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = self._absolute(node)
                yield from ((node.lineno, module, alias.name) for alias in node.names)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        parts = self.module.split(".")
        base = parts if self.path.name == "__init__.py" else parts[:-1]
        base = base[: len(base) - node.level + 1]
        return ".".join([*base, node.module] if node.module else base)


@cache
def list_sources(*, tests: bool = False) -> tuple[Source, ...]:
    """Every file of the product (with `tests`: of the tests and benchmarks too), without migrations."""
    folders = [*PACKAGES, *(("tests", "benchmarks") if tests else ())]
    found = []
    for path in [
        ROOT / "manage.py",
        *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))),
    ]:
        if "migrations" in path.parts:
            continue
        relative = path.relative_to(ROOT)
        parts = relative.with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(relative, module, ast.parse(path.read_text(encoding="utf-8"), str(relative))))
    return tuple(found)
