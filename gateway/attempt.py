"""One attempt of a request: dispatched, classified or answered, and accounted. Data plane.

target ─▶ intent ─▶ send ─▶ head ─┬─ not 2xx ─▶ classify ─▶ a failure, for `gateway.failover`
                                ├─ whole    ─▶ check, price, final ─▶ stages ─▶ answer
                                └─ stream   ─▶ relay, through the stages ─▶ final ─▶ last byte
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from gateway.body import SMALL, ClientGone
from gateway.exchange import Exchange, Headers, Tried, header_value
from gateway.health import HealthBoard
from gateway.masking import mask_failure, storable_detail
from gateway.relay import NativeSide, Side, StreamRelay, TranslatedSide, asked_limit, failure_of
from gateway.settle import Account, Ledger, estimate_cost, estimate_usage
from gateway.targets import Choice
from gateway.upstream.seam import (
    Origin,
    Upstream,
    UpstreamFault,
    UpstreamRequest,
    UpstreamResponse,
    UpstreamTimeout,
)
from gateway.wire.base import Figures
from providers.adapters.base import Failure, Inbound, Operation, WireRequest
from tokenhub.core.errors import TokenhubError
from tokenhub.core.money import usd_from_nanos
from tokenhub.core.rate_limits import read_exhausted
from tokenhub.core.records import record
from tokenhub.core.specs import EndpointSpec, ProviderSpec, TimeoutsSpec
from tokenhub.core.usage import NOTHING_USED, Usage

_ERROR_BODY_LIMIT = 1_000_000
_LAST_WORDS_SECONDS = 1.0
_UPSTREAM_ID_HEADERS = (b"x-request-id", b"request-id")


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The network client, and the in-process one of each simulated provider."""

    network: Upstream
    in_process: Callable[[ProviderSpec], Upstream]


@record(frozen=True, slots=True)
class Prepared:
    """One attempt's request, and whether its answer must be translated back."""

    wire: WireRequest
    operation: Operation
    native: bool


