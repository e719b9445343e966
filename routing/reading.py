"""Reads foreign JSON field by field, and tells each fault with its path, the value, the bound and the mend. Control plane; pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tokenhub.core.errors import InvalidRequest
from tokenhub.core.money import nanos_from_usd, usd_from_nanos

SHOWN_LENGTH = 80
NEAR_POOL = 5_000
MAX_AMOUNT_LENGTH = 40


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one field: its JSON path, a message, how to mend it, and whether it keeps a policy from publication."""

    path: str
    message: str
    hint: str = ""
    grave: bool = True

    def tell(self) -> str:
        """The whole of it in one line."""
        place = f"{self.path}: " if self.path else ""
        return f"{place}{self.message}{f'; {self.hint}' if self.hint else ''}"


def refuse(problems: Iterable[Problem]) -> None:
    """Raises InvalidRequest for the grave ones: the first as message and `param`, all of them in `details["fields"]`."""
    grave = [problem for problem in problems if problem.grave]
    if not grave:
        return
    fields: dict[str, list[str]] = {}
    for problem in grave:
        text = f"{problem.message}{f'; {problem.hint}' if problem.hint else ''}"
        fields.setdefault(problem.path or "document", []).append(text)
    first = grave[0]
    place = first.path or "document"
    raise InvalidRequest(
        f"{place}: {first.message}", param=place, hint=first.hint or None, details={"fields": fields}
    )


