"""Passes a provider's stream on to the caller: bytes untouched on a same-format route, translated on another. Data plane.

Nothing is committed to the caller before the first event that carries content (or ends the answer), so failing over is possible
until then. After it, a break gives the format's own error event and never a false end. The account is closed before the last byte.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from gateway.exchange import Exchange, Headers
from gateway.masking import mask_failure, storable_detail
from gateway.settle import Account, estimate_usage
from gateway.upstream.seam import AddressDenied, UpstreamFault, UpstreamResponse, UpstreamTimeout
from gateway.wire.base import StreamEncoder
from providers.adapters.base import Failure, Signal, StreamDecoder, StreamWatch
from tokenhub.core.attempts import Outcome
from tokenhub.core.chat import Started
from tokenhub.core.errors import AllAttemptsFailed, TokenhubError
from tokenhub.core.sse import Event, EventReader, EventTooLarge
from tokenhub.core.usage import NOTHING_USED, Usage

# Plain integers: an operator between two flags of an enum costs more than reading the event.
CONTENT, END, ERROR = int(Signal.CONTENT), int(Signal.END), int(Signal.ERROR)
FINISH, MALFORMED, USAGE_ONLY = int(Signal.FINISH), int(Signal.MALFORMED), int(Signal.USAGE_ONLY)
COMMIT = CONTENT | FINISH
STOP = END | ERROR
_DRAIN_SECONDS = 1.0
MOST_HELD_BYTES = 16 * 1024 * 1024
"""How much may come before the first content; it is held until the answer is committed."""


class Side(ABC):
    """How one stream's events become the caller's bytes."""

    reading: StreamWatch | StreamDecoder

    @abstractmethod
    def take(self, event: Event) -> tuple[int, bytes]:
        """What the event means (bits of `Signal`), and the bytes to relay for it (the end mark is held back)."""

    @abstractmethod
    def end(self) -> bytes:
        """The bytes that close a good stream."""

    async def finish(self) -> bytes:
        """The bytes that close a good stream, after whatever has to be waited for. Raises a TokenhubError to refuse it."""
        return self.end()


class NativeSide(Side):
    """The caller's own format: events pass as they are, less what was only sent because we asked for usage."""

    def __init__(self, watch: StreamWatch, strip_usage: Callable[[bytes], bytes] | None) -> None:
        self.reading: StreamWatch = watch
        self._strip = strip_usage
        self._end = b""

    def take(self, event: Event) -> tuple[int, bytes]:
        data = event.data
        if data is None:
            return 0, event.raw
        signal = int(self.reading.see(event.name, data))
        if signal & END:
            self._end = event.raw
            return signal, b""
        if self._strip is None:
            return signal, event.raw
        return signal, b"" if signal & USAGE_ONLY else self._strip(event.raw)

    def end(self) -> bytes:
        return self._end


class TranslatedSide(Side):
    """Another format: decoded, then encoded in the caller's."""

    def __init__(self, decoder: StreamDecoder, encoder: StreamEncoder, now: int) -> None:
        self.reading: StreamDecoder = decoder
        self._encoder = encoder
        self._now = now

    def take(self, event: Event) -> tuple[int, bytes]:
        if event.data is None:
            return 0, b""
        told, events = self.reading.decode(event.name, event.data)
        signal = int(told)
        if not events:
            return signal, b""
        first = events[0]
        if isinstance(first, Started) and not first.created:
            # Anthropic tells no time of creation, OpenAI's clients expect one.
            events = [replace(first, created=self._now), *events[1:]]
        return signal, self._encoder.encode(events)

    def end(self) -> bytes:
        return self._encoder.end()


