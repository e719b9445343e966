"""In-band directives: what a caller writes at the top of a user's text to say how its request is served. Data plane; pure.

    @@tokenhub
    mode=cheap
    budget=0.01
    @@end
    the prompt

or on one line, `@@tokenhub mode=cheap budget=0.01`, which ends with the line, or at `@@end`. A directive is the first thing in
the text of a user's message (string content or a text part) or in a completion's prompt; only white space and other directives
may stand before it, and all of it lies within the text's first 2 KiB. Anywhere else, and in every other role, it is text: what a
tool or a retrieved page says can't steer anything. So a quote, a letter or a backslash before it (`\\@@tokenhub`) is how one
writes about directives. The mark must stand in the request's bytes as it is: spelled with JSON escapes it is text too.

A conversation is sent again with each turn, so that each of its user messages may have one: all are taken out, and of a key that
stands in several the last holds. Of the forwarded body nothing else changes, to the byte: the directive is cut out of its JSON
string. A text of which nothing is left becomes `.`, since providers refuse blank ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from gateway.body import Body
from gateway.json_places import Path, Piece, find_characters, write_path
from providers.adapters.base import Operation
from tokenhub.core.errors import InvalidRequest
from tokenhub.core.money import nanos_from_usd
from tokenhub.core.policies import MODES, Mode
from tokenhub.core.specs import KeySpec, Snapshot

MARK: Final = b"@@tokenhub"
MOST_BYTES: Final = 2048
"""How far into a text directives may reach, in bytes of UTF-8."""

PLACEHOLDER: Final = "."
"""What stands for a text of which nothing is left: no provider takes a blank one, and none is moved by this."""

MOST_IGNORED: Final = 32
MOST_ITERATIONS: Final = 5
MOST_WEIGHT: Final = 10
MOST_USD: Final = 1000
MOST_MILLISECONDS: Final = 3_600_000
MOST_TOKENS: Final = 10_000_000
LONGEST_NAME: Final = 200

_LONGEST_SHOWN = 60
_START = re.compile(r"[ \t\r\n]*(@@tokenhub)(?=[ \t\r\n]|\Z)")
_LINE = re.compile(r"[^\r\n]*")
_WORD = re.compile(r"[^ \t]+")
_BREAK = re.compile(r"[ \t]*(?:\r\n|\r|\n)?")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_END = "@@end"
_WHOLE = re.compile(r"[0-9]{1,12}")
_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")
_NAME = re.compile(r"[^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?")
_WORDS_OF_FLAGS = {
    "on": True,
    "true": True,
    "yes": True,
    "1": True,
    "off": False,
    "false": False,
    "no": False,
    "0": False,
}

Output = Literal["", "json", "markdown", "text"]


@dataclass(frozen=True, slots=True)
class Directives:
    """What a request asks of its routing and its answer. The defaults mean: not said.

    `min_weight` is the primary model's, `review_min_weight` a reviewing one's (capability, 0 to 10). `budget_nanos` is
    nano-dollars for the whole request, `latency_ms` milliseconds, `max_tokens` the answer's tokens, `input_tokens` the caller's
    own estimate of its prompt. `cache` None: as the policy says. `output_schema` is JSON Schema. `capabilities` are what the
    caller says it can use. `ignored` are keys that nobody knows or acts on, once each.
    """

    mode: Mode | None = None
    policy: str = ""
    min_weight: int = 0
    review_min_weight: int = 0
    iterations: int | None = None
    budget_nanos: int = 0
    latency_ms: int = 0
    max_tokens: int = 0
    strip_think: bool = False
    output: Output = ""
    output_schema: Mapping[str, Any] | None = field(default=None, hash=False)
    cache: bool | None = None
    input_tokens: int = 0
    capabilities: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()


class _Unfit(Exception):
    """A value that is not within its bound."""


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, str):
            value = int(value) if _WHOLE.fullmatch(value) else None
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise _Unfit
        return value

    return read


def _usd(value: Any) -> int:
    if type(value) in (int, float):
        value = f"{Decimal(repr(value)):f}"
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise _Unfit
    try:
        nanos = nanos_from_usd(value)
    except ValueError:
        raise _Unfit from None
    if not 0 < nanos <= nanos_from_usd(MOST_USD):
        raise _Unfit
    return nanos


def _flag(value: Any) -> bool:
    if isinstance(value, str):
        value = _WORDS_OF_FLAGS.get(value.lower())
    if type(value) is not bool:
        raise _Unfit
    return value


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise _Unfit
        return str(value)

    return read


def _name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME or not _NAME.fullmatch(value):
        raise _Unfit
    return value


def _schema(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (ValueError, RecursionError):
            raise _Unfit from None
    if not isinstance(value, dict):
        raise _Unfit
    return value


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that can be asked: the field of `Directives`, how its value is read, and its bound in words."""

    field: str
    read: Callable[[Any], Any]
    bound: str


