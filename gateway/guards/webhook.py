"""Asks an operator's own service about the texts of a request or an answer: allow, block, or other texts. Data plane.

    POST {"guard", "policy", "side": "before" | "after", "request_id", "team", "project", "key_id", "model", "texts": [...]}
    →    {"action": "allow"}, {"action": "block", "message": "..."} or {"action": "replace", "texts": [as many]}

`x-tokenhub-signature: t=UNIX_SECONDS,v1=HEX` is the HMAC-SHA256 of `t.body` under the guard's secret.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from gateway.exchange import Exchange
from gateway.upstream.seam import Origin, Upstream, UpstreamFault, UpstreamRequest
from tokenhub.core.errors import GuardBlocked, GuardUnavailable
from tokenhub.core.policies import GuardSpec

VARIABLE_PREFIX: Final = "TOKENHUB_GUARD_"
MOST_AT_ONCE: Final = 64
_MOST_ANSWER_BYTES: Final = 16_000_000
_LONGEST_MESSAGE: Final = 300

Side = Literal["before", "after"]


class _Verdict(msgspec.Struct):
    action: Literal["allow", "block", "replace"]
    message: str = ""
    texts: list[str] | None = None


class _Unusable(Exception):
    """What keeps a guard from having its say, in words for the caller: no part of an answer of its."""


class Webhooks:
    """Asks webhook guards. One object a worker; `find_variable` reads a secret, `wall` gives Unix seconds."""

    def __init__(
        self, upstream: Upstream, find_variable: Callable[[str], str], wall: Callable[[], float]
    ) -> None:
        self._upstream = upstream
        self._find_variable = find_variable
        self._wall = wall
        self._free = asyncio.Semaphore(MOST_AT_ONCE)

    async def ask(
        self, guard: GuardSpec, exchange: Exchange, side: Side, texts: Sequence[str]
    ) -> Sequence[str]:
        """The texts as they may go on. Raises GuardBlocked, or GuardUnavailable where the guard fails closed."""
        try:
            async with asyncio.timeout(guard.timeout_ms / 1000):
                verdict = await self._call(guard, exchange, side, texts)
        except TimeoutError:
            return self._fail(guard, texts, f"it gave no answer within {guard.timeout_ms} ms")
        except _Unusable as error:
            return self._fail(guard, texts, str(error))
        if verdict.action == "block":
            subject = "request" if side == "before" else "answer"
            said = f": {verdict.message[:_LONGEST_MESSAGE]}" if verdict.message else ""
            raise GuardBlocked(
                f"the guard {guard.name!r} refuses the {subject}{said}",
                details={"guard": guard.name, "in": subject},
            )
        return texts if verdict.texts is None or verdict.action == "allow" else verdict.texts

    async def _call(self, guard: GuardSpec, exchange: Exchange, side: Side, texts: Sequence[str]) -> _Verdict:
        request = await asyncio.to_thread(self._write, guard, exchange, side, texts)
        seconds = guard.timeout_ms / 1000
        async with self._free:
            try:
                response = await self._upstream.send(request, connect_timeout=seconds, head_timeout=seconds)
                try:
                    body = await response.read_all(_MOST_ANSWER_BYTES, seconds)
                finally:
                    response.close()
            except (UpstreamFault, ValueError) as error:
                raise _Unusable(
                    "it can't be reached" if isinstance(error, UpstreamFault) else "its URL is none"
                ) from error
        if response.status != 200:
            raise _Unusable(f"it answered with status {response.status}")
        try:
            verdict = await asyncio.to_thread(msgspec.json.decode, body, type=_Verdict)
        except (ValueError, RecursionError) as error:
            raise _Unusable("its answer is not what a guard says") from error
        if verdict.action == "replace" and (verdict.texts is None or len(verdict.texts) != len(texts)):
            raise _Unusable(f"it replaces {len(verdict.texts or ())} texts of {len(texts)}")
        return verdict

    def _write(
        self, guard: GuardSpec, exchange: Exchange, side: Side, texts: Sequence[str]
    ) -> UpstreamRequest:
        decision = exchange.decision
        policy = decision.plan.policy if decision is not None else None
        told: dict[str, Any] = {
            "guard": guard.name,
            "policy": policy.name if policy is not None else "",
            "side": side,
            "request_id": exchange.request_id,
            "team": exchange.key.team,
            "project": exchange.key.project,
            "key_id": exchange.key.id,
            "model": exchange.asked,
            "texts": list(texts),
        }
        body = msgspec.json.encode(told)
        headers = [(b"content-type", b"application/json"), (b"user-agent", b"tokenhub")]
        if guard.secret:
            secret = self._find_variable(guard.secret) if guard.secret.startswith(VARIABLE_PREFIX) else ""
            if not secret:
                raise _Unusable(f"its secret {guard.secret} is not set")
            at = b"%d" % self._wall()
            signed = hmac.new(secret.encode(), at + b"." + body, "sha256").hexdigest().encode()
            headers.append((b"x-tokenhub-signature", b"t=" + at + b",v1=" + signed))
        try:
            url = urlsplit(guard.url)
            port = url.port or (443 if url.scheme == "https" else 80)
            origin = Origin(url.scheme, url.hostname or "", port)
        except ValueError as error:
            raise _Unusable("its URL is none") from error
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        return UpstreamRequest(origin, b"POST", target.encode(), tuple(headers), body)

    def _fail(self, guard: GuardSpec, texts: Sequence[str], why: str) -> Sequence[str]:
        if guard.failure == "open":
            return texts
        raise GuardUnavailable(
            f"the guard {guard.name!r} can't be asked: {why}", retry_after=1, details={"guard": guard.name}
        )
