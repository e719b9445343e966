"""Notices that a caller goes away while its request is served, without a task for it. Data plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.body import Receive


class DepartureWatch:
    """Waits for `http.disconnect` from its making until `stop`; then calls `on_gone`, once.

    A server's `receive` waits on one future at a time, so the wait is driven by that future's callback. A task would do the
    same for every request at three times the price, most of it for being cancelled when the answer is out.
    """

    __slots__ = ("_loop", "_on_gone", "_waiting", "_waits_on")

    def __init__(
        self, receive: Receive, on_gone: Callable[[], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._on_gone = on_gone
        self._loop = loop
        self._waits_on: asyncio.Future[Any] | None = None
        self._waiting: Coroutine[Any, None, None] | None = _wait_until_gone(receive)
        self._go_on()

    def stop(self) -> None:
        """Ends the wait. Idempotent."""
        waiting, self._waiting = self._waiting, None
        if self._waits_on is not None:
            self._waits_on.remove_done_callback(self._go_on)
        if waiting is not None:
            waiting.close()

    def _go_on(self, _: asyncio.Future[Any] | None = None) -> None:
        if self._waiting is None:
            return
        try:
            self._waits_on = future = self._waiting.send(None)
        except StopIteration:
            self._waiting = self._waits_on = None
            self._on_gone()
            return
        if future is None:  # A bare yield, as of `asyncio.sleep(0)`.
            self._loop.call_soon(self._go_on)
        else:
            # How a task acknowledges that it is the one who waits; without it asyncio takes the wait for a mistake.
            future._asyncio_future_blocking = False
            future.add_done_callback(self._go_on)


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