class Dispatcher:
    """Makes attempts, one at a time. One object a worker; `clock` is monotonic."""

    def __init__(
        self,
        upstreams: Upstreams,
        ledger: Ledger,
        board: HealthBoard,
        *,
        clock: Callable[[], float],
        max_answer_bytes: int,
    ) -> None:
        self._upstreams = upstreams
        self._ledger = ledger
        self._board = board
        self._clock = clock
        self._max_answer_bytes = max_answer_bytes
        self._origins: dict[tuple[str, str, int], Origin] = {}

    async def attempt(self, exchange: Exchange, choice: Choice, prepared: Prepared) -> Failure | None:
        """One attempt, one account. None: the caller has been answered. A TokenhubError: a stage refused the answer."""
        health = self._board.measure(choice.target.model)
        account = self._ledger.open(exchange, choice.target, choice.credential.id.partition("@")[0], health)
        tried = Tried(choice, account)
        exchange.tried.append(tried)
        account.translated = not prepared.native
        exchange.drain = choice.target.provider.on_disconnect == "drain"
        relay: StreamRelay | None = None
        endpoint_id = choice.target.endpoint.id
        self._board.enter(endpoint_id)
        exchange.began_at = exchange.received_at = now = self._clock()
        health.began(account, now)
        try:
            if exchange.stream:
                relay = self._make_relay(exchange, choice, prepared, account)
            failure = await self._exchange_bytes(exchange, choice, prepared, account, relay)
        except asyncio.CancelledError:
            failure = await self._interrupted(exchange, choice, account, relay)
            if failure is None:
                self._board.endpoint_left(endpoint_id)
                raise
        except TokenhubError:
            if account.closed:  # The provider did its part, and what stands behind it refused the answer.
                self._tell_board(choice, account, None)
            account.close("failed", account.estimate_unanswered(), error_class="internal")
            raise
        except BaseException:
            # Whatever broke on our side: the provider generated what was relayed, and bills it.
            used = relay.usage() if relay is not None and relay.committed else account.estimate_unanswered()
            account.close("failed", used, error_class="internal")
            raise
        finally:
            self._board.leave(endpoint_id)
            health.left(account)
            exchange.upstream_seconds += self._clock() - exchange.began_at
        tried.failure = failure or (relay.broken if relay is not None else None)
        if failure is not None and relay is not None and relay.committed:
            return None
        self._tell_board(choice, account, failure or (relay.broken if relay is not None else None))
        return failure

    async def prepare(self, exchange: Exchange, choice: Choice) -> Prepared:
        """The target's request; a large one is made in a thread. Raises InvalidRequest if it can't be put in its format."""
        return await off_loop(len(exchange.body.raw), self._prepare, exchange, choice)

    def _prepare(self, exchange: Exchange, choice: Choice) -> Prepared:
        """The target's request. Raises InvalidRequest if the caller's can't be put in its format."""
        adapter, target, operation = choice.adapter, choice.target, exchange.wire.operation
        inbound = Inbound(exchange.headers, exchange.query)
        if operation in adapter.native:
            body = exchange.body.edited(adapter.edits(target, operation, exchange.body.data))
            exchange.losses = exchange.dropped
            return Prepared(
                adapter.request(target, operation, body, inbound, stream=exchange.stream), operation, True
            )
        call = exchange.get_call()
        upstream_operation, body, losses = adapter.encode_chat(call, target)
        exchange.losses = exchange.dropped + call.losses.names() + losses.names()
        wire = adapter.request(target, upstream_operation, body, Inbound({}), stream=exchange.stream)
        return Prepared(wire, upstream_operation, False)

    def _make_relay(
        self, exchange: Exchange, choice: Choice, prepared: Prepared, account: Account
    ) -> StreamRelay:
        side: Side
        if prepared.native:
            watch = choice.adapter.stream_watch(prepared.operation)
            side = NativeSide(watch, None if wants_usage(exchange) else choice.adapter.strip_usage)
        else:
            encoder = exchange.wire.stream_encoder(model=exchange.asked, call=exchange.get_call())
            side = TranslatedSide(choice.adapter.stream_decoder(), encoder, int(self._ledger.wall()))
        for stage in exchange.stages:
            side = stage.side(exchange, side)
        provider = choice.target.provider.name
        metrics = self._ledger.metrics
        relay = StreamRelay(
            exchange,
            account,
            side,
            head=lambda: self._head(exchange, choice, b"text/event-stream; charset=utf-8"),
            clock=self._clock,
            on_malformed=lambda: metrics.add("malformed_events", (provider,)),
            on_heartbeat=lambda: metrics.add("heartbeats", (provider,)),
            max_answer_bytes=self._max_answer_bytes,
            trailer=partial(_trail, exchange, choice, account) if exchange.wire.wraps else None,
        )
        if exchange.racing:
            relay.heartbeat = 0.0
        return relay

    async def _exchange_bytes(
        self,
        exchange: Exchange,
        choice: Choice,
        prepared: Prepared,
        account: Account,
        relay: StreamRelay | None,
    ) -> Failure | None:
        timeouts = choice.target.provider.timeouts
        upstreams, provider = self._upstreams, choice.target.provider
        upstream = upstreams.in_process(provider) if choice.adapter.in_process else upstreams.network
        wire = prepared.wire
        request = UpstreamRequest(
            self._origin(choice.target.endpoint), wire.method, wire.path, wire.headers, wire.body
        )
        try:
            sending = upstream.send(
                request,
                connect_timeout=timeouts.connect,
                head_timeout=timeouts.first_event,
                on_sent=account.note_sent,
            )
            if relay is not None and relay.heartbeat:
                response = await relay.wait_for_head(sending)
            else:
                response = await sending
            try:
                return await self._receive(exchange, choice, prepared, account, relay, response)
            finally:
                response.close()
        except UpstreamFault as fault:
            failure = failure_of(fault, *_running_deadline(fault, timeouts))
            if fault.sent:
                account.note_sent()
            return _close_failed(account, failure, status=0, usage=account.estimate_unanswered())

    async def _receive(
        self,
        exchange: Exchange,
        choice: Choice,
        prepared: Prepared,
        account: Account,
        relay: StreamRelay | None,
        response: UpstreamResponse,
    ) -> Failure | None:
        headers = dict(response.headers)
        account.upstream_request_id = _find_upstream_id(headers)
        timeouts = choice.target.provider.timeouts
        if not 200 <= response.status < 300:
            account.may_cost = False
            try:
                body = await response.read_all(_ERROR_BODY_LIMIT, timeouts.between_events)
            except UpstreamFault:
                body = b""  # The status says enough; a refusal must not pass for a broken endpoint.
            return _close_failed(account, _classify(choice, response.status, headers, body))
        exhausted = read_exhausted(headers)
        if exhausted is not None:
            # Known before the provider has to refuse: the next requests go elsewhere, if there is anywhere.
            self._board.credential_limited(choice.credential.id, choice.candidate.model.id, exhausted)
        if headers.get(b"content-encoding", b"identity") not in (b"identity", b""):
            # We asked for none; relaying it would hide usage and errors from us.
            failure = Failure("transient", 502, "the provider sent an encoded body unasked", ours=True)
            return _close_failed(account, failure, usage=account.estimate_unanswered())
        if relay is not None and headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            return await relay.run(response)
        body = await response.read_all(self._max_answer_bytes, timeouts.between_events)
        exchange.received_at = self._clock()
        if relay is not None:
            # A whole answer where a stream was asked: of no use to the caller, but billed.
            failure = _classify(choice, response.status, headers, body)
            return _close_failed(
                account, failure, usage=self._find_used(exchange, choice, prepared, account, body)
            )
        return await self._answer(exchange, choice, prepared, account, headers, body)

    async def _answer(
        self,
        exchange: Exchange,
        choice: Choice,
        prepared: Prepared,
        account: Account,
        headers: Mapping[bytes, bytes],
        body: bytes,
    ) -> Failure | None:
        """A whole answer: checked, accounted, then sent."""
        try:
            usage, finish, model = await off_loop(
                len(body), choice.adapter.read_answer, prepared.operation, body
            )
        except ValueError:
            used = NOTHING_USED if _is_error(body) else account.estimate_unanswered()
            return _close_failed(account, _classify(choice, 200, headers, body), usage=used)
        account.served_model = model
        try:
            out = (
                body
                if prepared.native
                else await off_loop(len(body), self._translate, exchange, choice, body)
            )
        except ValueError:
            # No answer for this caller, but the provider told what it bills.
            failure = _classify(choice, 200, headers, body)
            used = usage or self._estimate(exchange, account, len(body))
            return _close_failed(account, failure, usage=used)
        account.note_whole(exchange.received_at, usage.output_total if usage is not None else 0)
        if usage is None:
            usage = self._estimate(exchange, account, len(body))
        account.close(
            "completed", usage, status=200, finish_reason=finish, disconnected=exchange.disconnected
        )
        for stage in exchange.stages:
            out = await stage.whole(exchange, account, out)
        answer_headers = self._head(exchange, choice, b"application/json")
        cost = exchange.cost_nanos()
        if cost is not None:
            answer_headers.append((b"x-tokenhub-cost-usd", usd_from_nanos(cost).encode()))
        if exchange.wire.wraps:
            out = exchange.wire.wrap(out, _figures(exchange, choice, account))
        await exchange.answer(200, answer_headers, out)
        return None

    def _translate(self, exchange: Exchange, choice: Choice, body: bytes) -> bytes:
        answer = choice.adapter.decode_chat(body)
        if not answer.created:
            answer = replace(answer, created=int(self._ledger.wall()))
        exchange.losses += answer.losses.names()
        return exchange.wire.write_answer(answer, model=exchange.asked, call=exchange.get_call())

    def _estimate(self, exchange: Exchange, account: Account, characters: int) -> Usage:
        return estimate_usage(
            None,
            account.intent.input_estimate,
            characters,
            account.target.model,
            asked_limit(exchange),
            calibrated=account.calibrated,
        )

    def _find_used(
        self, exchange: Exchange, choice: Choice, prepared: Prepared, account: Account, body: bytes
    ) -> Usage:
        """What an answer used that is of no use to the caller."""
        try:
            usage, _, _ = choice.adapter.read_answer(prepared.operation, body)
        except ValueError:
            return NOTHING_USED if _is_error(body) else account.estimate_unanswered()
        return usage or self._estimate(exchange, account, len(body))

    async def _interrupted(
        self, exchange: Exchange, choice: Choice, account: Account, relay: StreamRelay | None
    ) -> Failure | None:
        """Settles a cancelled attempt. A failure where the total deadline passed; None: somebody else cancels, so go on."""
        why = exchange.take_interruption()
        if why == "total":
            return await self._out_of_time(choice, account, relay)
        if relay is not None and relay.committed:
            relay.settle("cancelled", disconnected=why == "disconnect")
        else:
            used = relay.used_before_content() if relay is not None else account.estimate_unanswered()
            account.close("cancelled", used, disconnected=why == "disconnect")
        if why == "disconnect":
            raise ClientGone
        if why == "outrun":
            account.tell_outrun()
        return None

    async def _out_of_time(self, choice: Choice, account: Account, relay: StreamRelay | None) -> Failure:
        total = choice.target.provider.timeouts.total
        failure = Failure(
            "fatal", 504, f"the request took longer than {total:g} s (deadline total)", code="deadline_total"
        )
        if relay is None:
            return _close_failed(account, failure, usage=account.estimate_unanswered())
        with contextlib.suppress(TimeoutError):  # A caller who reads nothing is not waited for once more.
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await relay.break_off(failure)
        return failure

    def _tell_board(self, choice: Choice, account: Account, failure: Failure | None) -> None:
        endpoint_id, credential_id = choice.target.endpoint.id, choice.credential.id
        account.tell_health(failed=failure is not None and failure.kind in ("transient", "rate_limited"))
        if (
            failure is None
            or failure.of_model
            or failure.kind in ("fatal", "context_overflow", "content_filter")
        ):
            self._board.endpoint_works(endpoint_id)
        elif failure.kind == "rate_limited":
            self._board.credential_limited(credential_id, choice.candidate.model.id, failure.retry_after)
        elif failure.kind == "credential":
            self._board.credential_refused(credential_id)
        else:
            self._board.endpoint_failed(endpoint_id)

    def _head(self, exchange: Exchange, choice: Choice, content_type: bytes) -> Headers:
        """The answer's headers, with what is known by now."""
        headers = [
            (b"content-type", content_type),
            *exchange.identity(),
            (b"x-tokenhub-model", header_value(choice.candidate.model.name)),
            (b"x-tokenhub-provider", header_value(choice.candidate.provider.name)),
            (b"x-tokenhub-attempts", b"%d" % exchange.attempts),
            (b"x-tokenhub-reason", header_value(exchange.reason)),
            (b"x-tokenhub-overhead-ms", b"%.2f" % (exchange.overhead(self._clock()) * 1000)),
            (b"x-tokenhub-revision", b"%d" % exchange.snapshot.revision),
        ]
        if exchange.stream:
            headers += ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
        if exchange.told:
            headers += exchange.told
        if exchange.losses:
            headers.append((b"x-tokenhub-translation", header_value(", ".join(exchange.losses))[:4000]))
        return headers

    def _origin(self, endpoint: EndpointSpec) -> Origin:
        key = (endpoint.scheme, endpoint.host, endpoint.port)
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = Origin(*key)
        return origin


