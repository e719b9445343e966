"""The gateway's ASGI application: paths, the health pages, and the one place where errors become answers. Data plane."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from hmac import compare_digest
from typing import Any

from gateway.authenticate import authenticate, check_scope
from gateway.body import ClientGone, Receive
from gateway.exchange import Exchange, Headers, Send
from gateway.metrics import Metrics, SharedCounts
from gateway.models import get_model, list_models
from gateway.wire.anthropic_count_tokens import AnthropicCountTokens
from gateway.wire.anthropic_messages import AnthropicMessages
from gateway.wire.base import WireFormat
from gateway.wire.envelope import Envelope
from gateway.wire.openai_chat import OpenAIChat
from gateway.wire.openai_completions import OpenAICompletions
from gateway.wire.openai_embeddings import OpenAIEmbeddings
from gateway.worker import Worker
from tokenhub.core.errors import (
    AuthenticationFailed,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TokenhubError,
)
from tokenhub.core.specs import KeySpec, Snapshot

Scope = dict[str, Any]
MODELS = "/v1/models"
DECISIONS = "/v1/decisions/"
FindDecision = Callable[[str, str], Awaitable[bytes | None]]
PATHS = ("/healthz", "/readyz", "/metrics")
"""Paths outside `/v1` that the gateway answers too."""

CONSUMER_PATHS: Mapping[str, Callable[[], WireFormat]] = {
    "/v1/chat/completions": OpenAIChat,
    "/v1/chat": Envelope,
    "/v1/completions": OpenAICompletions,
    "/v1/embeddings": OpenAIEmbeddings,
    "/v1/messages": AnthropicMessages,
    "/v1/messages/count_tokens": AnthropicCountTokens,
}
"""The paths that lead to a provider, and the wire format of each."""

CLIENT_CLOSED = 499
"""What metrics call the status of a request whose caller went away."""

_SINGLE = frozenset(
    {b"authorization", b"x-api-key", b"content-type", b"content-encoding", b"anthropic-version"}
)
_logger = logging.getLogger("tokenhub.gateway")


class Gateway:
    """Serves `/v1/*` and the health pages. `extra_metrics` gives the control plane's part of `/metrics`.

    `find_decision` gives the kept decision of a request that was made with a key: JSON by request and key id, None for none.
    """

    def __init__(
        self,
        worker: Worker,
        shared: SharedCounts,
        extra_metrics: Callable[[], Awaitable[bytes]] | None = None,
        find_decision: FindDecision | None = None,
    ) -> None:
        self._worker = worker
        self._shared = shared
        self._extra_metrics = extra_metrics
        self._find_decision = find_decision
        self._wires: Mapping[str, WireFormat] = {path: wire() for path, wire in CONSUMER_PATHS.items()}
        self._default_wire = self._wires["/v1/chat/completions"]
        self._anthropic_wire = self._wires["/v1/messages"]
        self._problem_wire = self._wires["/v1/chat"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        path = scope["path"]
        wire = self._wires.get(path)
        if wire is not None:
            await self._consume(wire, scope, receive, send)
        elif path in PATHS:
            await self._operate(path, scope, send)
        else:
            await self._look_up(path, scope, send)

    async def _consume(self, wire: WireFormat, scope: Scope, receive: Receive, send: Send) -> None:
        worker = self._worker
        request_id = "req_" + worker.ledger.new_id()
        exchange = Exchange(wire, dict(scope["headers"]), scope["query_string"], send, request_id)
        began = worker.clock()
        refused: TokenhubError | None = None
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(f"{scope['path']} takes POST, not {scope['method']}")
            _refuse_ambiguous(scope["headers"], exchange.headers)
            await worker.pipeline.run(exchange, receive)
        except ClientGone:
            exchange.status = CLIENT_CLOSED
        except TokenhubError as error:
            refused = error
            await _send_error(exchange, error)
        except asyncio.CancelledError:
            why = exchange.take_interruption()
            if not why:
                raise
            if why == "total":
                # Between two attempts, so that none of them could tell; the caller is still there.
                await _send_error(exchange, DeadlineExceeded("no answer in time (deadline total)"))
            else:
                exchange.status = CLIENT_CLOSED
        except Exception:
            # The last door: whatever slipped through is our fault, told as such, with its trace in the log only.
            _logger.exception("request failed", extra={"request_id": request_id})
            await _send_error(
                exchange, InternalError("an internal error occurred; it is logged under the request id")
            )
        finally:
            metrics, operation = worker.metrics, wire.operation.value
            metrics.add("requests", (operation, str(exchange.status)))
            metrics.observe("request_seconds", (operation,), worker.clock() - began)
            worker.decisions.note(exchange, refused)
            if exchange.began_at:
                metrics.observe("overhead_seconds", (operation,), exchange.began_at - exchange.started_at)

    async def _look_up(self, path: str, scope: Scope, send: Send) -> None:
        """The model list, one model, a decision, or no such path."""
        worker = self._worker
        headers = dict(scope["headers"])
        wire = self._anthropic_wire if b"anthropic-version" in headers else self._default_wire
        if path.startswith(DECISIONS):
            wire = self._problem_wire
        exchange = Exchange(wire, headers, scope["query_string"], send, "req_" + worker.ledger.new_id())
        try:
            if path != MODELS and not path.startswith((MODELS + "/", DECISIONS)):
                raise NotFound(
                    f"no such path: {path[:200]}", hint="see /admin/v1/docs and the README for what is served"
                )
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodNotAllowed(f"{path[:200]} takes GET, not {scope['method']}")
            _refuse_ambiguous(scope["headers"], headers)
            exchange.snapshot = snapshot = worker.current.get()
            key = authenticate(
                snapshot, headers, exchange.query, peppers=worker.config.peppers, now=worker.wall()
            )
            body = await self._find(path, snapshot, key, headers, exchange.query)
            answer_headers: Headers = [
                (b"content-type", b"application/json"),
                *exchange.identity(),
                (b"x-tokenhub-revision", b"%d" % snapshot.revision),
            ]
            await exchange.answer(200, answer_headers, b"" if scope["method"] == "HEAD" else body)
        except TokenhubError as error:
            await _send_error(exchange, error)
        kind = "decisions" if wire is self._problem_wire else "models"
        worker.metrics.add("requests", (kind, str(exchange.status)))

    async def _find(
        self, path: str, snapshot: Snapshot, key: KeySpec, headers: Mapping[bytes, bytes], query: bytes
    ) -> bytes:
        """What is looked up, as JSON. Raises PermissionDenied, NotFound."""
        if path.startswith(DECISIONS):
            # Whoever may ask for an answer may ask why it came from where it did.
            found = None
            if self._find_decision is not None:
                found = await self._find_decision(path[len(DECISIONS) :][:100], key.id)
            if found is None:
                raise NotFound(
                    "no decision is kept of a request of this key with this id",
                    hint="a decision is there within two seconds; above a rate only some are kept, and not for ever",
                )
            return found
        check_scope(key, "models")
        name = path[len(MODELS) + 1 :]
        return get_model(snapshot, key, headers, name) if name else list_models(snapshot, key, headers, query)

    async def _operate(self, path: str, scope: Scope, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, b"text/plain", b"GET only\n"
        elif path == "/healthz":
            status, kind, body = 200, b"application/json", b'{"status":"alive"}'
        elif path == "/readyz":
            status, body = self._worker.readiness()
            kind = b"application/json"
        elif not _may_scrape(scope, self._worker):
            status, kind, body = 403, b"text/plain", b"metrics need the token or an allowed address\n"
        else:
            status, kind, body = 200, b"text/plain; version=0.0.4; charset=utf-8", await self._metrics()
        headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _metrics(self) -> bytes:
        total: Metrics = self._shared.gather(self._worker.gauged_metrics())
        extra = await self._extra_metrics() if self._extra_metrics is not None else b""
        return total.render() + extra


def _refuse_ambiguous(pairs: list[tuple[bytes, bytes]], headers: Mapping[bytes, bytes]) -> None:
    """A header that decides who the caller is, or how the body reads, must stand once."""
    if len(pairs) == len(headers):
        return
    seen: set[bytes] = set()
    for name, _ in pairs:
        if name in seen and name in _SINGLE:
            raise InvalidRequest(
                f"the header {name.decode('latin-1')} stands twice", param=name.decode("latin-1")
            )
        seen.add(name)


def _may_scrape(scope: Scope, worker: Worker) -> bool:
    config = worker.config
    authorization = dict(scope["headers"]).get(b"authorization", b"")
    if config.metrics_token and compare_digest(authorization, b"Bearer " + config.metrics_token.encode()):
        return True
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0]) if client else None
    except ValueError:
        return False
    return address is not None and any(
        address in ipaddress.ip_network(network) for network in config.metrics_allow
    )


async def _send_error(exchange: Exchange, error: TokenhubError) -> None:
    """An error in the caller's own format: as the answer, or, once a stream has begun, as its error event."""
    if exchange.finished:
        return
    if exchange.sent_anything:
        await exchange.write(exchange.wire.error_event(error, exchange.request_id), more=False)
        return
    headers: Headers = [
        (b"content-type", exchange.wire.error_type),
        *exchange.identity(),
        (b"x-tokenhub-attempts", b"%d" % exchange.attempts),
    ]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    if isinstance(error, AuthenticationFailed):
        headers.append((b"www-authenticate", b"Bearer"))
    await exchange.answer(error.status, headers, exchange.wire.error_body(error, exchange.request_id))
