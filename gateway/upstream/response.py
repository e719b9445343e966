"""One response of the gateway's own client, from the moment its request is written (data plane).

Detached from its connection as soon as the last byte is there, so that a slow reader holds no pool slot.
"""

# ruff: noqa: ASYNC109 -- one timer per connection serves every wait; asyncio.timeout would cost one each

import asyncio
from typing import Protocol

from gateway.upstream.seam import Headers, ResponseTooLarge, UpstreamFault, UpstreamTimeout


class Carrier(Protocol):
    """What a response needs of its connection."""

    def resume(self) -> None: ...
    def arm(self, timeout: float) -> None: ...
    def disarm(self) -> None: ...
    def break_off(self) -> None: ...


class Http1Response:
    """See `seam.UpstreamResponse`. `status` is 0 until the head has arrived."""

    __slots__ = ("_carrier", "_chunks", "_complete", "_fault", "_loop", "_waiter", "buffered", "headers",
                 "received", "status")  # fmt: skip

    def __init__(self, carrier: Carrier, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: Headers = ()
        self.buffered = 0
        self.received = 0
        self._carrier: Carrier | None = carrier
        self._loop = loop
        self._chunks: list[bytes] = []
        self._complete = False
        self._fault: UpstreamFault | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def head(self, timeout: float) -> None:
        """Wait for the head, `timeout` seconds at most. Any way out but success closes the connection."""
        try:
            while not self.status:
                if self._fault is not None:
                    raise self._fault
                await self._wait(timeout)
        except UpstreamTimeout:
            self.close()
            raise

    async def read(self, timeout: float | None) -> bytes:
        data = self.read_nowait()
        while data is None:
            await self._wait(timeout)
            data = self.read_nowait()
        return data

    def read_nowait(self) -> bytes | None:
        chunks = self._chunks
        if chunks:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            self.buffered = 0
            if self._carrier is not None:
                self._carrier.resume()
            return data
        if self._complete:
            return b""
        if self._fault is not None:
            raise self._fault
        return None

    async def read_all(self, limit: int, timeout: float) -> bytes:
        deadline = self._loop.time() + timeout
        parts: list[bytes] = []
        size = 0
        try:
            while data := await self.read(max(0.0, deadline - self._loop.time())):
                size += len(data)
                if size > limit:
                    raise ResponseTooLarge(limit)
                parts.append(data)
        finally:
            self.close()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        if self._carrier is not None:
            self._carrier.break_off()

    # From the connection.

    @property
    def waiting(self) -> bool:
        return self._waiter is not None

    def append(self, data: bytes) -> None:
        self._chunks.append(data)
        self.buffered += len(data)
        self.received += len(data)

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def complete(self) -> None:
        self._complete = True
        self._carrier = None
        self.wake()

    def fail(self, fault: UpstreamFault) -> None:
        self._fault = fault
        self._carrier = None
        self.wake()

    def time_out(self, fault: UpstreamTimeout) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_exception(fault)

    async def _wait(self, timeout: float | None) -> None:
        carrier = self._carrier
        if carrier is None or self._waiter is not None:
            raise RuntimeError("a response has one reader at a time")
        if timeout is None:
            carrier.disarm()
        else:
            carrier.arm(timeout)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        except UpstreamTimeout:
            raise
        except BaseException:
            # Cancelled or thrown away by the caller: nobody will read on, so the provider must stop generating.
            self.close()
            raise
        finally:
            self._waiter = None
