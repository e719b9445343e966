"""How the gateway's tests call it: one request body a client format, and what a caller gets back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from tests.gateway.serving import RunningGateway
from tokenhub.core.sse import EventReader

Client = Literal["openai", "anthropic"]
PATHS: dict[Client, str] = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
END_MARKS = ("[DONE]", "message_stop")


@dataclass
class Answered:
    """What a caller got: status, headers, the whole body or the stream's events, and the text in them."""

    status: int
    headers: httpx.Headers
    raw: bytes
    body: dict[str, Any] | None = None
    events: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The generated text."""
        if self.body is not None:
            if "choices" in self.body:
                return str(self.body["choices"][0]["message"]["content"])
            return "".join(block.get("text", "") for block in self.body["content"])
        pieces = []
        for _, data in self.events:
            if isinstance(data, dict):
                for choice in data.get("choices") or ():
                    pieces.append(choice["delta"].get("content") or "")
                pieces.append((data.get("delta") or {}).get("text") or "")
        return "".join(pieces)

    @property
    def ended(self) -> bool:
        """Whether the stream has its format's end mark."""
        return any(data == "[DONE]" or name == "message_stop" for name, data in self.events)

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The error objects in the stream."""
        return [data["error"] for _, data in self.events if isinstance(data, dict) and data.get("error")]


def a_body(
    client: Client, model: str, *, stream: bool = False, text: str = "hi", **more: Any
) -> dict[str, Any]:
    """A small chat request in the client's format."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 60, **more}
    if stream:
        body["stream"] = True
    return body


def a_head(client: Client, key: str) -> dict[str, str]:
    """Its headers."""
    if client == "openai":
        return {"authorization": f"Bearer {key}"}
    return {"x-api-key": key, "anthropic-version": "2023-06-01"}


async def call(
    http: httpx.AsyncClient, gateway: RunningGateway, key: str, client: Client, body: dict[str, Any] | bytes
) -> Answered:
    """One request, read to its end."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {**a_head(client, key), "content-type": "application/json"}
    response = await http.post(gateway.origin + PATHS[client], content=content, headers=headers)
    answered = Answered(response.status_code, response.headers, response.content)
    if response.headers["content-type"].startswith("text/event-stream"):
        reader = EventReader()
        for event in [*reader.feed(response.content), *reader.finish()]:
            if event.data is not None:
                answered.events.append((event.name, _parse(event.data)))
        assert reader.tail == b"", "the stream ended in the middle of an event"
    else:
        answered.body = response.json()
    return answered


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode()
