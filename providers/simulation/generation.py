"""What the simulated model says: text, tool calls or JSON, cut where the request says. Data plane, pure.

A model that is offered tools calls one when it must, or when the user's last text names it or speaks of
"weather" or a "tool"; twice or two of them when the text says "parallel". After a tool's result it answers
with text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from .dice import Dice, digest
from .prose import prose
from .schema import example
from .tokens import clip, count_text

_ALPHABET = b"0123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_LETTERS = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))


@dataclass(frozen=True, slots=True)
class Tool:
    """A callable tool: its name and the JSON schema of its arguments."""

    name: str
    schema: object


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks the model for, in no vendor's words.

    `choice` is `none`, `auto`, `any`, or `=NAME`. `format` is a JSON schema for the text, if any. `limit` and
    `tokens` are output tokens: the most allowed, and the exact length wished for prose.
    """

    seed: bytes
    last_text: str = ""
    after_tool: bool = False
    tools: tuple[Tool, ...] = ()
    choice: str = "auto"
    parallel: bool = True
    format: object | None = None
    limit: int | None = None
    tokens: int | None = None
    stops: tuple[str, ...] = ()
    thinking_tokens: int = 0
    speaks_before_tools: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: an id's random part, the tool's name, its arguments as JSON text; `whole` is false when cut
    off.
    """

    suffix: str
    name: str
    arguments: str
    whole: bool = True

    @property
    def tokens(self) -> int:
        return count_text(self.name) + count_text(self.arguments)


@dataclass(frozen=True, slots=True)
class Generation:
    """What came out. `finish` is `stop`, `stop_sequence`, `length` or `tools`."""

    text: str
    calls: tuple[ToolCall, ...]
    finish: str
    stop_sequence: str | None
    thinking: str
    thinking_tokens: int

    @property
    def tokens(self) -> int:
        return self.thinking_tokens + count_text(self.text) + sum(call.tokens for call in self.calls)


def generate(wish: Wish) -> Generation:
    """The answer to a wish; the same wish always gives the same."""
    dice = Dice(wish.seed)
    thinking = (
        clip(prose(dice, wish.thinking_tokens), wish.limit or wish.thinking_tokens)
        if wish.thinking_tokens
        else ""
    )
    spent = count_text(thinking)
    left = None if wish.limit is None else wish.limit - spent
    chosen = _chosen_tools(wish)
    if chosen:
        return _call_tools(wish, chosen, thinking, left, dice)
    text = _json_text(wish.format, dice) if wish.format is not None else prose(dice, wish.tokens)
    text, finish, sequence = _cut(text, wish.stops, left)
    return Generation(text, (), finish, sequence, thinking, spent)


def identifier(seed: bytes, length: int = 24) -> str:
    """Letters and digits as vendors use in ids, drawn from the seed; 64 characters at most."""
    return blake2b(seed, digest_size=length, person=b"identifier").digest().translate(_LETTERS).decode()


def _cut(text: str, stops: Sequence[str], left: int | None) -> tuple[str, str, str | None]:
    found = [(text.find(stop), stop) for stop in stops if stop and stop in text]
    finish, sequence = "stop", None
    if found:
        at, sequence = min(found)
        text, finish = text[:at], "stop_sequence"
    if left is not None and count_text(text) > left:
        return clip(text, left), "length", None
    return text, finish, sequence


def _chosen_tools(wish: Wish) -> list[Tool]:
    if not wish.tools or wish.choice == "none":
        return []
    if wish.choice.startswith("="):
        return [tool for tool in wish.tools if tool.name == wish.choice[1:]]
    said = wish.last_text.casefold()
    named = [tool for tool in wish.tools if tool.name.casefold() in said]
    hinted = "weather" in said or "tool" in said
    if wish.choice == "auto" and (wish.after_tool or not (named or hinted)):
        return []
    pool = named or list(wish.tools)
    if wish.parallel and "parallel" in said:
        return (pool * 2)[:2]
    return pool[:1]


def _call_tools(
    wish: Wish, chosen: Sequence[Tool], thinking: str, left: int | None, dice: Dice
) -> Generation:
    text = "I will look that up." if wish.speaks_before_tools and left is None else ""
    calls: list[ToolCall] = []
    finish = "tools"
    for number, tool in enumerate(chosen):
        arguments = _json_text(tool.schema, dice)
        suffix = identifier(digest(wish.seed, b"call", bytes([number])))
        call = ToolCall(suffix, tool.name, arguments)
        if left is not None and call.tokens > left:
            finish = "length"
            room = left - count_text(tool.name)
            if room > 0:
                calls.append(ToolCall(suffix, tool.name, clip(arguments, room), whole=False))
            break
        calls.append(call)
        left = None if left is None else left - call.tokens
    return Generation(text, tuple(calls), finish, None, thinking, count_text(thinking))


def _json_text(schema: object, dice: Dice) -> str:
    return msgspec.json.encode(example(schema, dice)).decode()
