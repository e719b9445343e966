"""Bounds the bodies of requests to Django, in bytes and in seconds. Control plane; bare ASGI, in front of Django.

Django writes a body to a temporary file to its end before it looks at the request, whoever sent it.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from tokenhub.control.problems import MEDIA_TYPE, REQUEST_ID_HEADER, problem
from tokenhub.core.errors import PayloadTooLarge, RequestTimeout, TokenhubError

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BYTES = 10_000_000
_API = "/admin/v1"


class BoundedBody:
    """An ASGI application that answers 413 to a body over `max_bytes`, and 408 to one that takes over `seconds`.

    Nothing is kept: pieces go on as they come. After either answer the connection is closed, the rest unread.
    """

    def __init__(self, application: Application, *, seconds: float, max_bytes: int = MAX_BYTES) -> None:
        self._application = application
        self._seconds = seconds
        self._max_bytes = max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one HTTP request."""
        body = _Body(receive, self._max_bytes, self._seconds)
        if _announced_bytes(scope) > self._max_bytes:
            body.refusal = body.too_large()
        else:
            await self._application(scope, body.receive, body.guard(send))
        if body.refusal is not None:
            await _answer(scope["path"], body.refusal, send)


class _Body:
    """One request's body on its way. `refusal` is why it was cut short, None while it was not."""

    def __init__(self, receive: Receive, max_bytes: int, seconds: float) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._taken = 0
        self._ended = False
        self.refusal: TokenhubError | None = None

    async def receive(self) -> Message:
        """The next message. The application is told that the caller left where the body is refused."""
        if self._ended:
            return await self._receive()
        if self.refusal is None:
            try:
                async with asyncio.timeout_at(self._deadline):
                    message = await self._receive()
            except TimeoutError:
                self.refusal = RequestTimeout(f"The body did not arrive within {self._seconds:g} seconds.")
            else:
                self._taken += len(message.get("body", b""))
                if self._taken <= self._max_bytes:
                    self._ended = not message.get("more_body", False)
                    return message
                self.refusal = self.too_large()
        return {"type": "http.disconnect"}

    def guard(self, send: Send) -> Send:
        """`send`, deaf once the body is refused: that answer is not the application's."""

        async def guarded(message: Message) -> None:
            if self.refusal is None:
                await send(message)

        return guarded

    def too_large(self) -> TokenhubError:
        """Why a body over the limit is refused."""
        return PayloadTooLarge(f"The body is longer than {self._max_bytes} bytes.")


def _announced_bytes(scope: Message) -> int:
    """What content-length says; 0 where it is absent or no number, since the bytes are counted anyway."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value[:20])
    return 0


async def _answer(path: str, refusal: TokenhubError, send: Send) -> None:
    identity = f"req_{uuid.uuid4().hex}"
    if path == _API or path.startswith(_API + "/"):
        described = problem(refusal.status, refusal.code, refusal.message, request_id=identity)
        kind, content = MEDIA_TYPE, json.dumps(described).encode()
    else:
        kind, content = "text/plain; charset=utf-8", f"{refusal.message}\n".encode()
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
        (REQUEST_ID_HEADER.encode(), identity.encode()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
