"""`Idempotency-Key`: a request that is sent again gets the answer of the first one, and no provider is called twice. Data plane.

The store is shared by all workers and replicas. Whoever claims a key makes the call, and holds the claim by renewing it; a process
that dies holds it no longer than LEASE_SECONDS. All others wait for the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from gateway.exchange import Exchange
from gateway.keeping import StoreUnavailable, headers_of_note
from gateway.metrics import Metrics
from gateway.recorder import Recorder, load_answer
from gateway.sealing import Sealer
from tokenhub.core.errors import IdempotencyConflict, IdempotencyRunning, InvalidRequest, NotReady

HEADER: Final = b"idempotency-key"
LONGEST_KEY: Final = 255
LEASE_SECONDS: Final = 15.0
MOST_BYTES: Final = 8_000_000
"""The longest answer that is kept."""

_RENEW_SECONDS: Final = LEASE_SECONDS / 3
_FIRST_LOOK: Final = 0.02
_SLOWEST_LOOK: Final = 0.25
_SAVES: Final = 5
_SAVE_SECONDS: Final = 1.0
_KEPT_STATUSES: Final = frozenset({400, 402, 404, 413, 415, 422})
"""Refusals that the same request gets again; all others may be tried anew."""

_REPLAYED: Final = (b"x-tokenhub-idempotent-replayed", b"true")
_logger = logging.getLogger("tokenhub.gateway")

State = Literal["claimed", "running", "done", "other"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of a claim. `sealed` is the kept answer of one that is done; empty where it was too large to keep."""

    state: State
    sealed: bytes = b""


class IdempotencyStore(Protocol):
    """Keeps claims and answers by name. Its methods block, and are called in threads. Each raises StoreUnavailable.

    `owner` names one request; leases are seconds.
    """

    def claim(self, name: str, fingerprint: str, owner: str, lease: float) -> Claim:
        """Claims the name: `claimed` where nobody holds it, `other` where it belongs to another request."""

    def renew(self, name: str, owner: str, lease: float) -> None:
        """Holds a claim for longer."""

    def finish(self, name: str, owner: str, sealed: bytes) -> None:
        """Keeps the answer of a claim."""

    def release(self, name: str, owner: str) -> None:
        """Gives a claim up: the next one makes the call."""