_outputs = ("json", "markdown", "text")
_weight = _whole(0, MOST_WEIGHT)
_weight_bound = f"a whole number from 0 to {MOST_WEIGHT}"

MODE: Final = Setting("mode", _one_of(*MODES), f"one of {', '.join(MODES)}")
POLICY: Final = Setting("policy", _name, f"a policy's name of at most {LONGEST_NAME} characters")
MIN_WEIGHT: Final = Setting("min_weight", _weight, _weight_bound)
REVIEW_MIN_WEIGHT: Final = Setting("review_min_weight", _weight, _weight_bound)
ITERATIONS: Final = Setting(
    "iterations", _whole(0, MOST_ITERATIONS), f"a whole number from 0 to {MOST_ITERATIONS}"
)
BUDGET: Final = Setting(
    "budget_nanos", _usd, f"an amount in USD above 0 and up to {MOST_USD}, with at most 9 decimals"
)
LATENCY: Final = Setting(
    "latency_ms",
    _whole(1, MOST_MILLISECONDS),
    f"a whole number of milliseconds from 1 to {MOST_MILLISECONDS}",
)
MAX_TOKENS: Final = Setting("max_tokens", _whole(1, MOST_TOKENS), f"a whole number from 1 to {MOST_TOKENS}")
STRIP_THINK: Final = Setting("strip_think", _flag, "on or off")
OUTPUT: Final = Setting("output", _one_of(*_outputs), f"one of {', '.join(_outputs)}")
OUTPUT_SCHEMA: Final = Setting("output_schema", _schema, "a JSON Schema: one JSON object on one line")
CACHE: Final = Setting("cache", _flag, "on or off")

SETTINGS: Final[Mapping[str, Setting]] = {
    "mode": MODE,
    "policy": POLICY,
    "min_weight": MIN_WEIGHT,
    "primary_min_weight": MIN_WEIGHT,
    "review_min_weight": REVIEW_MIN_WEIGHT,
    "iterations": ITERATIONS,
    "budget": BUDGET,
    "max_budget_usd": BUDGET,
    "latency": LATENCY,
    "max_latency_ms": LATENCY,
    "max_tokens": MAX_TOKENS,
    "strip_think": STRIP_THINK,
    "output": OUTPUT,
    "output_format": OUTPUT,
    "output_schema": OUTPUT_SCHEMA,
    "cache": CACHE,
}
"""Every key of a directive, in lower case, `-` written as `_`."""

OF_CHATS: Final = frozenset({"output", "output_schema"})
"""Settings on which nothing acts where a prompt is completed: a repair needs messages."""

WITHOUT_EFFECT: Final = frozenset({"review_min_weight", "iterations"})
"""Settings that are checked and on which nothing acts yet, which the caller is told as of keys that nobody knows."""


def read_setting(setting: Setting, value: Any, path: str, key: str = "") -> Any:
    """The value of a setting, given as text or as JSON. Raises InvalidRequest naming key, value and bound.

    `path` is where it stands; `key` is a directive's, "" where the path names it.
    """
    try:
        return setting.read(value)
    except _Unfit:
        shown = value if isinstance(value, str | int | float) or value is None else type(value).__name__
        told = repr(shown)
        if len(told) > _LONGEST_SHOWN:
            told = told[:_LONGEST_SHOWN] + "…"
        what = f"the directive {key} " if key else ""
        raise InvalidRequest(
            f"{path}: {what}must be {setting.bound}, not {told}",
            param=path,
            details={"key": key or path.rpartition(".")[2], "value": told, "bound": setting.bound},
        ) from None


