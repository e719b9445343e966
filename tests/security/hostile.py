"""A provider that means harm: it quotes the credential and the prompt that it was sent wherever it can."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

REFUSALS = {
    "quotes-401": 401,
    "quotes-400": 400,
    "quotes-404": 404,
    "quotes-429": 429,
    "quotes-500": 500,
}
"""Models whose every call is refused with this status, in words that quote the credential and the prompt."""

IN_STREAMS = ("breaks-early", "breaks-late")
"""Models whose streams hold an error event that quotes both: before any content, and after it."""

OTHERS = ("plain-text", "html", "redirects", "encoded", "cut-off", "good", "told-names")
"""Quotes outside JSON, a redirect, an encoding nobody asked for, a cut answer, a good one, quotes in ids and names."""

MODELS = (*REFUSALS, *IN_STREAMS, *OTHERS)


class HostileProvider:
    """Serves both wire formats on a port of loopback while the block runs. `answer` is the text of its good answers."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.keys: set[str] = set()
        self.fail_listing = False
        handler = type("Handler", (_Handler,), {"provider": self})
        self._server = _QuietServer(("127.0.0.1", 0), handler)
        self.port = int(self._server.server_address[1])
        self.origin = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HostileProvider:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of callers that hang up, as the gateway does on what it does not want to read."""


class _Handler(BaseHTTPRequestHandler):
    provider: HostileProvider
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """The list of models, or a refusal that quotes the credential."""
        if self.provider.fail_listing:
            self._refuse(500, f"listing failed for {self._key()}")
        else:
            self._send(200, json.dumps({"data": [{"id": name} for name in MODELS]}))

    def do_POST(self) -> None:
        """One call, misbehaving as its model's name says."""
        raw = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.provider.bodies.append(raw)
        self.provider.keys.add(self._key())
        body = json.loads(raw)
        model, quote = body["model"], f"key {self._key()} sent {raw.decode()}"
        if model in REFUSALS:
            self._refuse(REFUSALS[model], quote)
        elif body.get("stream") and model not in ("plain-text", "html", "redirects", "encoded"):
            self._stream(model, quote)
        else:
            self._answer(model, quote)

    def _answer(self, model: str, quote: str) -> None:
        if model == "plain-text":
            self._send(500, quote, "text/plain")
        elif model == "html":
            self._send(200, f"<html>{quote}</html>", "text/html")
        elif model == "redirects":
            self._send(302, quote, "text/plain", location=f"{self.provider.origin}/{self._key()}")
        elif model == "encoded":
            self._send(200, quote, "application/json", **{"content-encoding": "gzip"})
        elif model == "cut-off":
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n"
            )
            self.wfile.write(quote.encode())
            self.close_connection = True
        else:
            told = self._key() if model == "told-names" else "ordinary"
            self._send(200, json.dumps(self._whole(told)), **{"x-request-id": told, "request-id": told})

    def _whole(self, told: str) -> dict[str, Any]:
        if self._is_anthropic():
            return {
                "id": told,
                "type": "message",
                "role": "assistant",
                "model": told,
                "content": [{"type": "text", "text": self.provider.answer}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 3, "output_tokens": 4, "service_tier": told},
            }
        message = {"role": "assistant", "content": self.provider.answer}
        return {
            "id": told,
            "object": "chat.completion",
            "created": 1,
            "model": told,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "note": told},
        }

    def _stream(self, model: str, quote: str) -> None:
        events = [] if model == "breaks-early" else self._begin()
        if model in IN_STREAMS:
            events.append(("error", {"type": "error", "error": {"type": "api_error", "message": quote}}))
        elif model != "cut-off":
            events += self._end()
        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for name, data in events:
            if self._is_anthropic():
                self.wfile.write(f"event: {name}\n".encode())
            self.wfile.write(f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode())
        self.close_connection = True

    def _begin(self) -> list[tuple[str, Any]]:
        if not self._is_anthropic():
            choice = {"index": 0, "delta": {"role": "assistant", "content": self.provider.answer}}
            return [("", {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})]
        usage = {"input_tokens": 3, "output_tokens": 1}
        message = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "usage": usage,
        }
        text = {"type": "text_delta", "text": self.provider.answer}
        return [
            ("message_start", {"type": "message_start", "message": message}),
            (
                "content_block_start",
                {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            ),
            ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": text}),
        ]

    def _end(self) -> list[tuple[str, Any]]:
        if not self._is_anthropic():
            last = {"id": "c", "object": "chat.completion.chunk", "model": "m"}
            return [
                ("", {**last, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
                ("", "[DONE]"),
            ]
        delta = {"stop_reason": "end_turn"}
        return [
            ("content_block_stop", {"type": "content_block_stop", "index": 0}),
            ("message_delta", {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 4}}),
            ("message_stop", {"type": "message_stop"}),
        ]

    def _refuse(self, status: int, message: str) -> None:
        error = {"type": "api_error", "message": message, "code": self._key(), "param": self._key()}
        self._send(status, json.dumps({"type": "error", "error": error}), **{"x-request-id": self._key()})

    def _send(self, status: int, text: str, kind: str = "application/json", **headers: str) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _key(self) -> str:
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        return bearer or self.headers.get("x-api-key", "")

    def _is_anthropic(self) -> bool:
        return self.path.startswith("/v1/messages")
