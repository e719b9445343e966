"""What an attempt is booked with where the way out is an odd one: every intent gets its final, and told usage is kept."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from gateway.settle import UNANSWERED_METHOD
from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.fakes.raw_server import RawConnection, Script, serve
from tests.gateway.calls import PATHS, Client, a_body, a_head, call
from tests.gateway.serving import RunningGateway, running_gateway
from tests.gateway.upstream.calls import silent
from tokenhub.core.attempts import AttemptFinal
from tokenhub.core.specs import Snapshot, TimeoutsSpec

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
A_START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "usage": {"input_tokens": 77, "output_tokens": 1},
    },
}


def one_model(port: int, kind: str, **fields: object) -> tuple[Snapshot, str]:
    """The model `work`."""
    provider = a_provider("only", kind, port, **fields)
    key, text = a_key()
    return a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,)), text


async def connect_and_ask(
    gateway: RunningGateway, key: str, receive_buffer: int = 65536
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A streamed chat request on a bare socket."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=plain, limit=receive_buffer)
    body = json.dumps(a_body("openai", "work", stream=True)).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in a_head("openai", key).items())
    start = f"POST {PATHS['openai']} HTTP/1.1\r\nhost: x\r\n{head}content-length: {len(body)}\r\n\r\n"
    writer.write(start.encode() + body)
    return reader, writer


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/v1/embeddings", "openai", {"input": "hi"}),
        ("/v1/messages/count_tokens", "anthropic", {"messages": [{"role": "user", "content": "hi"}]}),
    ],
)
async def test_a_stream_flag_on_an_operation_that_never_streams_changes_nothing(
    path: str,
    kind: str,
    body: dict[str, object],
    mock: MockProvider,
    http: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    snapshot, key = one_model(mock.port, kind)
    async with running_gateway(snapshot, tmp_path) as gateway:
        asked = {"model": "work", "stream": True, **body}
        answer = await http.post(gateway.origin + path, json=asked, headers=a_head("openai", key))
        assert answer.status_code == 200, answer.text
        (final,) = await gateway.settled(1)
        assert final.outcome == "completed"


def answering(told: dict[str, object]) -> Script:
    """A provider that answers every request whole, with this object."""
    answer = json.dumps(told).encode()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        connection.send(head % len(answer) + answer)

    return script


USED = {"prompt_tokens": 50, "completion_tokens": 9}
A_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("client", "choices", "stream"), [("anthropic", [], False), ("openai", [A_CHOICE], True)]
)
async def test_usage_is_booked_of_an_answer_that_is_of_no_use_to_the_caller(
    client: Client, choices: list[object], stream: bool, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    told = {"object": "chat.completion", "choices": choices, "usage": USED}
    async with serve(answering(told)) as raw:
        snapshot, key = one_model(raw.port, "openai")
        async with running_gateway(snapshot, tmp_path) as gateway:
            refused = await call(http, gateway, key, client, a_body(client, "work", stream=stream))
            assert refused.status == 502
            (final,) = await gateway.settled(1)
            assert (final.outcome, final.usage.input, final.usage.output) == ("failed", 50, 9)
            assert final.cost_nanos


async def test_a_caller_who_leaves_before_any_content_is_booked_with_the_input_that_was_told(
    tmp_path: Path,
) -> None:
    told = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(
            STREAM_HEAD + b"event: message_start\ndata: " + json.dumps(A_START).encode() + b"\n\n"
        )
        told.set()
        await connection.peer_gone.wait()

    async with serve(script) as raw:
        snapshot, key = one_model(raw.port, "anthropic", timeouts=TimeoutsSpec(1, 10, 10, 20))
        async with running_gateway(snapshot, tmp_path) as gateway:
            _, writer = await connect_and_ask(gateway, key)
            await asyncio.wait_for(told.wait(), 5)
            await asyncio.sleep(0.2)
            writer.close()
            (final,) = await gateway.settled(1)
            assert (final.outcome, final.usage.input, final.usage.output) == ("cancelled", 77, 0)


async def test_a_drained_call_that_fails_is_not_tried_again_for_nobody(tmp_path: Path) -> None:
    async with MockProvider() as stuck, MockProvider() as fine:
        first = a_provider(
            "first", "openai", stuck.port, on_disconnect="drain", timeouts=TimeoutsSpec(1, 0.8, 1, 10)
        )
        second = a_provider("second", "openai", fine.port)
        models = (a_model(first, "one", "model@silent"), a_model(second, "two"))
        key, text = a_key()
        snapshot = a_snapshot(
            providers=(first, second), models=models, aliases=(an_alias("work", *models),), keys=(key,)
        )
        async with running_gateway(snapshot, tmp_path) as gateway:
            _, writer = await connect_and_ask(gateway, text)
            await stuck.until(lambda stats: stats["calls"] == 1)
            writer.close()
            (final,) = await gateway.settled(1)
            assert final.outcome == "failed"
            await asyncio.sleep(0.1)
            assert fine.calls() == []


async def test_a_slow_caller_is_no_silence_of_the_provider_with_heartbeats_on(tmp_path: Path) -> None:
    piece = json.dumps({"choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]}).encode()
    last = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}).encode()

    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(STREAM_HEAD)
        for _ in range(250):
            await connection.send_patiently(b"data: " + piece + b"\n\n")
        await connection.send_patiently(b"data: " + last + b"\n\ndata: [DONE]\n\n")
        connection.close()

    async with serve(script) as raw:
        snapshot, key = one_model(raw.port, "openai", heartbeat=0.1, timeouts=TimeoutsSpec(1, 5, 0.3, 30))
        async with running_gateway(snapshot, tmp_path) as gateway:
            reader, writer = await connect_and_ask(gateway, key, receive_buffer=16384)
            await asyncio.sleep(1.0)
            end = b""
            while chunk := await asyncio.wait_for(reader.read(1 << 20), 10):
                end = (end + chunk)[-200:]
                if end.endswith(b"0\r\n\r\n"):
                    break
            assert b"[DONE]" in end
            writer.close()
            (final,) = await gateway.settled(1)
            assert final.outcome == "completed"


async def test_an_endpoint_whose_stream_broke_off_rests(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("only", "openai", mock.port)
    models = (a_model(provider, "broken", "model@cut:3"), a_model(provider, "fine"))
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=models, keys=(key,))
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, text, "openai", a_body("openai", "broken", stream=True))
        assert answer.errors
        assert gateway.worker.board.resting_endpoints() == ["only-0"]
        answer = await call(http, gateway, text, "openai", a_body("openai", "fine", stream=True))
        assert answer.ended, "a lone endpoint is probed, not banned"
        assert gateway.worker.board.resting_endpoints() == []


async def test_the_total_deadline_is_told_before_any_attempt_too(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    held = threading.Event()
    threads = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(threads)
    snapshot, key = one_model(mock.port, "openai", timeouts=TimeoutsSpec(1, 5, 5, 0.3))
    async with running_gateway(snapshot, tmp_path) as gateway:
        threads.submit(held.wait, 10)
        try:
            body = a_body("openai", "work", text="x" * 100_000)
            answer = await call(http, gateway, key, "openai", body)
        finally:
            held.set()
        assert answer.status == 504
        assert "total" in (answer.body or {})["error"]["message"]
        assert gateway.records() == ([], [])


async def test_a_model_that_an_endpoint_does_not_know_leaves_its_other_models_alone(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    good = {"object": "chat.completion", "choices": [A_CHOICE], "usage": USED}

    async def script(connection: RawConnection) -> None:
        while True:
            request = await connection.request()
            gone = b'"gone"' in request.body
            body = json.dumps({"error": {"message": "no such model"}} if gone else good).encode()
            status = b"404 Not Found" if gone else b"200 OK"
            head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            connection.send(head % (status, len(body)) + body)

    async with serve(script) as raw:
        provider = a_provider("only", "openai", raw.port)
        models = (a_model(provider, "first", "gone"), a_model(provider, "second", "here"))
        key, text = a_key()
        snapshot = a_snapshot(
            providers=(provider,), models=models, aliases=(an_alias("work", *models),), keys=(key,)
        )
        async with running_gateway(snapshot, tmp_path) as gateway:
            answer = await call(http, gateway, text, "openai", a_body("openai", "work"))
            assert (answer.status, answer.text) == (200, "hello")
            assert gateway.worker.board.resting_endpoints() == []
            assert [final.outcome for final in await gateway.settled(2)] == ["failed", "completed"]


SENT = ("estimated", 0, UNANSWERED_METHOD)
NOT_SENT = ("none", 0, "")


def how_booked(final: AttemptFinal) -> tuple[str, int, str]:
    """Who counted, the output, and how it was estimated."""
    assert bool(final.usage.input) is bool(final.cost_nanos) is (final.usage.source != "none")
    return final.usage.source, final.usage.output, final.usage.method


@pytest.mark.parametrize("heartbeat", [0.0, 0.1])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_call_that_the_total_deadline_ends_without_an_answer_is_booked_if_it_was_sent(
    stream: bool, heartbeat: float, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with serve(silent) as raw:
        hasty = a_provider(
            "only", "openai", raw.port, heartbeat=heartbeat, timeouts=TimeoutsSpec(60, 60, 60, 1)
        )
        patient = a_provider("patient", "openai", raw.port, timeouts=TimeoutsSpec(60, 60, 60, 120))
        key, text = a_key()
        models = (a_model(hasty, "work"), a_model(patient, "holds"))
        snapshot = a_snapshot(providers=(hasty, patient), models=models, keys=(key,))
        async with running_gateway(snapshot, tmp_path, max_connections_per_origin=1) as gateway:
            body = a_body("openai", "work", stream=stream)
            assert "total" in (await call(http, gateway, text, "openai", body)).raw.decode()
            (sent,) = await gateway.settled(1)
            assert how_booked(sent) == SENT

            held = call(http, gateway, text, "openai", a_body("openai", "holds"))
            holding = asyncio.create_task(held)
            while raw.requests < 2:
                await asyncio.sleep(0.01)
            # The only place in the pool is taken, so that this one is never sent.
            assert "total" in (await call(http, gateway, text, "openai", body)).raw.decode()
            holding.cancel()
            finals = {final.attempt_id: final for final in await gateway.settled(3)}
            del finals[sent.attempt_id]
            (unsent,) = [final for final in finals.values() if final.outcome != "cancelled"]
            assert how_booked(unsent) == NOT_SENT


async def test_a_caller_who_leaves_before_his_call_was_sent_is_booked_with_nothing(tmp_path: Path) -> None:
    async with serve(silent) as raw:
        snapshot, key = one_model(raw.port, "openai", timeouts=TimeoutsSpec(5, 5, 5, 9))
        async with running_gateway(snapshot, tmp_path, max_connections_per_origin=1) as gateway:
            writers = [(await connect_and_ask(gateway, key))[1] for _ in range(2)]
            while raw.requests < 1 or gateway.worker.board.total_in_flight < 2:
                await asyncio.sleep(0.01)
            for writer in reversed(writers):
                writer.close()
            finals = await gateway.settled(2)
            assert {final.outcome for final in finals} == {"cancelled"}
            assert sorted(map(how_booked, finals)) == [SENT, NOT_SENT]


async def test_a_call_that_found_no_place_in_the_pool_is_booked_with_nothing(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with serve(silent) as raw:
        snapshot, key = one_model(raw.port, "openai", timeouts=TimeoutsSpec(0.3, 1, 5, 9))
        async with running_gateway(snapshot, tmp_path, max_connections_per_origin=1) as gateway:
            body = a_body("openai", "work")
            asking = [asyncio.create_task(call(http, gateway, key, "openai", body)) for _ in range(2)]
            assert {answer.status for answer in await asyncio.gather(*asking)} == {504}
            assert sorted(map(how_booked, await gateway.settled(2))) == [SENT, NOT_SENT]


async def test_an_error_answer_that_never_ends_is_booked_with_nothing(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 500 Oops\r\ncontent-length: 50\r\n\r\nhalf")
        await connection.peer_gone.wait()

    async with serve(script) as raw:
        snapshot, key = one_model(raw.port, "openai", timeouts=TimeoutsSpec(5, 5, 5, 0.6))
        async with running_gateway(snapshot, tmp_path) as gateway:
            assert (await call(http, gateway, key, "openai", a_body("openai", "work"))).status == 504
            assert [how_booked(final) for final in await gateway.settled(1)] == [NOT_SENT]


async def test_counting_tokens_is_free_also_without_an_answer(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with serve(silent) as raw:
        snapshot, key = one_model(raw.port, "anthropic", timeouts=TimeoutsSpec(5, 0.3, 5, 9))
        async with running_gateway(snapshot, tmp_path) as gateway:
            body = {"model": "work", "messages": [{"role": "user", "content": "hi"}]}
            url = f"{gateway.origin}/v1/messages/count_tokens"
            assert (await http.post(url, json=body, headers=a_head("anthropic", key))).status_code == 504
            assert [how_booked(final) for final in await gateway.settled(1)] == [NOT_SENT]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_without_usage_that_is_of_no_use_to_the_caller_is_booked_by_length(
    stream: bool, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    client: Client = "openai" if stream else "anthropic"
    told = {"object": "chat.completion", "choices": [A_CHOICE] if stream else []}
    async with serve(answering(told)) as raw:
        snapshot, key = one_model(raw.port, "openai")
        async with running_gateway(snapshot, tmp_path) as gateway:
            assert (
                await call(http, gateway, key, client, a_body(client, "work", stream=stream))
            ).status == 502
            (final,) = await gateway.settled(1)
            assert (final.outcome, final.usage.source, final.usage.method) == (
                "failed",
                "estimated",
                "by length",
            )
            assert final.usage.output
