"""A model that says what a test wants it to, behind a gateway."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.fakes.raw_server import RawConnection, serve
from tests.gateway.serving import running_gateway
from tokenhub.core.policies import PolicySpec


class Model:
    """A provider of OpenAI's format that says one text after the other, and keeps what it is asked."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._left = list(texts)
        self.asked: list[dict[str, Any]] = []

    async def answer(self, connection: RawConnection) -> None:
        while True:
            request = await connection.request()
            body = json.loads(request.body)
            self.asked.append(body)
            connection.send(self._stream() if body.get("stream") else self._whole())

    def _whole(self) -> bytes:
        message = {"role": "assistant", "content": self._left.pop(0)}
        told = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5},
        }
        data = json.dumps(told).encode()
        return (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data)
            + data
        )

    def _stream(self) -> bytes:
        text = self._left.pop(0)
        half = len(text) // 2
        deltas: list[dict[str, Any]] = [
            {"role": "assistant", "content": ""},
            {"content": text[:half]},
            {"content": text[half:]},
        ]
        chunks = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        chunks.append({"index": 0, "delta": {}, "finish_reason": "stop"})
        told = [
            {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [one]}
            for one in chunks
        ]
        told.append(
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": [],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5},
            }
        )
        data = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in told) + b"data: [DONE]\n\n"
        return (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(data)
            + data
        )


@asynccontextmanager
async def saying(folder: Path, *texts: str, policies: tuple[PolicySpec, ...] = (), **options: Any) -> Any:
    """A gateway before a model that says these texts, its key's text, and the model."""
    model = Model(texts)
    async with serve(model.answer) as raw:
        provider = a_provider("one", "openai", raw.port)
        key, text = a_key()
        snapshot = a_snapshot(
            providers=(provider,), models=(a_model(provider, "work"),), keys=(key,), policies=policies
        )
        async with running_gateway(snapshot, folder, **options) as gateway:
            yield gateway, text, model
