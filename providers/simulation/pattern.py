"""Strings that match a regular expression, for schemas with `pattern`. Data plane, pure.

Covers what schemas use: literals, classes, groups, alternatives, repeats, anchors. Anything else
(look-around, back-references) gives None, and the caller falls back to plain text.
"""

import re
from collections.abc import Callable, Iterable
from re import _parser as parser  # type: ignore[attr-defined]  # the only regex parser in the standard library
from typing import Any

from .dice import Dice

_CATEGORY = {
    "CATEGORY_DIGIT": "0123456789",
    "CATEGORY_WORD": "abcxyz0189_",
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_DIGIT": "abcxyz",
    "CATEGORY_NOT_WORD": "-. ",
    "CATEGORY_NOT_SPACE": "abcxyz019",
}
_PRINTABLE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_- .,:;"
_REPEAT_SLACK = 3


class _Unsupported(Exception):
    """The expression uses something that this generator does not know."""


def matching(pattern: str, dice: Dice) -> str | None:
    """A string in which `re.search(pattern)` finds a match, or None when none was found."""
    try:
        text = "".join(_sequence(parser.parse(pattern), dice))
    except (_Unsupported, re.error, RecursionError, OverflowError):
        return None
    return text if re.search(pattern, text) else None


def _sequence(items: Iterable[tuple[Any, Any]], dice: Dice) -> list[str]:
    return [_item(str(name), value, dice) for name, value in items]


def _item(name: str, value: Any, dice: Dice) -> str:
    handler = _HANDLERS.get(name)
    if handler is None:
        raise _Unsupported(name)
    return handler(value, dice)


def _repeat(value: Any, dice: Dice) -> str:
    least, most, body = value
    count = dice.between(least, min(int(most), least + _REPEAT_SLACK))
    return "".join("".join(_sequence(body, dice)) for _ in range(count))


def _group(value: Any, dice: Dice) -> str:
    return "".join(_sequence(value[-1], dice))


def _branch(value: Any, dice: Dice) -> str:
    return "".join(_sequence(dice.pick(value[1]), dice))


def _class(value: Any, dice: Dice) -> str:
    members = [(str(name), item) for name, item in value]
    if members[0][0] == "NEGATE":
        banned = set("".join(_members(name, item) for name, item in members[1:]))
        return dice.pick([letter for letter in _PRINTABLE if letter not in banned] or ["\u00e9"])
    return dice.pick("".join(_members(name, item) for name, item in members))


def _members(name: str, item: Any) -> str:
    if name == "LITERAL":
        return chr(item)
    if name == "RANGE":
        return "".join(map(chr, range(item[0], min(item[1], item[0] + 127) + 1)))
    if name == "CATEGORY":
        return _CATEGORY[str(item)]
    raise _Unsupported(name)


_HANDLERS: dict[str, Callable[[Any, Dice], str]] = {
    "LITERAL": lambda value, dice: chr(value),
    "NOT_LITERAL": lambda value, dice: "a" if value != ord("a") else "b",
    "ANY": lambda value, dice: dice.pick("abcxyz019"),
    "AT": lambda value, dice: "",
    "IN": _class,
    "CATEGORY": lambda value, dice: dice.pick(_CATEGORY[str(value)]),
    "BRANCH": _branch,
    "SUBPATTERN": _group,
    "MAX_REPEAT": _repeat,
    "MIN_REPEAT": _repeat,
}
