"""Anthropic's prompt cache, simulated: which prefixes were seen, how long they live. Data plane, no I/O.

Source: platform.claude.com/docs/en/build-with-claude/prompt-caching. A breakpoint (`cache_control`) writes
the prefix up to it; a later request reads the longest prefix that it shares with one written, looking back at
most 20 blocks from a breakpoint. Order: tools, system, messages. Lifetimes are refreshed by reading.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

LIFETIMES = {"5m": 300.0, "1h": 3600.0}
LOOK_BACK_BLOCKS = 20
_KEPT_PREFIXES = 4096


@dataclass(frozen=True, slots=True)
class Block:
    """One block of the prompt: the hash of everything up to and with it, the tokens up to and with it, its
    marker.
    """

    prefix: bytes
    tokens: int
    lifetime: str | None = None


@dataclass(frozen=True, slots=True)
class CacheOutcome:
    """Tokens read from the cache and written to it, by lifetime."""

    read: int = 0
    write_5m: int = 0
    write_1h: int = 0


class PromptCache:
    """The table of one server: prefix hash to (end of life in seconds, lifetime in seconds)."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def visit(self, blocks: Sequence[Block], minimum: int, now: float) -> CacheOutcome:
        """Looks the prompt up and stores what its breakpoints ask for; `minimum` tokens are the least that is
        kept.
        """
        marks = [index for index, block in enumerate(blocks) if block.lifetime and block.tokens >= minimum]
        if not marks:
            return CacheOutcome()
        read = self._longest_hit(blocks, marks, now)
        written = read
        split = {"1h": 0, "5m": 0}
        for index in marks:
            block = blocks[index]
            lifetime = block.lifetime or "5m"
            if block.tokens > written:
                split[lifetime] += block.tokens - written
                written = block.tokens
            self._store(block.prefix, LIFETIMES[lifetime], now)
        return CacheOutcome(read, split["5m"], split["1h"])

    def _longest_hit(self, blocks: Sequence[Block], marks: Sequence[int], now: float) -> int:
        for mark in reversed(marks):
            for index in range(mark, max(-1, mark - LOOK_BACK_BLOCKS), -1):
                entry = self._entries.get(blocks[index].prefix)
                if entry is not None and entry[0] > now:
                    self._store(blocks[index].prefix, entry[1], now)
                    return blocks[index].tokens
        return 0

    def _store(self, prefix: bytes, lifetime: float, now: float) -> None:
        self._entries[prefix] = (now + lifetime, lifetime)
        self._entries.move_to_end(prefix)
        while len(self._entries) > _KEPT_PREFIXES:
            self._entries.popitem(last=False)
