"""`WS /v1/stream`: the consumer API over one WebSocket, several requests in flight, each under its caller's id. Data plane.

From the caller: `{"id": "a", "path": "/v1/chat/completions", "body": {…}}` starts a request, `{"id": "a", "cancel": true}` ends
it. To the caller, each with the `id`: `{"type": "start", "status", "headers"}`, then for a stream `{"type": "event", "event",
"data"}` each, or for a whole answer `{"type": "body", "body"}`, and at last `{"type": "end"}`. The key comes with the handshake
(`Authorization` or `x-api-key`), or, for browsers, in a first message `{"key": "thk_…"}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from gateway.app import Gateway
from gateway.authenticate import authenticate
from gateway.worker import Worker
from tokenhub.core.errors import TokenhubError
from tokenhub.core.sse import EventReader

Message = dict[str, Any]
MOST_IN_FLIGHT = 64
_LONGEST_FIRST = 1024
_FIRST_SECONDS = 10.0
_CLOSE_REFUSED = 4401
_CLOSE_TOO_BIG = 1009


class _Asked(msgspec.Struct):
    """One message of the caller's. The body stays as it was sent: the pipeline parses it, under its own rules."""

    id: Any = None
    path: Any = "/v1/chat/completions"
    body: msgspec.Raw = msgspec.Raw(b"null")
    cancel: Any = None
    key: Any = None


_asked = msgspec.json.Decoder(_Asked)


class StreamSocket:
    """The WebSocket application."""

    def __init__(self, gateway: Gateway, worker: Worker) -> None:
        self._gateway = gateway
        self._worker = worker

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """One connection, until either side closes it."""
        await receive()
        await send({"type": "websocket.accept"})
        session = _Session(self._gateway, self._worker, scope, send)
        try:
            if session.has_key and not await session.check_key(told=False):
                return
            while True:
                async with asyncio.timeout(None if session.known else _FIRST_SECONDS):
                    message = await receive()
                if message["type"] != "websocket.receive" or not await session.take(message):
                    return
        except TimeoutError:
            await send({"type": "websocket.close", "code": _CLOSE_REFUSED})
        finally:
            await session.close()