def _malformed(path: str, problem: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path}: {problem}",
        param=path,
        hint="write '@@tokenhub key=value …' on one line, or key=value lines between '@@tokenhub' and '@@end'; with anything"
        " before it, such as a backslash, it is text",
    )


@dataclass(frozen=True, slots=True)
class Found:
    """The directives at the top of one text: their pairs in order, the characters that they take up, and what replaces those."""

    pairs: tuple[tuple[str, str], ...]
    start: int
    end: int
    replacement: str = ""


class _Reader:
    """Reads the directives at the top of one text: passes once over its first 2 KiB at most, and once more over a block's lines."""

    def __init__(self, text: str, path: str) -> None:
        head = text[:MOST_BYTES]
        if head.isascii():
            self._limit = len(head)
        else:
            self._limit = len(head.encode("utf-8", "replace")[:MOST_BYTES].decode("utf-8", "ignore"))
        self._text = text
        # What ends a line may stand behind the limit.
        self._window = text[: self._limit + 2]
        self._path = path
        self.pairs: list[tuple[str, str]] = []

    def find(self) -> tuple[int, int] | None:
        """From where to where they stand; None where there is none."""
        match = _START.match(self._window)
        if match is None or match.end() > self._limit:
            return None
        start, end = match.start(1), 0
        while match is not None:
            end = self._read(match.end())
            match = _START.match(self._window, end)
        if _START.match(self._text, end):
            raise self._unended()
        return start, end

    def _read(self, position: int) -> int:
        """One directive, from behind its mark; where it ends."""
        line = _LINE.match(self._window, position).end()  # type: ignore[union-attr]  # it always matches
        bare = True
        for word in _WORD.finditer(self._window, position, line):
            if word[0] == _END:
                return self._close(word.end())
            self._take(word[0])
            bare = False
        if line > self._limit:
            raise self._unended()
        ended = self._read_block(line, strict=bare)
        return self._close(line) if ended is None else ended

    def _read_block(self, position: int, *, strict: bool) -> int | None:
        """The lines up to `@@end`, and where that ends. Unless `strict`, None where the lines are no block: with keys on its first
        line, only its end tells it from a directive of one line."""
        lines: list[str] = []
        while (start := _BREAK.match(self._window, position).end()) < len(self._window):  # type: ignore[union-attr]
            position = _LINE.match(self._window, start).end()  # type: ignore[union-attr]
            line = self._window[start:position].strip(" \t")
            if line == _END and position <= self._limit:
                for each in lines:
                    self._take(each)
                return self._close(position)
            if position > self._limit or not (strict or _is_pair(line)):
                break
            if strict and line and not _is_pair(line):
                raise self._no_pair(line)
            lines.append(line)
        if strict:
            raise self._unended()
        return None

    def _take(self, text: str) -> None:
        if text:
            key, equals, value = text.partition("=")
            key = key.strip(" \t")
            if not equals or not _KEY.fullmatch(key):
                raise self._no_pair(text)
            self.pairs.append((key.lower().replace("-", "_"), value.strip(" \t")))

    def _close(self, position: int) -> int:
        if position > self._limit:
            raise self._unended()
        return _BREAK.match(self._window, position).end()  # type: ignore[union-attr]  # it always matches

    def _unended(self) -> InvalidRequest:
        return _malformed(self._path, f"a directive must end within the first {MOST_BYTES} bytes of its text")

    def _no_pair(self, text: str) -> InvalidRequest:
        return _malformed(self._path, f"{text[:_LONGEST_SHOWN]!r} in a directive is no key=value")


def _is_pair(line: str) -> bool:
    key, equals, _ = line.partition("=")
    return bool(equals) and _KEY.fullmatch(key.rstrip(" \t")) is not None


