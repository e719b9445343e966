"""Asks a model once more within a request: for a repair, a check, a step of a plan. Data plane.

The call goes by the request's own decision, under its key, and is accounted as an attempt of the request, with its own purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.body import Body
from gateway.exchange import Exchange
from gateway.failover import Failover
from tokenhub.core.errors import AllAttemptsFailed

_GOOD = range(200, 300)


class _Answer:
    """Takes what an exchange sends."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message["body"]


class InnerCalls:
    """Makes calls within requests. One object a worker."""

    def __init__(self, failover: Failover) -> None:
        self._failover = failover

    async def ask(self, exchange: Exchange, body: Mapping[str, Any], purpose: str) -> bytes:
        """The whole answer to `body`, which is of the request's own format (of an envelope: a chat of OpenAI's).

        No stage of the request sees it. `purpose` is what the ledger calls the attempt. Raises a TokenhubError where no answer
        came.
        """
        decision = exchange.decision
        if decision is None:
            raise ValueError("a request that is not routed yet can't be asked again")
        answer = _Answer()
        child = exchange.child(answer.send, purpose)
        child.wire = exchange.wire.bare
        child.body = Body(msgspec.json.encode(body), dict(body))
        child.forget_call()
        child.estimated = 0
        child.stream, child.stages, child.directives = False, (), None
        try:
            await self._failover.serve(child, decision)
        finally:
            exchange.attempts = child.attempts
            exchange.upstream_seconds = child.upstream_seconds
        if answer.status not in _GOOD:
            raise AllAttemptsFailed(f"the provider refused a call for {purpose} with status {answer.status}")
        return bytes(answer.body)