class StreamRelay:
    """Relays one stream. `head` gives the answer's headers once they are needed, `trailer` what stands behind a good stream's end,
    once it is settled; `clock` is monotonic, in seconds."""

    def __init__(
        self,
        exchange: Exchange,
        account: Account,
        side: Side,
        *,
        head: Callable[[], Headers],
        clock: Callable[[], float],
        on_malformed: Callable[[], None],
        on_heartbeat: Callable[[], None],
        max_answer_bytes: int,
        trailer: Callable[[], bytes] | None = None,
    ) -> None:
        self._exchange = exchange
        self._account = account
        self._side = side
        self._head = head
        self._clock = clock
        self._on_malformed = on_malformed
        self._on_heartbeat = on_heartbeat
        self._trailer = trailer
        self._timeouts = account.target.provider.timeouts
        self.heartbeat = account.target.provider.heartbeat
        self._deadline = ("first_event", self._timeouts.first_event)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._most_held = min(MOST_HELD_BYTES, max_answer_bytes)
        self._seen = 0
        self.committed = False
        self.refused = False
        """Whether a stage of ours let the stream go no further, which says nothing of the provider."""
        self.broken: Failure | None = None
        """Why the stream broke off after it was committed: told to the caller, so no other attempt hears of it."""

    async def run(self, response: UpstreamResponse) -> Failure | None:
        """Relays to the end. None: the caller has an answer (whole or broken off); else why it failed before it began."""
        try:
            whole = await self._pump(response)
        except (UpstreamFault, EventTooLarge) as fault:
            return await self.break_off(failure_of(fault, *self._deadline))
        except TokenhubError as error:
            await self._refuse(error)
            return None
        failure = self._side.reading.failure
        if failure is not None:
            failure = mask_failure(failure, self._account.target.secret)
        if self._seen & ERROR:
            return await self.break_off(
                failure or Failure("transient", 502, "the provider sent an error event", ours=True)
            )
        if not whole:
            return await self.break_off(
                Failure("transient", 502, "the provider's stream broke off", ours=True)
            )
        try:
            end = await self._side.finish()
        except TokenhubError as error:
            await self._refuse(error)
            return None
        await self._finish(end)
        await _drain(response)
        return None

    async def _refuse(self, error: TokenhubError) -> None:
        """A stage lets the stream go no further: it was generated and is billed, and the caller is told why it ends."""
        failure = Failure("fatal", error.status, error.message, code=error.code, ours=True)
        self.refused = True
        self.settle("truncated" if self._exchange.sent_anything else "completed", failure=failure)
        if not self._exchange.sent_anything:
            raise error
        event = self._exchange.wire.error_event(error, self._exchange.request_id)
        await self._exchange.write(event, more=False)

    async def _pump(self, response: UpstreamResponse) -> bool:
        """Relays until the end mark, an error event, or the upstream's end. Whether the stream was whole."""
        reader = EventReader()
        since = self._account.opened_at
        while True:
            until = since + self._deadline[1]
            if self.heartbeat:
                chunk = await self._wait(response, until)
            else:
                chunk = await response.read(max(0.0, until - self._clock()))
            events = reader.feed(chunk) if chunk else reader.finish()
            if events:
                self._take(events)
                if self.committed:
                    # Pings and comments before the content are no answer yet: the first deadline runs on.
                    since, self._deadline = self._clock(), ("between_events", self._timeouts.between_events)
                if self._seen & STOP:
                    return bool(self._seen & END) and self.committed
                if self.committed and self._held:
                    await self._flush()
            if not chunk:
                # Some vendors end without a mark; a finish reason is as good. Nothing less is.
                return bool(self._seen & FINISH)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            signal, data = self._side.take(event)
            if data:
                self._held.append(data)
                self._account.events += 1
                if not self.committed:
                    self._held_bytes += len(data)
                    if self._held_bytes > self._most_held:
                        raise EventTooLarge(
                            f"the stream began with over {self._most_held} bytes without content"
                        )
            if signal:
                self._seen |= signal
                if signal & MALFORMED:
                    self._on_malformed()
                if signal & COMMIT and not self.committed:
                    self.committed = True
                    self._exchange.received_at = now = self._clock()
                    self._account.note_first_content(now)
                if signal & STOP:
                    if signal & ERROR and data:
                        self._held.pop()
                    return

    async def _wait(self, response: UpstreamResponse, until: float) -> bytes:
        """The next bytes, with a heartbeat to the caller where the provider's setting asks for one."""
        while True:
            left = until - self._clock()
            if self.heartbeat >= left:
                # Also when the time is over: what came while the caller was slow is no silence of the provider.
                return await response.read(max(0.0, left))
            try:
                return await response.read(self.heartbeat)
            except UpstreamTimeout:
                await self._beat()

    async def wait_for_head(self, sending: Coroutine[Any, Any, UpstreamResponse]) -> UpstreamResponse:
        """The response's head, with heartbeats to the caller while the provider is silent."""
        task = asyncio.create_task(sending)
        try:
            while not (await asyncio.wait({task}, timeout=self.heartbeat))[0]:
                await self._beat()
            return task.result()
        except BaseException:
            # Cancelled, or the caller can't be written to. `wait` leaves its task running; it must not outlive the caller.
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, UpstreamFault):
                (await task).close()
            raise

    async def _beat(self) -> None:
        await self._start()
        await self._exchange.write(self._exchange.wire.heartbeat, more=True)
        self._on_heartbeat()

    async def _start(self) -> None:
        if not self._exchange.sent_anything:
            await self._exchange.start(200, self._head())

    async def _flush(self) -> None:
        await self._start()
        data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held.clear()
        await self._exchange.write(data, more=True)

    def usage(self) -> Usage:
        """What this stream used: as told if it was told to the end, else estimated from what was seen."""
        reading, account = self._side.reading, self._account
        if reading.usage is not None and self._seen & FINISH:
            return reading.usage
        return estimate_usage(
            reading.usage,
            account.intent.input_estimate,
            reading.output_characters,
            account.target.model,
            asked_limit(self._exchange),
            calibrated=account.calibrated,
        )

    def used_before_content(self) -> Usage:
        """A provider that told of its input before it failed may bill that much, and one that told nothing, not even an
        error, what an unanswered call is estimated at; nothing was generated."""
        told = self._side.reading.usage
        if told is None:
            return NOTHING_USED if self._seen & ERROR else self._account.estimate_unanswered()
        return replace(told, output=0, reasoning=0, source="estimated", method="input told, nothing relayed")

    def settle(self, outcome: Outcome, *, failure: Failure | None = None, disconnected: bool = False) -> None:
        """Closes the account with what was seen so far."""
        reading = self._side.reading
        self._account.served_model = reading.model
        self._account.close(
            outcome,
            self.usage(),
            status=200,
            error_class=failure.kind if failure is not None else "",
            error_detail=storable_detail(failure) if failure is not None else "",
            finish_reason=reading.finish_reason,
            disconnected=disconnected or self._exchange.disconnected,
        )

    async def _finish(self, end: bytes) -> None:
        self._held.append(end)
        self.settle("completed")
        if self._trailer is not None:
            self._held.append(self._trailer())
        await self._start()
        await self._exchange.write(b"".join(self._held), more=False)

    async def break_off(self, failure: Failure) -> Failure | None:
        """Before content: the failure, for the next attempt. After it: the format's error event, and the account as truncated."""
        if not self.committed:
            self._account.close(
                "failed",
                self.used_before_content(),
                status=failure.status,
                error_class=failure.kind,
                error_detail=storable_detail(failure),
            )
            return failure
        self.broken = failure
        self.settle("truncated", failure=failure)
        await self._start()
        error = stream_error(failure)
        self._held.append(self._exchange.wire.error_event(error, self._exchange.request_id))
        await self._exchange.write(b"".join(self._held), more=False)
        return None


