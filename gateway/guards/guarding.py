"""Has a policy's guards look at a request before it is sent, and at its answer before the caller gets it. Data plane.

Guards that redact come first, so that webhooks see what is masked; what was masked for the provider alone is put back last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final, Literal

import msgspec

from gateway.attempt import off_loop
from gateway.body import Body
from gateway.exchange import Exchange
from gateway.guards.edited_side import EditedSide, Place, StreamEditor
from gateway.guards.redaction import Masking, Placeholders, Redactor, Restoring, Tell, within_json
from gateway.guards.texts import IN_ANSWERS, IN_REQUESTS, list_texts, put_text
from gateway.guards.webhook import Webhooks
from gateway.json_places import Path, find_places, splice
from gateway.metrics import Metrics
from gateway.relay import Side
from gateway.settle import Account
from gateway.stages import AnswerStage
from providers.adapters.base import Operation
from tokenhub.core.errors import GuardBlocked, GuardUnavailable
from tokenhub.core.policies import GuardSpec
from tokenhub.core.sse import Event

_WITHOUT_TEXTS: Final = frozenset({Operation.OPENAI_EMBEDDINGS, Operation.ANTHROPIC_COUNT_TOKENS})
"""Operations whose answers have none."""

_HEADER: Final = b"x-tokenhub-guards"
_MOST_HELD_BYTES: Final = 4 * 1024 * 1024
"""The longest stream that is held back for a webhook."""


class Guards:
    """Runs guards. One object a worker."""

    def __init__(self, webhooks: Webhooks, metrics: Metrics) -> None:
        self._webhooks = webhooks
        self._metrics = metrics

    async def enter(self, exchange: Exchange, guards: Sequence[GuardSpec]) -> None:
        """Edits the request's texts, and sets the stages that its answer goes through. Raises GuardBlocked or GuardUnavailable."""
        placeholders = Placeholders()
        before = [guard for guard in guards if guard.side != "after"]
        await self._edit_request(exchange, before, placeholders)
        tell_head(exchange)
        if exchange.wire.operation in _WITHOUT_TEXTS:
            return
        after = [guard for guard in guards if guard.side != "before"]
        redacting = [guard for guard in after if guard.kind == "redact"]
        stages: list[AnswerStage] = []
        if redacting:
            stages.append(_Redaction(self, redacting, placeholders))
        stages += [_Asked(self, guard) for guard in after if guard.kind == "webhook"]
        if placeholders.originals:
            stages.append(_Restoration(placeholders))
        # Last of all: what other stages put into an answer is looked at, too.
        exchange.stages = (*exchange.stages, *stages)

    def teller(self, exchange: Exchange, side: str) -> Tell:
        """What counts the finds of one request."""

        def tell(guard: str, label: str) -> None:
            name = f"{guard}:{label}"
            exchange.guarded[name] = exchange.guarded.get(name, 0) + 1
            self._metrics.add("guards", (guard, side, label))

        return tell

    async def ask(
        self, guard: GuardSpec, exchange: Exchange, side: Literal["before", "after"], texts: Sequence[str]
    ) -> Sequence[str]:
        """The texts as a webhook lets them pass. Raises GuardBlocked or GuardUnavailable."""
        tell = self.teller(exchange, side)
        if not texts:
            return texts
        try:
            allowed = await self._webhooks.ask(guard, exchange, side, texts)
        except GuardBlocked:
            tell(guard.name, "blocked")
            raise
        except GuardUnavailable:
            tell(guard.name, "unavailable")
            raise
        for given, left in zip(texts, allowed, strict=True):
            if given != left:
                tell(guard.name, "replaced")
        return allowed

    async def _edit_request(
        self, exchange: Exchange, guards: Sequence[GuardSpec], placeholders: Placeholders
    ) -> None:
        redacting = [guard for guard in guards if guard.kind == "redact"]
        size = len(exchange.body.raw)
        if redacting:
            redactor = Redactor(redacting, placeholders, self.teller(exchange, "before"), "request")
            texts = await off_loop(size, _list_request, exchange.body.data)
            await _change(exchange, await off_loop(size, _redact_all, redactor, texts))
        for guard in guards:
            if guard.kind == "webhook":
                texts = await off_loop(size, _list_request, exchange.body.data)
                allowed = await self.ask(guard, exchange, "before", list(texts.values()))
                said = zip(texts, allowed, strict=True)
                await _change(exchange, {path: text for path, text in said if texts[path] != text})