def suggest(name: str, known: Collection[str], *, what: str = "") -> str:
    """`did you mean a or b?`, or the known ones if they are few, or what to do with none of them near."""
    near = difflib.get_close_matches(name, list(known)[:NEAR_POOL], n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if known and len(known) <= 20:
        return f"there {'is' if len(known) == 1 else 'are'} {', '.join(sorted(known))}"
    return f"name {what} that exists, or create it first" if what else "leave it out"


def show(value: Any) -> str:
    """A foreign value as a message repeats it: short, and on one line."""
    try:
        text = repr(value)
    except ValueError:
        # An integer of more digits than Python writes.
        text = f"a long {type(value).__name__}"
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"


class Reader:
    """One JSON object. What is wrong in it goes into `problems`, which inner readers share; reading goes on with the default."""

    def __init__(
        self,
        value: Any,
        path: str,
        known: Sequence[str],
        *,
        problems: list[Problem] | None = None,
        what: str = "field",
    ) -> None:
        self.path = path
        self.problems: list[Problem] = [] if problems is None else problems
        self._value: dict[str, Any] = {}
        if not isinstance(value, dict):
            self._tell(path, f"{show(value)} is no object", f"give one with some of {', '.join(known)}")
            return
        for name in value:
            if name not in known:
                self.wrong(str(name), f"there is no {what} of this name", suggest(str(name), known))
        self._value = value

    def has(self, name: str) -> bool:
        """Whether the object has this field."""
        return name in self._value

    def get(self, name: str, default: Any) -> Any:
        """The field's value as it stands there."""
        return self._value.get(name, default)

    def show(self, name: str) -> str:
        """The field's value for a message."""
        return show(self._value[name]) if name in self._value else "nothing"

    def wrong(self, name: str, message: str, hint: str = "") -> None:
        """Notes a fault of one field of this object."""
        self._tell(f"{self.path}.{name}" if self.path else name, message, hint)

    def _tell(self, path: str, message: str, hint: str) -> None:
        self.problems.append(Problem(path, message, hint))

    def inner(self, name: str, known: Sequence[str], *, what: str = "field") -> Reader:
        """The object in a field; missing or null is an empty one."""
        value = self.get(name, None)
        path = f"{self.path}.{name}" if self.path else name
        return Reader({} if value is None else value, path, known, problems=self.problems, what=what)

    def inners(self, name: str, known: Sequence[str], most: int) -> Iterator[Reader]:
        """The objects of a list."""
        for index, value in enumerate(self._list(name, most)):
            path = f"{self.path}.{name}[{index}]" if self.path else f"{name}[{index}]"
            yield Reader(value, path, known, problems=self.problems)

    def mapping(self, name: str, most: int) -> dict[str, Any]:
        """An object whose names are free."""
        value = self.get(name, None)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.wrong(name, f"{self.show(name)} is no object", "give names with their values")
            return {}
        if len(value) > most:
            self.wrong(name, f"{len(value)} are too many", f"give at most {most}")
            return {}
        return value

    def names(self, name: str, rule: re.Pattern[str], kind: str, most: int) -> list[str]:
        """A list of different texts that follow `rule`; `kind` says in words what each is."""
        found: list[str] = []
        for index, item in enumerate(self._list(name, most)):
            place = f"{name}[{index}]"
            if not isinstance(item, str) or not item or rule.fullmatch(item) is None:
                self.wrong(place, f"{show(item)} is not {kind}", "correct it, or leave it out")
            elif item in found:
                self.wrong(place, f"{show(item)} stands there twice", "name it once")
            else:
                found.append(item)
        return found

    def members(self, name: str, known: Sequence[str]) -> list[str]:
        """A list of different names out of `known`."""
        found: list[str] = []
        for index, item in enumerate(self._list(name, len(known))):
            place = f"{name}[{index}]"
            if not isinstance(item, str) or item not in known:
                self.wrong(place, f"{show(item)} is none of {', '.join(known)}", suggest(str(item), known))
            elif item in found:
                self.wrong(place, f"{show(item)} stands there twice", "name it once")
            else:
                found.append(item)
        return found

    def _list(self, name: str, most: int) -> list[Any]:
        value = self.get(name, None)
        if value is None:
            return []
        if not isinstance(value, list):
            self.wrong(name, f"{self.show(name)} is no list", "give a list, [] for none")
            return []
        if len(value) > most:
            self.wrong(name, f"{len(value)} are too many", f"give at most {most}")
            return []
        return value

    def choice[Choice: str](self, name: str, known: Sequence[Choice], default: Choice) -> Choice:
        """One of the known names."""
        value = self.get(name, default)
        for one in known:
            if isinstance(value, str) and value == one:
                return one
        self.wrong(name, f"{show(value)} is none of {', '.join(known)}", suggest(str(value), known))
        return default

    def truth(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self.get(name, default)
        if not isinstance(value, bool):
            self.wrong(name, f"{show(value)} is neither true nor false", "give one of the two")
            return default
        return value

    def whole(self, name: str, default: int, low: int, high: int, unit: str) -> int:
        """A whole number from `low` to `high`."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.wrong(
                name,
                f"{show(value)} is no whole number from {low} to {high}",
                f"give {unit}, within these bounds",
            )
            return default
        return value

    def share(self, name: str, default: float) -> float:
        """A number from 0 to 1."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            self.wrong(
                name, f"{show(value)} is no number from 0 to 1", "give one within these bounds, e.g. 0.25"
            )
            return default
        return float(value)

    def usd(self, name: str, most_nanos: int) -> int:
        """USD, a decimal string or a number, as nano-dollars from 0 to `most_nanos`."""
        value = self.get(name, 0)
        nanos = None
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                # By way of its text: 0.1 as a binary fraction is no whole number of nano-dollars.
                text = str(value)
                amount = Decimal(text) if len(text) <= MAX_AMOUNT_LENGTH else None
                nanos = nanos_from_usd(amount) if amount is not None and abs(amount) < 10**12 else None
            except (ArithmeticError, ValueError):
                nanos = None
        if nanos is None or not 0 <= nanos <= most_nanos:
            self.wrong(
                name,
                f"{show(value)} is no amount of USD from 0 to {usd_from_nanos(most_nanos)}, to the nano-dollar",
                'write it as "0.05", 0 for no bound',
            )
            return 0
        return nanos
