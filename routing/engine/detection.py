"""Finds what must not leave in texts: built-in patterns and operators' own. Both planes; pure.

All expressions are RE2's, whose time grows with the text alone, whatever an expression or a text is. A find may be checked
further (a card's Luhn digits, an IBAN's remainder), so that numbers that merely look like one stay; then its beginning may hold
where the whole does not, and the search goes on behind its first character.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import re2

MOST_OWN: Final = 20
LONGEST_OWN: Final = 500
_OWN_MEMORY: Final = 1 << 20
_OWN_REACH: Final = 256
_REACH: Final = 48
_LONGEST_TOKEN: Final = 4096
_LONGEST_BLOCK: Final = 65536
_OPEN_BLOCK = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A built-in pattern: what it is called by people, its expression, and what a find must pass besides (None: nothing)."""

    title: str
    expression: str
    fits: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True)
class Find:
    """One find: from which character to which, and of what label."""

    start: int
    end: int
    label: str


Span = tuple[int, int, str]
"""The bytes of a find, and its label."""


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _is_card(text: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    digits = [int(one) for one in reversed(_digits(text))]
    if not 13 <= len(digits) <= 19:
        return False
    doubled = (sum(divmod(2 * one, 10)) for one in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1


def _is_iban(text: str) -> bool:
    """ISO 13616: the remainder of 97 is 1."""
    packed = text.replace(" ", "")
    moved = packed[4:] + packed[:4]
    return 15 <= len(packed) <= 34 and int("".join(str(int(one, 36)) for one in moved)) % 97 == 1


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not address.is_unspecified


def _is_phone(text: str) -> bool:
    return 8 <= len(_digits(text)) <= 15


def _is_ssn(text: str) -> bool:
    """What the Social Security Administration never gave out is none."""
    area, group, serial = (*text.split("-"), "", "")[:3]
    return (
        area not in ("000", "666") and area < "900" and group not in ("", "00") and serial not in ("", "0000")
    )


_BLOCK: Final = r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\z)"
_TOKENS: Final = (
    r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,512}",
    r"\bth[ka]_[A-Za-z0-9_-]{16,128}",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\bgh[pousr]_[A-Za-z0-9]{30,255}",
    r"\bgithub_pat_[A-Za-z0-9_]{30,255}",
    r"\bglpat-[A-Za-z0-9_-]{20,64}",
    r"\bxox[abeprs]-[A-Za-z0-9-]{10,255}",
    r"\bAIza[0-9A-Za-z_-]{35}",
    r"\bhf_[A-Za-z0-9]{30,64}",
    r"\beyJ[A-Za-z0-9_-]{8,1000}\.[A-Za-z0-9_-]{8,1000}\.[A-Za-z0-9_-]{8,1000}",
)

PATTERNS: Final[Mapping[str, Pattern]] = MappingProxyType(
    {
        "secret": Pattern("Secret keys, tokens and private keys", "|".join((_BLOCK, *_TOKENS))),
        "email": Pattern(
            "E-mail addresses",
            r"\b[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b",
        ),
        "iban": Pattern("IBANs", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _is_iban),
        "card": Pattern("Payment cards", r"\b\d(?:[ -]?\d){12,18}\b", _is_card),
        "ssn": Pattern("US social security numbers", r"\b\d{3}-\d{2}-\d{4}\b", _is_ssn),
        "phone": Pattern(
            "Phone numbers",
            r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,6}\b|(?:\(\d{3}\) ?|\b\d{3}[ .-])\d{3}[ .-]\d{4}\b",
            _is_phone,
        ),
        "ip": Pattern(
            "IP addresses",
            r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b"
            r"|(?:\b[0-9A-Fa-f]{1,4}:|::)(?:[0-9A-Fa-f]{0,4}:){0,6}[0-9A-Fa-f]{0,4}",
            _is_address,
        ),
    }
)
"""By name, in the order in which they are preferred where two begin at the same character."""


def check_own(expression: str) -> str:
    """What is wrong with an operator's expression; "" for nothing."""
    if not 0 < len(expression) <= LONGEST_OWN:
        return f"an expression has 1 to {LONGEST_OWN} characters"
    try:
        found = _compile_own(expression).search(b"")
    except re2.error as error:
        reason = error.args[0] if error.args else "it can't be read"
        return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
    return "it matches nothing at all, and so everywhere" if found is not None else ""