async def _change(exchange: Exchange, changes: Mapping[Path, str]) -> None:
    if changes:
        body, wraps = exchange.body, exchange.wire.wraps
        exchange.body = await off_loop(len(body.raw), _edit_body, body, changes, wraps)
        exchange.forget_call()


def tell_head(exchange: Exchange) -> None:
    """Names in the answer's head what was found by now."""
    if exchange.guarded:
        told = ", ".join(f"{name}={count}" for name, count in sorted(exchange.guarded.items()))
        exchange.told = [one for one in exchange.told if one[0] != _HEADER]
        exchange.told.append((_HEADER, told.encode()))


class _Redaction:
    """The stage of the guards that redact."""

    def __init__(self, guards: Guards, specs: Sequence[GuardSpec], placeholders: Placeholders) -> None:
        self._guards = guards
        self._specs = specs
        self._placeholders = placeholders

    async def whole(self, exchange: Exchange, account: Account, answer: bytes) -> bytes:
        """The answer, masked. Raises GuardBlocked."""
        redactor = self._make(exchange)
        try:
            return await off_loop(len(answer), _edit_answer, answer, lambda path, text: redactor.redact(text))
        finally:
            tell_head(exchange)

    def side(self, exchange: Exchange, side: Side) -> Side:
        """The stream likewise."""
        redactor = self._make(exchange)
        return EditedSide(side, exchange.wire.bare.operation, lambda place, within: Masking(redactor))

    def _make(self, exchange: Exchange) -> Redactor:
        tell = self._guards.teller(exchange, "after")
        return Redactor(self._specs, self._placeholders, tell, "answer")


class _Restoration:
    """The stage that puts back what only the provider was not to see."""

    def __init__(self, placeholders: Placeholders) -> None:
        self._placeholders = placeholders

    async def whole(self, exchange: Exchange, account: Account, answer: bytes) -> bytes:
        """The answer with the caller's own texts."""

        def restore(path: Path, text: str) -> str:
            # A tool's arguments are JSON within a string.
            write = within_json if path[-1] == "arguments" else str
            return self._placeholders.restore(text, write)

        return await off_loop(len(answer), _edit_answer, answer, restore)

    def side(self, exchange: Exchange, side: Side) -> Side:
        """The stream likewise."""

        def make(place: Place, within: bool) -> Restoring:
            return Restoring(self._placeholders, within_json if within else str)

        return EditedSide(side, exchange.wire.bare.operation, make)


class _Asked:
    """The stage of one webhook."""

    def __init__(self, guards: Guards, spec: GuardSpec) -> None:
        self._guards = guards
        self._spec = spec

    async def whole(self, exchange: Exchange, account: Account, answer: bytes) -> bytes:
        """The answer as the webhook lets it pass. Raises GuardBlocked or GuardUnavailable."""
        texts = await off_loop(len(answer), _list_answer, answer)
        allowed = await self.ask(exchange, list(texts.values()))
        left = dict(zip(texts, allowed, strict=True))
        if left == texts:
            return answer
        return await off_loop(len(answer), _edit_answer, answer, lambda path, text: left.get(path, text))

    async def ask(self, exchange: Exchange, texts: Sequence[str]) -> Sequence[str]:
        """The texts as the webhook lets them pass."""
        try:
            return await self._guards.ask(self._spec, exchange, "after", texts)
        finally:
            tell_head(exchange)

    def side(self, exchange: Exchange, side: Side) -> Side:
        """The stream, held back until the webhook has spoken."""
        return _AskedSide(self, exchange, side)


