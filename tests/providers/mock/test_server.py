"""The mock as a server: connections, counting, bodies byte for byte, hang-ups, control pages, its own process."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.mock import MockProvider, mock_process

CHAT = "/v1/chat/completions"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def mock() -> AsyncIterator[MockProvider]:
    async with MockProvider() as started:
        yield started


@pytest.fixture
async def client(mock: MockProvider) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=mock.origin, timeout=10) as made:
        yield made


def chat(model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}


def request_bytes(body: bytes, *, path: str = CHAT, more: bytes = b"") -> bytes:
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n" % (path.encode(), len(body), more)
    return head + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")
    )
    return head, await reader.readexactly(length)


async def test_one_connection_serves_many_requests(client: httpx.AsyncClient, mock: MockProvider) -> None:
    for _ in range(5):
        assert (await client.post(CHAT, json=chat())).status_code == 200
    assert mock.stats()["connections"] == {"open": 1, "max_open": 1, "total": 1}


async def test_bodies_are_kept_byte_for_byte(client: httpx.AsyncClient, mock: MockProvider) -> None:
    odd = b'{ "model":"m",\t"messages" : [{"content":"\\u00e9 \xc3\xa9","role":"user"}],"x":1.0 }\n'
    await client.post(CHAT, content=odd, headers={"content-type": "application/json"})

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(odd), 7):
            yield odd[start : start + 7]

    await client.post(CHAT, content=parts())
    assert [kept.body for kept in mock.bodies()] == [odd, odd]
    shown = (await client.get("/_bodies?limit=1")).json()["bodies"]
    assert len(shown) == 1
    assert shown[0]["path"] == CHAT


async def test_pipelined_requests_are_answered_in_order(mock: MockProvider) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    bodies = [json.dumps(chat(f"model-{number}")).encode() for number in range(40)]
    writer.write(b"".join(map(request_bytes, bodies)))
    models = [json.loads((await read_answer(reader))[1])["model"] for _ in bodies]
    writer.close()
    await writer.wait_closed()
    assert models == [f"model-{number}" for number in range(40)]


async def test_a_call_is_counted_before_it_is_answered(client: httpx.AsyncClient, mock: MockProvider) -> None:
    waiting = asyncio.create_task(client.post(CHAT, json=chat("fault-slow-60000")))
    seen = await mock.until(lambda stats: stats["calls"] == 1)
    assert seen["in_progress"] == 1
    assert seen["by_status"] == {}
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_client_that_leaves_a_stream_is_noticed_and_billed_for_what_it_got(
    mock: MockProvider,
) -> None:
    async with (
        MockProvider(tokens=1000, gap=0.005) as slow,
        httpx.AsyncClient(base_url=slow.origin) as client,
    ):
        async with client.stream("POST", CHAT, json=chat(stream=True)) as response:
            async for _ in response.aiter_bytes():
                break
        seen = await slow.until(lambda stats: stats["closed_by_client"] == 1)
        record = seen["list"][0]
        assert not record["finished"]
        assert record["ended_at"] >= record["received_at"]
        assert 0 <= record["usage"]["output_tokens"] < 1000
        assert record["usage"]["input_tokens"] == 9
        await asyncio.sleep(0.05)
        assert slow.stats()["usage"] == seen["usage"]


async def test_a_reader_that_stops_reading_pauses_the_stream() -> None:
    async with MockProvider(tokens=400_000) as mock:
        reader, writer = await asyncio.open_connection("127.0.0.1", mock.port, limit=1024)
        writer.write(request_bytes(json.dumps(chat(stream=True)).encode()))
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.2)
        held = mock.stats()["list"][0]
        assert not held["finished"]
        assert held["usage"]["output_tokens"] < 400_000
        while await reader.read(1 << 20):
            if mock.stats()["finished"]:
                break
        writer.close()
        await writer.wait_closed()
        assert mock.stats()["usage"]["output_tokens"] == 400_000


async def test_the_gap_paces_a_stream(mock: MockProvider) -> None:
    async with MockProvider(tokens=10, gap=0.02) as paced, httpx.AsyncClient(base_url=paced.origin) as client:
        await client.post(CHAT, json=chat(stream=True))
        record = paced.stats()["list"][0]
        assert record["ended_at"] - record["received_at"] >= 0.19


async def test_stats_can_be_read_limited_and_reset(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await client.post(CHAT, json=chat(f"m{number}"))
    seen = (await client.get("/_stats?limit=2&reset=1")).json()
    assert seen["calls"] == 3
    assert [call["model"] for call in seen["list"]] == ["m1", "m2"]
    assert seen["by_path"] == {CHAT: 3}
    assert (await client.get("/_stats")).json()["calls"] == 0


async def test_a_call_that_ends_after_a_reset_is_not_counted(
    client: httpx.AsyncClient, mock: MockProvider
) -> None:
    before = asyncio.create_task(client.post(CHAT, json=chat("fault-slow-60000")))
    await mock.until(lambda stats: stats["in_progress"] == 1)
    mock.reset()
    after = asyncio.create_task(client.post(CHAT, json=chat("fault-slow-60000")))
    await mock.until(lambda stats: stats["in_progress"] == 1)
    before.cancel()
    await asyncio.gather(before, return_exceptions=True)
    seen = await mock.until(lambda stats: stats["connections"]["open"] == 1)
    assert (seen["in_progress"], seen["closed_by_client"]) == (1, 0)
    after.cancel()
    await asyncio.gather(after, return_exceptions=True)


async def test_a_flood_of_pipelined_requests_is_cut_off(mock: MockProvider) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    writer.write(request_bytes(json.dumps(chat("fault-silent")).encode()))
    await mock.until(lambda stats: stats["calls"] == 1)
    writer.write(request_bytes(json.dumps(chat()).encode()) * 100)
    async with asyncio.timeout(5):
        gone = await asyncio.gather(reader.read(), return_exceptions=True)
    assert gone[0] == b"" or isinstance(gone[0], ConnectionResetError)
    writer.close()
    seen = await mock.until(lambda stats: stats["connections"]["open"] == 0)
    assert (seen["calls"], seen["unreadable_requests"], seen["closed_by_client"]) == (1, 1, 0)


async def test_secrets_do_not_show_in_stats_or_reprs(client: httpx.AsyncClient, mock: MockProvider) -> None:
    secret = "sk-very-secret-token-abcd"
    await client.post(CHAT, json=chat(), headers={"authorization": f"Bearer {secret}", "x-api-key": secret})
    shown = (await client.get("/_stats")).text + repr(mock.calls())
    assert secret not in shown
    assert "…abcd" in shown


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("authorization", "Bearer right", 200),
        ("x-api-key", "right", 200),
        ("authorization", "Bearer wrong", 401),
        ("x-other", "right", 401),
    ],
)
async def test_a_required_key_is_required_in_either_header(header: str, value: str, status: int) -> None:
    async with MockProvider(require_key="right") as mock, httpx.AsyncClient(base_url=mock.origin) as client:
        answer = await client.post(CHAT, json=chat(), headers={header: value})
        messages = await client.post(
            "/v1/messages",
            json={**chat(), "max_tokens": 5},
            headers={header: value, "anthropic-version": "2023-06-01"},
        )
        assert answer.status_code == messages.status_code == status
        if status == 401:
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert messages.json()["error"]["type"] == "authentication_error"
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/_stats")).status_code == 200


async def test_the_required_keys_can_be_changed_while_it_runs() -> None:
    async with MockProvider(require_key="old") as mock, httpx.AsyncClient(base_url=mock.origin) as client:

        async def statuses() -> list[int]:
            answers = [
                await client.post(CHAT, json=chat(), headers={"authorization": f"Bearer {key}"})
                for key in ("old", "new", "other")
            ]
            return [answer.status_code for answer in answers]

        assert await statuses() == [200, 401, 401]
        await client.post("/_keys", json={"keys": ["old", "new"]})
        assert await statuses() == [200, 200, 401]
        await client.post("/_keys", json={"keys": ["new"]})
        assert await statuses() == [401, 200, 401]
        assert (await client.post("/_keys", json={"keys": "new"})).status_code == 400


async def test_vllm_pages_and_dialect() -> None:
    async with MockProvider(dialect="vllm") as mock, httpx.AsyncClient(base_url=mock.origin) as client:
        assert (await client.get("/health")).content == b""
        assert "version" in (await client.get("/version")).json()
        tokens = (await client.post("/tokenize", json={"model": "m", "prompt": "x" * 9})).json()
        assert tokens["count"] == len(tokens["tokens"]) == 3
        await client.post(CHAT, json=chat())
        assert "vllm:prompt_tokens_total 9" in (await client.get("/metrics")).text
        listed = (await client.get("/v1/models")).json()["data"][0]
        assert listed["max_model_len"] > 0
        assert (await client.get("/nope")).json() == {"detail": "Not Found"}
        assert (await client.get(CHAT)).json() == {"detail": "Method Not Allowed"}
        bad = (await client.post(CHAT, json={"model": "m"})).json()["error"]
        assert (bad["code"], bad["type"]) == (400, "BadRequestError")


async def test_a_header_chooses_the_dialect_and_the_length(client: httpx.AsyncClient) -> None:
    bad = await client.post(CHAT, json={"model": "m"}, headers={"x-mock-dialect": "vllm"})
    assert bad.json()["error"]["code"] == 400
    made = await client.post(CHAT, json=chat(), headers={"x-mock-tokens": "7"})
    assert made.json()["usage"]["completion_tokens"] == 7


async def test_unknown_paths_and_methods_have_the_vendors_errors(client: httpx.AsyncClient) -> None:
    missing = await client.post("/v1/nope", json={})
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "Invalid URL (POST /v1/nope)")
    wrong = await client.get(CHAT)
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_supported")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b"null"])
async def test_bodies_that_are_no_json_object_are_a_400(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post(CHAT, content=body)
    assert answer.status_code == 400
    assert "could not parse the JSON body" in answer.json()["error"]["message"]


async def test_garbage_on_the_wire_is_refused_and_counted(mock: MockProvider) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    writer.write(b"NONSENSE\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 400")
    assert mock.stats()["unreadable_requests"] == 1


async def test_expect_continue_is_answered_before_the_body(mock: MockProvider) -> None:
    body = json.dumps(chat()).encode()
    whole = request_bytes(body, more=b"expect: 100-continue\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    writer.write(whole[: -len(body)])
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert b"200 OK" in (await read_answer(reader))[0]
    writer.close()
    await writer.wait_closed()


async def test_an_http_1_0_stream_ends_with_the_connection(mock: MockProvider) -> None:
    body = json.dumps(chat(stream=True)).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
    writer.write(request_bytes(body).replace(b"HTTP/1.1", b"HTTP/1.0"))
    whole = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b"transfer-encoding" not in whole
    assert whole.endswith(b"data: [DONE]\n\n")


async def test_stopping_cuts_open_streams_without_blaming_the_client() -> None:
    async with httpx.AsyncClient() as client:
        async with MockProvider() as mock:
            waiting = asyncio.create_task(client.post(mock.origin + CHAT, json=chat("fault-silent")))
            await mock.until(lambda stats: stats["in_progress"] == 1)
        with pytest.raises(httpx.HTTPError):
            await waiting
    assert mock.stats()["closed_by_client"] == 0
    assert mock.stats()["connections"]["open"] == 0


def test_it_runs_as_a_process_of_its_own_with_all_options() -> None:
    with mock_process(tokens=5, models=("one",), latency=0.001, gap=0.001) as mock:
        answer = httpx.post(mock.origin + CHAT, json=chat()).json()
        assert answer["usage"]["completion_tokens"] == 5
        assert [model["id"] for model in httpx.get(mock.origin + "/v1/models").json()["data"]] == ["one"]
    with pytest.raises(httpx.ConnectError):
        httpx.get(mock.origin + "/health")


def test_the_server_loads_no_django() -> None:
    code = "import providers.mock.run, sys; sys.exit(any(name.startswith('django') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
