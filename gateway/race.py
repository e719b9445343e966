"""Two attempts of one request at once: the first that has something for the caller answers, the other is cancelled. Data plane.

Each attempt has an exchange and a task of its own, and each is accounted. A caller who goes away ends both at once: a race is not
drained for its usage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from gateway.attempt import Dispatcher, Prepared
from gateway.exchange import Exchange
from gateway.targets import Choice
from providers.adapters.base import Failure

PURPOSE = "hedge"
"""What the ledger calls a second attempt."""

FindSecond = Callable[[], Awaitable[tuple[Choice, Prepared] | None]]
Result = tuple[Choice | None, list[tuple[Choice, Failure]]]
"""The choice that answered, or why each of them did not."""


class _Racer:
    __slots__ = ("child", "choice", "task")

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.child: Exchange
        self.task: asyncio.Task[Failure | None]


class Race:
    """One race. The exchange is the request's own."""

    def __init__(self, exchange: Exchange, dispatcher: Dispatcher) -> None:
        self._exchange = exchange
        self._dispatcher = dispatcher
        self._racers: list[_Racer] = []
        self._winner: _Racer | None = None
        exchange.drain = False

    @property
    def second(self) -> Choice | None:
        """Where the second attempt went, if there was one."""
        return self._racers[1].choice if len(self._racers) > 1 else None

    async def run(self, choice: Choice, prepared: Prepared, delay: float, find_second: FindSecond) -> Result:
        """Makes the attempt, and after `delay` seconds without an answer's beginning the one that `find_second` gives."""
        try:
            first = self._start(choice, prepared, self._exchange.purpose)
            await asyncio.wait({first.task}, timeout=delay)
            if self._winner is None and not first.task.done():
                second = await find_second()
                if second is not None:
                    self._start(*second, PURPOSE)
            while pending := self._list_running():
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._pass_on_interruption()
            if self._exchange.interruption != "total":
                raise
            # Each of them has settled, and has told a caller who had its answer's beginning already.
            self._exchange.take_interruption()
        return self._collect()

    def _start(self, choice: Choice, prepared: Prepared, purpose: str) -> _Racer:
        racer = _Racer(choice)
        racer.child = child = self._exchange.child(partial(self._send, racer), purpose)
        child.racing = True
        self._racers.append(racer)
        racer.task = child.task = asyncio.create_task(self._dispatcher.attempt(child, choice, prepared))
        for one in self._racers:
            one.child.attempts = self._exchange.attempts
        return racer

    async def _send(self, racer: _Racer, message: dict[str, Any]) -> None:
        """Passes on what the first one sends that has anything to send; what another one still says goes nowhere."""
        exchange = self._exchange
        if self._winner is None:
            self._winner = racer
            for other in self._racers:
                if other is not racer:
                    other.child.interrupt("outrun")
        if self._winner is not racer:
            return
        if message["type"] == "http.response.start":
            exchange.status, exchange.sent_anything = message["status"], True
        elif not message.get("more_body"):
            exchange.finished = True
        await exchange.send(message)

    def _list_running(self) -> list[asyncio.Task[Failure | None]]:
        return [racer.task for racer in self._racers if not racer.task.done()]

    async def _pass_on_interruption(self) -> None:
        why = self._exchange.interruption
        for racer in self._racers:
            if why:
                racer.child.interrupt(why)
            else:
                racer.task.cancel()
        if running := self._list_running():
            await asyncio.wait(running)
        for racer in self._racers:
            _settled(racer)

    def _collect(self) -> Result:
        failures: list[tuple[Choice, Failure]] = []
        for racer in self._racers:
            if not _settled(racer) or (self._winner is not None and racer is not self._winner):
                continue
            failure = racer.task.result()  # Raises what the attempt raised.
            if failure is None:
                self._take_over(racer.child)
                return racer.choice, []
            failures.append((racer.choice, failure))
        return None, failures

    def _take_over(self, child: Exchange) -> None:
        exchange = self._exchange
        exchange.losses = child.losses
        exchange.began_at, exchange.received_at = child.began_at, child.received_at
        exchange.upstream_seconds = child.upstream_seconds


def _settled(racer: _Racer) -> bool:
    """Whether its attempt came to an end of its own. What a cancelled one raised stands in its account, and is nobody's error."""
    if racer.task.cancelled():
        return False
    racer.task.exception()
    return True