class Detector:
    """Finds patterns, by name, and own expressions, by label. Raises KeyError for an unknown name, re2.error for a bad one."""

    def __init__(self, patterns: Iterable[str], own: Iterable[tuple[str, str]] = ()) -> None:
        names = set(patterns)
        unknown = names - PATTERNS.keys()
        if unknown:
            raise KeyError(*unknown)
        self._names = tuple(name for name in PATTERNS if name in names)
        self._own = tuple((label, _compile_own(expression)) for label, expression in own)
        self._built_in = [(name, _compile_built_in(name)) for name in self._names]
        self._blocks = "secret" in names
        self._reach = _OWN_REACH if self._own else _REACH

    def find(self, text: str) -> list[Find]:
        """All finds in their order; of two that overlap the one that begins first, of those the longer one."""
        return self.search(text)[0]

    def search(self, text: str) -> tuple[list[Find], list[Find]]:
        """As `find`; and all that looked like a find, whether it held or not, overlaps too."""
        data = text.encode("utf-8", "surrogatepass")
        seen: list[Span] = []
        held: list[Span] = []
        for name, expression in self._built_in:
            _search_checked(expression, name, data, seen, held)
        for label, expression in self._own:
            spans = [(one.start(), one.end(), label) for one in expression.finditer(data)]
            held += [one for one in spans if one[1] > one[0]]
        seen += held
        if not seen:
            return [], []
        places = _find_characters(text, data, seen)
        finds = _without_overlaps(held)
        return [Find(places[start], places[end], label) for start, end, label in finds], [
            Find(places[start], places[end], label) for start, end, label in seen
        ]

    def settle(self, text: str, seen: Iterable[Find]) -> int:
        """How many characters of a text's beginning no text that follows can make part of another find.

        `seen` is all that looked like a find. Tokens are held to their last space, 4,096 characters at most; private keys to their
        end.
        """
        cut = max(0, len(text) - self._reach)
        least = max(0, len(text) - _LONGEST_TOKEN)
        while cut > least and not text[cut - 1].isspace():
            cut -= 1
        if self._blocks:
            opened = list(_OPEN_BLOCK.finditer(text))
            if opened and "-----END" not in text[opened[-1].end() :]:
                cut = min(cut, max(opened[-1].start(), len(text) - _LONGEST_BLOCK))
        while straddling := [find.start for find in seen if find.start < cut < find.end]:
            cut = min(straddling)
        return cut


def _options(*, latin: bool, memory: int = 0) -> Any:
    options = re2.Options()
    options.log_errors = False
    if latin:
        options.encoding = re2.Options.Encoding.LATIN1
    if memory:
        options.max_mem = memory
    return options


def _compile_own(expression: str) -> Any:
    return re2.compile(expression.encode("utf-8", "replace"), _options(latin=False, memory=_OWN_MEMORY))


@cache
def _compile_built_in(name: str) -> Any:
    # Byte by byte: the patterns are ASCII, and a text may hold what is no UTF-8.
    return re2.compile(PATTERNS[name].expression.encode(), _options(latin=True))


def _search_checked(expression: Any, name: str, data: bytes, seen: list[Span], held: list[Span]) -> None:
    fits, position = PATTERNS[name].fits, 0
    while match := expression.search(data, position):
        start, end = match.span()
        position = end
        if fits is not None:
            text = match.group().decode("latin-1")
            seen.append((start, end, name))
            end = next((start + length for length in _list_lengths(text) if fits(text[:length])), 0)
            position = end or start + 1
        if end:
            held.append((start, end, name))


def _list_lengths(text: str) -> Iterator[int]:
    """The lengths of a find and of its beginnings that end before a separator, longest first."""
    yield len(text)
    for place in range(len(text) - 1, 0, -1):
        if text[place] in " -":
            yield place


def _without_overlaps(spans: list[Span]) -> list[Span]:
    kept: list[Span] = []
    for one in sorted(spans, key=lambda each: (each[0], -each[1])):
        if not kept or one[0] >= kept[-1][1]:
            kept.append(one)
    return kept


def _find_characters(text: str, data: bytes, spans: Iterable[Span]) -> dict[int, int]:
    """Which characters the spans' bytes are."""
    places = sorted({place for start, end, _ in spans for place in (start, end)})
    if len(text) == len(data):
        return {place: place for place in places}
    found: dict[int, int] = {}
    at = characters = 0
    for place in places:
        characters += len(data[at:place].decode("utf-8", "surrogatepass"))
        found[place] = characters
        at = place
    return found