def find_directives(text: str, path: str) -> Found | None:
    """The directives at the top of a text; None where there is none. Raises InvalidRequest for one that is malformed."""
    if not _START.match(text, 0, MOST_BYTES):
        return None
    reader = _Reader(text, path)
    span = reader.find()
    if span is None:
        return None
    blank = not (text[: span[0]].strip() or text[span[1] :].strip())
    return Found(tuple(reader.pairs), *span, PLACEHOLDER if blank else "")


def _list_texts(data: Mapping[str, Any], operation: Operation) -> Iterator[tuple[Any, Path, str]]:
    """Each text in which directives may stand: the list or object that holds it, its path, and the text."""
    if operation is Operation.OPENAI_COMPLETIONS:
        prompt = data.get("prompt")
        if isinstance(prompt, str):
            yield data, ("prompt",), prompt
        for number, item in enumerate(prompt if isinstance(prompt, list) else ()):
            if isinstance(item, str):
                yield prompt, ("prompt", number), item
        return
    messages = data.get("messages")
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, str):
            yield message, ("messages", number, "content"), content
        for at, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                yield part, ("messages", number, "content", at, "text"), part["text"]


def take_directives(
    data: dict[str, Any], operation: Operation, prefix: str = ""
) -> tuple[Directives | None, dict[Path, Found]]:
    """Takes the directives out of a parsed body: what they say (None: there are none), and where each stood.

    `prefix` stands before the paths that errors name. Raises InvalidRequest.
    """
    found: dict[Path, Found] = {}
    values: dict[str, Any] = {}
    ignored: dict[str, None] = {}
    prompts = operation is Operation.OPENAI_COMPLETIONS
    for holder, path, text in _list_texts(data, operation):
        told = prefix + write_path(path)
        directives = find_directives(text, told)
        if directives is None:
            continue
        found[path] = directives
        for key, value in directives.pairs:
            setting = SETTINGS.get(key)
            if setting is None or setting.field in WITHOUT_EFFECT or (prompts and setting.field in OF_CHATS):
                ignored[key] = None
            if setting is not None:
                values[setting.field] = read_setting(setting, value, told, key)
        holder[path[-1]] = text[: directives.start] + directives.replacement + text[directives.end :]
    if not found:
        return None, found
    return Directives(**values, ignored=tuple(ignored)[:MOST_IGNORED]), found


def strip_body(body: Body, operation: Operation) -> tuple[Directives | None, Body]:
    """The directives of a body, and a body without them: the same bytes less the directives'. Raises InvalidRequest.

    The body that was given is not to be used any more: both share their parsed members.
    """
    directives, found = take_directives(body.data, operation)
    if directives is None:
        return None, body
    pieces: list[Piece] = []
    for path, (start, _) in body.find_places(found).items():
        one = found[path]
        first, last = find_characters(body.raw, start, one.start, one.end)
        pieces.append((first, last, one.replacement.encode()))
    return directives, body.spliced(pieces, body.data)


def are_allowed(snapshot: Snapshot, key: KeySpec) -> bool:
    """Whether a key's texts are searched: False where the first policy that is for this key, whatever it asks, says so."""
    for policy in snapshot.policies:
        when = policy.when
        if (
            (not when.keys or key.id in when.keys)
            and (not when.projects or key.project in when.projects)
            and (not when.teams or key.team in when.teams)
            and not (when.tags or when.models or when.operations or when.needs or when.headers or when.hours)
            and not (when.min_input_tokens or when.max_input_tokens)
        ):
            return policy.directives
    return True


_DEFAULTS: Final = Directives()


def merge(stated: Directives, in_band: Directives) -> Directives:
    """What a request says in its own fields, and in its texts. Raises InvalidRequest where they say different things.

    A program states its fields itself, while its texts may be somebody else's: those never overrule it.
    """
    changes: dict[str, Any] = {}
    for each in fields(Directives):
        name = each.name
        mine, theirs, unsaid = getattr(stated, name), getattr(in_band, name), getattr(_DEFAULTS, name)
        if theirs == unsaid:
            changes[name] = mine
        elif mine in (unsaid, theirs):
            changes[name] = theirs
        else:
            raise InvalidRequest(
                f"{name}: a directive in a message says otherwise than the request's own field",
                param=name,
                hint="leave one of the two out",
            )
    return Directives(**changes)
