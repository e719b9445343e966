"""What two parsers could read differently, and what a caller could smuggle into heads, paths and documents."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.gateway.serving import running_gateway
from tests.security.cast import Trap

BREAKING = "x\r\nset-cookie: stolen=1\r\n\r\nHTTP/1.1 200 OK"


def exchange(port: int, data: bytes) -> bytes:
    """What the server answers to these bytes until it closes or is silent for half a second."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=0.5) as caller:
        caller.sendall(data)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while piece := caller.recv(65536):
                answer += piece
    return answer


AMBIGUOUS = {
    "length and chunks": b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "unknown coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"content-length: 1\r\ncontent-length: 0\r\n\r\n",
    "signed length": b"content-length: +0\r\n\r\n",
    "underscored length": b"content-length: 1_0\r\n\r\n",
    "folded field": b"x-a: b\r\n c\r\n\r\n",
    "space before colon": b"content-length : 0\r\n\r\n",
    "bare carriage return": b"x-a: b\rc\r\n\r\n",
    "bare line feed in a chunk": b"transfer-encoding: chunked\r\n\r\n0\n\n",
    "NUL": b"x-a: b\0c\r\n\r\n",
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_a_request_that_can_be_framed_in_two_ways_is_no_two_requests(trap: Trap, case: str) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\nhost: gateway\r\n\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\n"
    answer = exchange(trap.service.port, head + AMBIGUOUS[case] + smuggled)
    assert b"alive" not in answer
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "target", ["//metrics", "/v1/%2e%2e/metrics", "/v1/../metrics", "/metrics%0a", "/metrics/", "/v1/metrics"]
)
def test_only_its_own_path_leads_to_the_metrics(trap: Trap, target: str) -> None:
    answer = exchange(trap.service.port, f"GET {target} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
    assert b" 404 " in answer.splitlines()[0]


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/admin/", "/v1/../metrics", "metrics"])
def test_a_socket_reaches_the_consumer_api_only(trap: Trap, path: str) -> None:
    url = trap.service.url.replace("http", "ws", 1) + "/v1/stream"
    with connect(url, additional_headers={"authorization": f"Bearer {trap.service.key}"}) as caller:
        caller.send(json.dumps({"id": "a", "path": path, "body": {}}))
        assert json.loads(caller.recv(timeout=5))["status"] in (404, 405)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_a_member_s_name_breaks_no_answer_s_head(kind: str, mock: MockProvider, tmp_path: Path) -> None:
    provider = a_provider("only", kind, mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    message = {"role": "user", "content": "hi", BREAKING: 1, "имя": 2}
    body: dict[str, Any] = {"model": "work", "messages": [message], "max_tokens": 5, BREAKING: 1, "имя": 2}
    async with running_gateway(snapshot, tmp_path) as gateway, httpx.AsyncClient(timeout=10) as client:
        for path in ("/v1/chat/completions", "/v1/messages"):
            answer = await client.post(
                f"{gateway.origin}{path}", json=body, headers={"authorization": f"Bearer {text}"}
            )
            assert answer.status_code in (200, 400)
            assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("limit", ["%C2%B2", "1" * 5000, "0", "-1", "%D9%A1"])
async def test_any_limit_of_a_model_list_is_answered(limit: str, mock: MockProvider, tmp_path: Path) -> None:
    provider = a_provider("only", "openai", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    headers = {"authorization": f"Bearer {text}", "anthropic-version": "2023-06-01"}
    async with running_gateway(snapshot, tmp_path) as gateway, httpx.AsyncClient(timeout=10) as client:
        answer = await client.get(f"{gateway.origin}/v1/models?limit={limit}", headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["Model", "MODEL", "\u017ftream", "Stream", "Max_Tokens"])
async def test_no_second_member_differs_from_the_first_in_case_only(
    name: str, mock: MockProvider, tmp_path: Path
) -> None:
    """Go's encoding/json folds case, and the last one wins: Ollama would serve a model that was never checked."""
    provider = a_provider("only", "openai", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    body = {
        "model": "work",
        "stream": False,
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "hi"}],
    }
    async with running_gateway(snapshot, tmp_path) as gateway, httpx.AsyncClient(timeout=10) as client:
        answer = await client.post(
            f"{gateway.origin}/v1/chat/completions",
            json={**body, name: "another"},
            headers={"authorization": f"Bearer {text}"},
        )
        assert answer.status_code == 400