class Idempotency:
    """Serves requests that carry a key. One object a worker; `store` None: this installation keeps no answers."""

    def __init__(self, store: IdempotencyStore | None, pepper: bytes, metrics: Metrics) -> None:
        self._store = store
        self._pepper = pepper
        self._metrics = metrics
        self._here: dict[str, asyncio.Event] = {}
        self._saving: set[asyncio.Task[None]] = set()

    async def serve(self, exchange: Exchange, go_on: Callable[[], Awaitable[None]], seconds: float) -> None:
        """Answers with what is kept, or lets the request go on and keeps its answer. Waits `seconds` for one that is under way.

        Raises InvalidRequest, IdempotencyConflict, IdempotencyRunning or NotReady.
        """
        sealer = self._make_sealer(exchange)
        store = self._store
        if store is None:
            raise NotReady("no answers are kept here, so that an Idempotency-Key can't be honoured")
        owner, name = exchange.request_id, sealer.name
        claim = await self._claim(store, sealer, owner, seconds)
        if claim.state == "done":
            await self._replay(exchange, sealer, claim.sealed)
            return
        finished = self._here[name] = asyncio.Event()
        recorder = Recorder(exchange.send, MOST_BYTES)
        exchange.send = recorder.send
        renewing = asyncio.create_task(self._renew(store, name, owner))
        try:
            await go_on()
        finally:
            renewing.cancel()
            await self._settle(store, sealer, owner, recorder)
            del self._here[name]
            finished.set()

    def _make_sealer(self, exchange: Exchange) -> Sealer:
        told = exchange.headers[HEADER]
        if not 0 < len(told) <= LONGEST_KEY or not all(0x21 <= character <= 0x7E for character in told):
            raise InvalidRequest(
                f"the Idempotency-Key must be 1 to {LONGEST_KEY} visible ASCII characters",
                param="idempotency-key",
                hint="a UUID does",
            )
        operation = exchange.wire.operation.value.encode()
        return Sealer(
            self._pepper,
            "idempotent answer",
            f"{exchange.key.tenant}\0".encode() + told,
            operation,
            headers_of_note(exchange, b"x-tokenhub-session"),
            exchange.body.raw,
        )

    async def _claim(self, store: IdempotencyStore, sealer: Sealer, owner: str, seconds: float) -> Claim:
        """The claim, or the answer that is there by now."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + seconds, _FIRST_LOOK
        while True:
            claim = await _ask(store.claim, sealer.name, sealer.fingerprint, owner, LEASE_SECONDS)
            if claim.state == "other":
                raise IdempotencyConflict(
                    "this Idempotency-Key was sent with another request",
                    param="idempotency-key",
                    hint="take a new key for each request; path, body and routing headers make it one",
                )
            if claim.state != "running":
                return claim
            if loop.time() > until:
                raise IdempotencyRunning(
                    "the first request with this Idempotency-Key is still under way",
                    param="idempotency-key",
                    retry_after=5,
                )
            here = self._here.get(sealer.name)
            if here is not None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(here.wait(), max(0.0, until - loop.time()))
            else:
                await asyncio.sleep(pause)
                pause = min(_SLOWEST_LOOK, pause * 1.5)

    async def _replay(self, exchange: Exchange, sealer: Sealer, sealed: bytes) -> None:
        if not sealed:
            raise IdempotencyConflict(
                "the first request with this Idempotency-Key was answered, with more than is kept of an answer",
                param="idempotency-key",
                hint="take a new key to ask again; it is charged again",
            )
        answer = sealer.open(sealed)
        if answer is None:
            raise IdempotencyConflict(
                "the answer that is kept for this Idempotency-Key can't be opened",
                param="idempotency-key",
                hint="take a new key to ask again; it is charged again",
            )
        status, headers, body = load_answer(answer)
        self._metrics.add("idempotent_replays", (exchange.wire.operation.value,))
        await exchange.start(status, [*headers, _REPLAYED])
        await exchange.write(body, more=False)

    async def _settle(self, store: IdempotencyStore, sealer: Sealer, owner: str, recorder: Recorder) -> None:
        """Keeps the answer, or gives the claim up. The answer is out already, so that a store that is away is tried again."""
        kept = recorder.whole and (recorder.status < 300 or recorder.status in _KEPT_STATUSES)
        if kept:
            sealed = b"" if recorder.too_large else await asyncio.to_thread(_seal, sealer, recorder)
            saving = asyncio.create_task(self._save(store, sealer.name, owner, sealed))
        else:
            saving = asyncio.create_task(self._release(store, sealer.name, owner))
        self._saving.add(saving)
        saving.add_done_callback(self._saving.discard)
        # A cancelled request still settles; it does not wait for a store that is away.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(saving), _SAVE_SECONDS)

    async def _save(self, store: IdempotencyStore, name: str, owner: str, sealed: bytes) -> None:
        for number in range(_SAVES):
            try:
                await asyncio.to_thread(store.finish, name, owner, sealed)
            except StoreUnavailable:
                if number + 1 < _SAVES:
                    await asyncio.sleep(_SAVE_SECONDS)
                    with contextlib.suppress(StoreUnavailable):
                        await asyncio.to_thread(store.renew, name, owner, LEASE_SECONDS)
            else:
                return
        _logger.warning("an idempotent answer could not be kept", extra={"request_id": owner})

    async def _release(self, store: IdempotencyStore, name: str, owner: str) -> None:
        # One that can't be given up now ends by itself.
        with contextlib.suppress(StoreUnavailable):
            await asyncio.to_thread(store.release, name, owner)

    async def _renew(self, store: IdempotencyStore, name: str, owner: str) -> None:
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            with contextlib.suppress(StoreUnavailable):
                await asyncio.to_thread(store.renew, name, owner, LEASE_SECONDS)


def _seal(sealer: Sealer, recorder: Recorder) -> bytes:
    return sealer.seal(recorder.dump())


async def _ask(claim: Callable[..., Claim], *arguments: object) -> Claim:
    try:
        return await asyncio.to_thread(claim, *arguments)
    except StoreUnavailable as error:
        raise NotReady(
            "the database that keeps idempotent answers can't be asked, so that nothing is sent twice",
            retry_after=2,
        ) from error
