"""The built-in simulated provider behind the upstream seam: answers in this process, at a set pace, with no socket.

So that the first routed answer needs no key and no other server. Data plane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import get_args

import msgspec

from gateway.upstream.seam import (
    Headers,
    Origin,
    OriginStats,
    ResponseTooLarge,
    UpstreamRequest,
    UpstreamTimeout,
)
from providers.adapters.simulated import read_settings
from providers.simulation import Frame, Operation, Settings, SimulatedAnswer, Simulator
from tokenhub.core.specs import ProviderSpec

_OPERATIONS: Mapping[bytes, Operation] = {
    b"/v1/" + operation.replace(".", "/").encode(): operation for operation in get_args(Operation)
}


class InProcessResponse:
    """A simulated answer as an UpstreamResponse; frames become due by their delays."""

    def __init__(self, status: int, headers: Headers, frames: Iterator[Frame]) -> None:
        self.status = status
        self.headers = headers
        self._frames = frames
        self._waiting: Frame | None = None
        self._due = asyncio.get_running_loop().time()
        self._ended = False

    def _take(self) -> Frame | None:
        """The next frame, due at `_due`; None at the end."""
        if self._waiting is None and not self._ended:
            self._waiting = next(self._frames, None)
            if self._waiting is None:
                self._ended = True
            else:
                self._due += self._waiting.delay
        return self._waiting

    def read_nowait(self) -> bytes | None:
        """Every frame that is due."""
        due: list[bytes] = []
        now = asyncio.get_running_loop().time()
        while (frame := self._take()) is not None and self._due <= now:
            due.append(frame.data)
            self._waiting = None
        if due:
            return b"".join(due)
        return b"" if self._ended else None

    async def read(self, timeout: float | None) -> bytes:  # noqa: ASYNC109 - the seam's form
        """What is due, waiting for the next frame if nothing is."""
        while (data := self.read_nowait()) is None:
            wait = self._due - asyncio.get_running_loop().time()
            if timeout is not None and wait > timeout:
                await asyncio.sleep(timeout)
                raise UpstreamTimeout("read")
            await asyncio.sleep(max(wait, 0.0))
        return data

    async def read_all(self, limit: int, timeout: float) -> bytes:  # noqa: ASYNC109 - the seam's form
        """The whole body."""
        body = bytearray()
        try:
            async with asyncio.timeout(timeout):
                while data := await self.read(None):
                    body += data
                    if len(body) > limit:
                        raise ResponseTooLarge(limit)
        except TimeoutError as error:
            raise UpstreamTimeout("read") from error
        return bytes(body)

    def close(self) -> None:
        """Forgets the rest."""
        self._ended = True
        self._waiting = None


class InProcessUpstream:
    """The simulated provider as an Upstream. Its only connection is a function call."""

    def __init__(self, settings: Settings, *, key: bytes, now: Callable[[], float]) -> None:
        self._simulator = Simulator(settings, key=key, now=now)

    async def send(
        self,
        request: UpstreamRequest,
        *,
        connect_timeout: float,
        head_timeout: float,
        on_sent: Callable[[], None] | None = None,
    ) -> InProcessResponse:
        """The simulated answer to a request of any of its operations; 404 for another path."""
        if on_sent is not None:
            on_sent()
        path = request.target.partition(b"?")[0]
        operation = _OPERATIONS.get(path)
        if operation is None:
            return _whole(
                SimulatedAnswer(
                    404, (("content-type", "application/json"),), b'{"error":{"message":"no such path"}}'
                )
            )
        latency = self._simulator.settings.latency
        if latency > head_timeout:
            await asyncio.sleep(head_timeout)
            raise UpstreamTimeout("head")
        if latency:
            await asyncio.sleep(latency)
        body = msgspec.json.decode(request.body) if request.body else {}
        version = dict(request.headers).get(b"anthropic-version", b"").decode("latin-1")
        reply = self._simulator.respond(operation, body, version=version or None)
        if isinstance(reply, SimulatedAnswer):
            return _whole(reply)
        return InProcessResponse(reply.status, _encode(reply.headers), reply.frames)

    async def aclose(self) -> None:
        """Nothing is open."""

    def stats(self) -> Mapping[Origin, OriginStats]:
        """No connections."""
        return {}


class InProcessProviders:
    """One simulated provider for each that the snapshot has, so that prompt caches and signatures stay apart."""

    def __init__(self, *, key: bytes, now: Callable[[], float]) -> None:
        self._key = key
        self._now = now
        self._known: dict[str, tuple[ProviderSpec, InProcessUpstream]] = {}

    def __call__(self, provider: ProviderSpec) -> InProcessUpstream:
        """The provider's own simulation, begun anew when its profile changed."""
        known = self._known.get(provider.id)
        if known is not None and (known[0] is provider or known[0].profile == provider.profile):
            return known[1]
        upstream = InProcessUpstream(read_settings(provider), key=self._key, now=self._now)
        self._known[provider.id] = (provider, upstream)
        return upstream


def _whole(answer: SimulatedAnswer) -> InProcessResponse:
    return InProcessResponse(answer.status, _encode(answer.headers), iter([Frame(answer.body)]))


def _encode(headers: tuple[tuple[str, str], ...]) -> Headers:
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