def stream_error(failure: Failure) -> TokenhubError:
    """The error that a caller is told when a stream breaks off after it began."""
    return AllAttemptsFailed(
        f"the provider's stream broke off: {failure.message}",
        code="stream_interrupted",
        retry_after=failure.retry_after,
    )


def failure_of(fault: Exception, deadline: str, seconds: float) -> Failure:
    """An upstream fault as a classified failure: transient, with the status that the caller would be told.

    `deadline` is the one that was running, `seconds` its length.
    """
    if isinstance(fault, UpstreamTimeout):
        message = f"{fault} (deadline {deadline}, {seconds:g} s)"
        return Failure("transient", 504, message, code=f"deadline_{deadline}", ours=True)
    code = fault.code if isinstance(fault, AddressDenied) else type(fault).__name__
    return Failure("transient", 502, str(fault), code=code, ours=True)


def asked_limit(exchange: Exchange) -> int:
    """The bound on output tokens that the caller set, 0 = none."""
    data = exchange.body.data
    for name in ("max_completion_tokens", "max_tokens"):
        value = data.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return 0


async def _drain(response: UpstreamResponse) -> None:
    """Reads what follows the end mark (mostly the last chunk's frame), so that the connection can be used again."""
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await response.read(_DRAIN_SECONDS):
                pass
    except (UpstreamFault, TimeoutError):
        return  # The answer is complete; the connection is simply not kept.
