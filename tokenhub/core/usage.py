"""What a call used: disjoint token buckets and counted things. Both planes; a value, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any, Literal

from tokenhub.core.records import record

BUCKETS = (
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
    "audio_in",
    "audio_out",
    "image_in",
    "image_out",
)
"""Token buckets. Disjoint: `input` excludes what was read from or written to a cache; `output` excludes reasoning."""

COUNTED = ("searches", "images")
"""Things billed by the piece."""

_NAMES = BUCKETS + COUNTED
_counts_of = attrgetter(*_NAMES)

UsageSource = Literal["provider", "estimated", "none"]


@record(frozen=True, slots=True)
class Usage:
    """Tokens by bucket and counted things of one attempt, all >= 0. `source` says who counted.

    `raw` is the vendor's own usage object, unchanged, so that every figure can be recomputed; `method` says how an
    estimate was made. `source == "none"`: nothing was used (the provider refused, or was never reached).
    """

    input: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    audio_in: int = 0
    audio_out: int = 0
    image_in: int = 0
    image_out: int = 0
    searches: int = 0
    images: int = 0
    source: UsageSource = "provider"
    method: str = ""
    raw: Mapping[str, Any] | None = None

    @property
    def input_total(self) -> int:
        """Every prompt token, cached or not (OpenAI's `prompt_tokens`)."""
        return (
            self.input
            + self.cache_read
            + self.cache_write_5m
            + self.cache_write_1h
            + self.audio_in
            + self.image_in
        )

    @property
    def output_total(self) -> int:
        """Every generated token, reasoning included (OpenAI's `completion_tokens`)."""
        return self.output + self.reasoning + self.audio_out + self.image_out

    def counts(self) -> dict[str, int]:
        """The non-zero buckets and counted things by name."""
        return {name: count for name, count in zip(_NAMES, _counts_of(self), strict=True) if count}


NOTHING_USED = Usage(source="none")

_FIELDS = frozenset(field.name for field in fields(Usage))


def decode_usage(data: Mapping[str, Any]) -> Usage:
    """Builds a Usage from a plain mapping (a journal line). Unknown names are an error, so that none is lost."""
    unknown = set(data) - _FIELDS
    if unknown:
        raise ValueError(f"unknown usage buckets: {', '.join(sorted(unknown))}")
    return Usage(**data)
