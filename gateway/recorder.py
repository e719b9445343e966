"""Records the answer that a caller gets, as it goes out. Data plane."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.exchange import Headers, Send


class Recorder:
    """Passes messages on and keeps them: status, headers and body, up to `limit` bytes of body."""

    def __init__(self, send: Send, limit: int) -> None:
        self._send = send
        self._limit = limit
        self._body = bytearray()
        self._headers: Headers = []
        self.status = 0
        self.whole = False
        """Whether the answer's last byte went out."""
        self.too_large = False

    async def send(self, message: dict[str, Any]) -> None:
        """One message of the answer."""
        if message["type"] == "http.response.start":
            self.status, self._headers = message["status"], list(message["headers"])
        else:
            if len(self._body) + len(message["body"]) > self._limit:
                self.too_large = True
                self._body.clear()
            elif not self.too_large:
                self._body += message["body"]
            # Before it is sent: a caller who leaves with the last byte has had the answer.
            self.whole = not message.get("more_body")
        await self._send(message)

    def dump(self) -> bytes:
        """The answer as bytes."""
        return msgspec.msgpack.encode((self.status, self._headers, bytes(self._body)))


def load_answer(data: bytes) -> tuple[int, Headers, bytes]:
    """Status, headers and body of a recorded answer."""
    return msgspec.msgpack.decode(data, type=tuple[int, list[tuple[bytes, bytes]], bytes])