async def off_loop[Result](size: int, work: Callable[..., Result], *arguments: Any) -> Result:
    """The work's result. On megabytes it takes its time, so there a thread does it, beside the other requests."""
    if size <= SMALL:
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


def _figures(exchange: Exchange, choice: Choice, account: Account) -> Figures:
    """What an envelope tells of a settled attempt."""
    model = choice.target.model
    return Figures(
        model=model.name,
        provider=choice.target.provider.name,
        estimated_nanos=estimate_cost(account.intent.input_estimate, asked_limit(exchange), model),
        cost_nanos=exchange.cost_nanos(),
        reason=exchange.reason,
        usage=account.usage,
        decision_id=exchange.request_id,
    )


def _trail(exchange: Exchange, choice: Choice, account: Account) -> bytes:
    return exchange.wire.final_event(_figures(exchange, choice, account))


def wants_usage(exchange: Exchange) -> bool:
    """Whether the caller asked for the usage event itself, or its format always has one."""
    if exchange.wire.operation is Operation.ANTHROPIC_MESSAGES:
        return True
    options = exchange.body.data.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def _running_deadline(fault: UpstreamFault, timeouts: TimeoutsSpec) -> tuple[str, float]:
    """The deadline that was running when a whole answer failed, with its seconds."""
    phase = fault.phase if isinstance(fault, UpstreamTimeout) else ""
    if phase in ("connect", "pool"):
        return "connect", timeouts.connect
    return (
        ("between_events", timeouts.between_events)
        if phase == "read"
        else ("first_event", timeouts.first_event)
    )


def _classify(choice: Choice, status: int, headers: Mapping[bytes, bytes], body: bytes) -> Failure:
    return mask_failure(choice.adapter.classify(status, headers, body), choice.target.secret)


def _close_failed(
    account: Account, failure: Failure, status: int | None = None, usage: Usage = NOTHING_USED
) -> Failure:
    """Closes the account of an attempt that gave nothing. `status` 0: the provider sent none."""
    account.close(
        "failed",
        usage,
        status=failure.status if status is None else status,
        error_class=failure.kind,
        error_detail=storable_detail(failure),
    )
    return failure


def _is_error(body: bytes) -> bool:
    """Whether a body under a good status is an error all the same, which no provider bills."""
    try:
        told = msgspec.json.decode(body)
    except ValueError:
        return False
    return isinstance(told, dict) and (bool(told.get("error")) or told.get("object") == "error")


def _find_upstream_id(headers: Mapping[bytes, bytes]) -> str:
    for name in _UPSTREAM_ID_HEADERS:
        if name in headers:
            return headers[name].decode("latin-1")
    return ""
