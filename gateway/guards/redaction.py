"""Masks what guards find in texts, whole ones and streams, and puts back what the caller had said. Data plane; pure.

A stream gives the same text as the whole does, wherever it is cut: what may still become part of a find is held back.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from routing.engine.detection import Detector, Find
from tokenhub.core.errors import GuardBlocked
from tokenhub.core.policies import GuardSpec

_PLACEHOLDER = re.compile(r"\[[A-Z0-9_]{1,40}_[0-9]{1,6}\]")
_LONGEST_PLACEHOLDER: Final = 50
_DETECTORS_KEPT = 256

Tell = Callable[[str, str], None]


@lru_cache(_DETECTORS_KEPT)
def _detector_of(guard: GuardSpec) -> Detector:
    return Detector(guard.patterns, guard.own)


class Placeholders:
    """What one request's finds are called, the same text always the same: `[EMAIL_1]`; and which of them the answer has again."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._counts: Counter[str] = Counter()
        self.originals: dict[str, str] = {}

    def name(self, label: str, text: str, *, restore: bool = False) -> str:
        """The placeholder of a find."""
        name = self._names.get((label, text))
        if name is None:
            self._counts[label] += 1
            name = f"[{label.upper().replace('-', '_')}_{self._counts[label]}]"
            self._names[label, text] = name
        if restore:
            self.originals[name] = text
        return name

    def restore(self, text: str, write: Callable[[str], str] = str) -> str:
        """A text with its originals; `write` makes them fit where they stand."""
        if not self.originals or "[" not in text:
            return text
        return _PLACEHOLDER.sub(
            lambda found: write(self.originals[found[0]]) if found[0] in self.originals else found[0], text
        )


def within_json(text: str) -> str:
    """A text as it stands within a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


@dataclass(frozen=True, slots=True)
class _Hit:
    guard: GuardSpec
    find: Find


class Redactor:
    """What the guards that redact do with the texts of one request on one side of it. `tell(guard, label)` is called for each find.

    `subject` is what a refusal calls the text: "request" or "answer".
    """

    def __init__(
        self, guards: Sequence[GuardSpec], placeholders: Placeholders, tell: Tell, subject: str
    ) -> None:
        self._guards = [(guard, _detector_of(guard)) for guard in guards]
        self._placeholders = placeholders
        self._tell = tell
        self._subject = subject
        self._restoring = subject == "request"

    def redact(self, text: str) -> str:
        """A whole text, masked. Raises GuardBlocked."""
        return self.take(text, final=True)[0]

    def take(self, text: str, *, final: bool) -> tuple[str, str]:
        """A text's beginning, masked, and the rest, which has to wait for more ("" where it is final). Raises GuardBlocked."""
        if not text or not self._guards:
            return text, ""
        hits: list[_Hit] = []
        looked_like: list[Find] = []
        cut = len(text)
        for guard, detector in self._guards:
            finds, seen = detector.search(text)
            hits += [_Hit(guard, find) for find in finds]
            looked_like += seen
            if not final:
                cut = min(cut, detector.settle(text, seen))
        hits = _without_overlaps(hits)
        # Two guards may cut at different places, and what either of them may yet find stays whole.
        while not final and (starts := [one.start for one in looked_like if one.start < cut < one.end]):
            cut = min(starts)
        return self._write(text, [hit for hit in hits if hit.find.end <= cut], cut), text[cut:]

    def _write(self, text: str, hits: Sequence[_Hit], end: int) -> str:
        out: list[str] = []
        position = 0
        for hit in hits:
            guard, find = hit.guard, hit.find
            self._tell(guard.name, find.label)
            if guard.action == "block":
                raise GuardBlocked(
                    f"the guard {guard.name!r} refuses the {self._subject}: it has what looks like {find.label}",
                    details={"guard": guard.name, "kind": find.label, "in": self._subject},
                )
            if guard.action == "mask":
                found = text[find.start : find.end]
                name = self._placeholders.name(find.label, found, restore=guard.restore and self._restoring)
                out += (text[position : find.start], name)
                position = find.end
        if not out:
            return text[:end]
        out.append(text[position:end])
        return "".join(out)


class Masking:
    """One text of a streamed answer on its way to the caller, masked."""

    __slots__ = ("_held", "_redactor")

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be sent by now. Raises GuardBlocked."""
        settled, self._held = self._redactor.take(self._held + text, final=False)
        return settled

    def finish(self) -> str:
        """What was held. Raises GuardBlocked."""
        settled, self._held = self._redactor.take(self._held, final=True)
        return settled


class Restoring:
    """One text of a streamed answer on its way to the caller, with the caller's own texts put back."""

    __slots__ = ("_held", "_placeholders", "_write")

    def __init__(self, placeholders: Placeholders, write: Callable[[str], str] = str) -> None:
        self._placeholders = placeholders
        self._write = write
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be sent by now."""
        text = self._held + text
        opened = text.rfind("[")
        waits = opened >= 0 and "]" not in text[opened:] and len(text) - opened < _LONGEST_PLACEHOLDER
        cut = opened if waits else len(text)
        self._held = text[cut:]
        return self._placeholders.restore(text[:cut], self._write)

    def finish(self) -> str:
        """What was held, which is no placeholder."""
        held, self._held = self._held, ""
        return held


def _without_overlaps(hits: list[_Hit]) -> list[_Hit]:
    """Of two that overlap the one that begins first; of those that begin together the earlier guard's."""
    kept: list[_Hit] = []
    for hit in sorted(hits, key=lambda one: one.find.start):
        if not kept or hit.find.start >= kept[-1].find.end:
            kept.append(hit)
    return kept