class _Session:
    def __init__(
        self,
        gateway: Gateway,
        worker: Worker,
        scope: dict[str, Any],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self._gateway = gateway
        self._worker = worker
        self._headers: list[tuple[bytes, bytes]] = [
            pair
            for pair in scope["headers"]
            if pair[0] in (b"authorization", b"x-api-key", b"anthropic-version")
        ]
        self._client = scope.get("client")
        self._query = scope["query_string"]
        self._send = send
        self._calls: dict[str, _Call] = {}
        self._known = False

    @property
    def known(self) -> bool:
        """Whether a good key was shown."""
        return self._known

    async def take(self, message: Message) -> bool:
        """Handles one message. False: the connection is to be closed."""
        raw = message.get("bytes") or (message.get("text") or "").encode()
        # Nobody unknown has megabytes parsed for him.
        if len(raw) > (self._worker.config.max_body_bytes if self._known else _LONGEST_FIRST):
            await self._send({"type": "websocket.close", "code": _CLOSE_TOO_BIG})
            return False
        try:
            asked = _asked.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            problem = {"code": "invalid_json", "message": "send one JSON object a message"}
            await self._tell("", type="error", error=problem)
            return True
        if asked.key is not None:
            # In place of the one before: headers that stand twice are refused, and a list of them would only grow.
            key = b"Bearer " + str(asked.key).encode("latin-1", "replace")
            kept = [pair for pair in self._headers if pair[0] == b"anthropic-version"]
            self._headers = [*kept, (b"authorization", key)]
            return await self.check_key()
        if not self._known:
            return await self.check_key()
        return await self._start_or_cancel(asked)

    async def check_key(self, *, told: bool = True) -> bool:
        """Checks the key at hand. False: it is told to be bad, and the connection closed."""
        worker = self._worker
        try:
            authenticate(
                worker.current.get(),
                dict(self._headers),
                self._query,
                peppers=worker.config.peppers,
                now=worker.wall(),
            )
        except TokenhubError as error:
            await self._tell("", type="error", error={"code": error.code, "message": error.message})
            await self._send({"type": "websocket.close", "code": _CLOSE_REFUSED})
            return False
        self._known = True
        if told:
            await self._tell("", type="ready")
        return True

    @property
    def has_key(self) -> bool:
        """Whether the handshake brought a key."""
        return any(name != b"anthropic-version" for name, _ in self._headers)

    async def _start_or_cancel(self, asked: _Asked) -> bool:
        call_id = asked.id
        if not isinstance(call_id, str) or not 0 < len(call_id) <= 100:
            problem = {
                "code": "invalid_request",
                "message": "id: a text of 1 to 100 characters is needed",
                "param": "id",
            }
            await self._tell("", type="error", error=problem)
        elif asked.cancel is True:
            if call_id in self._calls:
                self._calls[call_id].leave()
        elif call_id in self._calls:
            await self._tell(
                call_id, type="error", error={"code": "conflict", "message": "this id is in flight already"}
            )
        elif len(self._calls) >= MOST_IN_FLIGHT:
            problem = {
                "code": "rate_limited",
                "message": f"at most {MOST_IN_FLIGHT} requests may be in flight here",
            }
            await self._tell(call_id, type="error", error=problem)
        else:
            self._start(call_id, asked)
        return True

    def _start(self, call_id: str, asked: _Asked) -> None:
        path, content = asked.path, bytes(asked.body)
        call = _Call(self._send, call_id, content)
        self._calls[call_id] = call
        scope = {
            "type": "http",
            "method": "POST",
            "path": path if isinstance(path, str) else "",
            "query_string": self._query,
            "headers": [*self._headers, (b"content-type", b"application/json")],
            "client": self._client,
        }
        call.task = asyncio.create_task(self._gateway(scope, call.receive, call.send))
        call.task.add_done_callback(lambda _: self._calls.pop(call_id, None))

    async def close(self) -> None:
        """The caller is gone: so is each of its requests."""
        calls = list(self._calls.values())
        for call in calls:
            call.leave()
        await asyncio.gather(*(call.task for call in calls if call.task is not None), return_exceptions=True)

    async def _tell(self, call_id: str, **fields: Any) -> None:
        await _tell(self._send, call_id, **fields)


class _Call:
    """One request: an ASGI receive and send of its own, over the shared socket."""

    def __init__(self, send: Callable[[Message], Awaitable[None]], call_id: str, body: bytes) -> None:
        self._socket = send
        self._id = call_id
        self._body: bytes | None = body
        self._left = asyncio.Event()
        self._reader: EventReader | None = None
        self._whole: list[bytes] = []
        self.task: asyncio.Task[None] | None = None

    def leave(self) -> None:
        """As if the caller had closed a connection of its own."""
        self._left.set()

    async def receive(self) -> Message:
        """The request's body, then, when it comes, the caller's leave."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Turns the answer's parts into messages."""
        if self._left.is_set():
            return
        try:
            await self._pass(message)
        except OSError:
            # The socket is gone: to the pipeline that is a caller who left, not a fault.
            self.leave()

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
            if headers.get("content-type", "").startswith("text/event-stream"):
                self._reader = EventReader()
            await _tell(self._socket, self._id, type="start", status=message["status"], headers=headers)
            return
        await self._pass_body(message.get("body", b""))
        if not message.get("more_body"):
            if self._reader is None:
                await _tell(self._socket, self._id, type="body", body=_json_or_text(b"".join(self._whole)))
            await _tell(self._socket, self._id, type="end")

    async def _pass_body(self, data: bytes) -> None:
        if self._reader is None:
            self._whole.append(data)
            return
        for event in self._reader.feed(data):
            if event.data is not None:
                await _tell(
                    self._socket, self._id, type="event", event=event.name, data=_json_or_text(event.data)
                )


def _json_or_text(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data.decode("utf-8", "replace")


async def _tell(send: Callable[[Message], Awaitable[None]], call_id: str, **fields: Any) -> None:
    await send({"type": "websocket.send", "text": msgspec.json.encode({"id": call_id, **fields}).decode()})