class _AskedSide(Side):
    """Holds a stream until its end, asks about its texts, and gives it as it was or with the texts that it may have."""

    def __init__(self, stage: _Asked, exchange: Exchange, inner: Side) -> None:
        self.reading = inner.reading
        self._stage = stage
        self._exchange = exchange
        self._inner = inner
        self._held = bytearray()

    def take(self, event: Event) -> tuple[int, bytes]:
        """What the event means; its bytes stay here. Raises GuardUnavailable where they become too many."""
        signal, data = self._inner.take(event)
        self._held += data
        if len(self._held) > _MOST_HELD_BYTES:
            raise GuardUnavailable(f"the answer is over {_MOST_HELD_BYTES} bytes, too long for a guard")
        return signal, b""

    def end(self) -> bytes:
        """Of a stream that broke off nothing was looked at, so that nothing of it is given."""
        return b""

    async def finish(self) -> bytes:
        """The stream as it may pass. Raises GuardBlocked or GuardUnavailable."""
        end = await self._inner.finish()
        held, operation = bytes(self._held), self._exchange.wire.bare.operation
        pieces: dict[Place, list[str]] = {}
        collect = StreamEditor(operation, lambda place, within: _Collecting(pieces.setdefault(place, [])))
        await off_loop(len(held), collect.edit, held)
        texts = {place: "".join(said) for place, said in pieces.items()}
        allowed = await self._stage.ask(self._exchange, list(texts.values()))
        left = dict(zip(texts, allowed, strict=True))
        if left == texts:
            return held + end
        replace = StreamEditor(operation, lambda place, within: _Replacing(left[place]))
        return await off_loop(len(held), replace.edit, held) + replace.finish() + end


class _Collecting:
    """Keeps the pieces of a text, and lets them pass."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces

    def feed(self, text: str) -> str:
        self._pieces.append(text)
        return text

    def finish(self) -> str:
        return ""


class _Replacing:
    """Gives another text in the place of the whole."""

    def __init__(self, text: str) -> None:
        self._text = text

    def feed(self, text: str) -> str:
        return ""

    def finish(self) -> str:
        return self._text


def _list_request(data: Mapping[str, Any]) -> dict[Path, str]:
    return dict(list_texts(data, IN_REQUESTS, thoughts=False))


def _list_answer(answer: bytes) -> dict[Path, str]:
    return dict(list_texts(_read(answer), IN_ANSWERS, thoughts=True))


def _redact_all(redactor: Redactor, texts: Mapping[Path, str]) -> dict[Path, str]:
    changes = {}
    for path, text in texts.items():
        if (left := redactor.redact(text)) != text:
            changes[path] = left
    return changes


def _edit_body(body: Body, changes: Mapping[Path, str], wraps: bool) -> Body:
    """A body with other texts: the same bytes but for those. An envelope is never forwarded itself: its members alone change."""
    data = deepcopy(dict(body.data))
    for path, text in changes.items():
        put_text(data, path, text)
    if wraps:
        return Body(body.raw, data)
    places = body.find_places(changes).items()
    return body.spliced([(*span, msgspec.json.encode(changes[path])) for path, span in places], data)


def _edit_answer(answer: bytes, edit: Callable[[Path, str], str]) -> bytes:
    """A whole answer with its texts edited: the same bytes but for those, and for tokens' probabilities, which spell them out."""
    told = _read(answer)
    changes = {
        path: msgspec.json.encode(left)
        for path, text in list_texts(told, IN_ANSWERS, thoughts=True)
        if (left := edit(path, text)) != text
    }
    if not changes:
        return answer
    for number, choice in enumerate(told.get("choices") or ()):
        if isinstance(choice, dict) and choice.get("logprobs") is not None:
            changes["choices", number, "logprobs"] = b"null"
    return splice(answer, [(*span, changes[path]) for path, span in find_places(answer, changes).items()])


def _read(answer: bytes) -> dict[str, Any]:
    told = msgspec.json.decode(answer)
    return told if isinstance(told, dict) else {}
