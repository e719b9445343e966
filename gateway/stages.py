"""What an answer goes through between the provider and the caller: stages that change it, or refuse it. Data plane.

A request's stages are set before it is routed (`exchange.stages`); most have none. Each sees the answer in the caller's own
format, in their order.
"""

from __future__ import annotations

from typing import Protocol

from gateway.exchange import Exchange
from gateway.relay import Side
from gateway.settle import Account


class AnswerStage(Protocol):
    """One stage of one request. It may raise a TokenhubError, which the caller then gets: the attempt is accounted all the same,
    and no other is made."""

    async def whole(self, exchange: Exchange, account: Account, answer: bytes) -> bytes:
        """The whole answer to pass on. It may wait, and may ask a model again (`gateway.inner`)."""

    def side(self, exchange: Exchange, side: Side) -> Side:
        """The side of a stream that this stage stands behind: one that passes on what `side` gives, changed or held back."""
