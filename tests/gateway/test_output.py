"""Answers that have to be JSON: checked, taken out of their fences, repaired once, refused. In each format, whole and streamed."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.gateway.calls import Client, a_body, a_head, call
from tests.gateway.saying import saying
from tests.gateway.serving import running_gateway

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
WISH = f"@@tokenhub\noutput_schema={json.dumps(SCHEMA)}\n@@end\nCount."
OUTPUT = "x-tokenhub-output"


STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
CLIENTS = pytest.mark.parametrize("client", ["openai", "anthropic"])


@CLIENTS
@STREAM
async def test_what_fits_passes(
    http: httpx.AsyncClient, tmp_path: Path, client: Client, stream: bool
) -> None:
    async with saying(tmp_path, '{"n": 3}') as (gateway, key, model):
        answer = await call(http, gateway, key, client, a_body(client, "work", text=WISH, stream=stream))
        assert (answer.status, answer.text, answer.headers[OUTPUT]) == (200, '{"n": 3}', "valid")
        assert answer.ended or not stream
        assert "x-tokenhub-directives-ignored" not in answer.headers
        assert model.asked[0]["response_format"]["json_schema"]["schema"] == SCHEMA
        await gateway.settled(1)


@CLIENTS
@STREAM
async def test_what_does_not_fit_is_repaired_once(
    http: httpx.AsyncClient, tmp_path: Path, client: Client, stream: bool
) -> None:
    async with saying(tmp_path, '{"n": "three"}', '```json\n{"n": 3}\n```') as (gateway, key, model):
        answer = await call(http, gateway, key, client, a_body(client, "work", text=WISH, stream=stream))
        assert (answer.status, answer.text, answer.headers[OUTPUT]) == (200, '{"n": 3}', "repaired")
        assert answer.ended or not stream
        assert answer.headers["x-tokenhub-attempts"] == "2"
        finals = await gateway.settled(2)
        intents, _ = gateway.records()
        assert [(intent.number, intent.purpose) for intent in intents] == [(1, "request"), (2, "repair")]
        assert all(final.outcome == "completed" and final.cost_nanos for final in finals)
        if not stream:
            assert (
                float(answer.headers["x-tokenhub-cost-usd"])
                == sum(final.cost_nanos or 0 for final in finals) / 1e9
            )
        assert len(model.asked) == 2
        repair = model.asked[1]["messages"]
        assert [message["role"] for message in repair[-2:]] == ["assistant", "user"]
        assert '{"n": "three"}' in json.dumps(repair[-2]["content"], ensure_ascii=False).replace('\\"', '"')
        assert "n" in json.dumps(repair[-1]["content"])
        assert "stream" not in model.asked[1] or model.asked[1]["stream"] is False


@CLIENTS
@STREAM
async def test_what_does_not_fit_twice_is_refused_and_accounted(
    http: httpx.AsyncClient, tmp_path: Path, client: Client, stream: bool
) -> None:
    async with saying(tmp_path, "three", "still three") as (gateway, key, model):
        answer = await call(http, gateway, key, client, a_body(client, "work", text=WISH, stream=stream))
        assert answer.status == 502
        assert "output_invalid" in answer.raw.decode()
        assert "still three" not in answer.raw.decode()
        finals = await gateway.settled(2)
        assert all(final.cost_nanos for final in finals)
        assert gateway.worker.board.total_in_flight == 0
        assert gateway.worker.board.endpoint_usable("one-0")
        assert len(model.asked) == 2


@STREAM
async def test_any_json_will_do_without_a_schema_and_fences_go(
    http: httpx.AsyncClient, tmp_path: Path, stream: bool
) -> None:
    text = 'Here it is:\n```json\n{"any": [1, 2]}\n```\n'
    async with saying(tmp_path, text) as (gateway, key, model):
        body = a_body("openai", "work", text="@@tokenhub output=json\nCount.", stream=stream)
        answer = await call(http, gateway, key, "openai", body)
        assert (answer.status, answer.text, answer.headers[OUTPUT]) == (200, '{"any": [1, 2]}', "valid")
        assert model.asked[0]["response_format"] == {"type": "json_object"}
        assert "JSON" in model.asked[0]["messages"][0]["content"]


async def test_an_envelope_gets_its_schema_kept(http: httpx.AsyncClient, tmp_path: Path) -> None:
    async with saying(tmp_path, "three", '{"n": 3}') as (gateway, key, _):
        body = {
            "request": {"messages": [{"role": "user", "content": "Count."}], "model_hint": "work"},
            "output_format": {"type": "json", "schema": SCHEMA},
        }
        answer = await http.post(f"{gateway.origin}/v1/chat", json=body, headers=a_head("openai", key))
        assert (answer.status_code, answer.headers[OUTPUT]) == (200, "repaired")
        told = answer.json()
        assert told["response"]["choices"][0]["message"]["content"] == '{"n": 3}'
        finals = await gateway.settled(2)
        assert told["cost_usd"] == sum(final.cost_nanos or 0 for final in finals) / 1e9


async def test_a_schema_that_is_none_is_refused_before_anything_is_sent(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with saying(tmp_path) as (gateway, key, model):
        wish = '@@tokenhub\noutput_schema={"type": "objekt"}\n@@end\nCount.'
        answer = await call(http, gateway, key, "openai", a_body("openai", "work", text=wish))
        assert answer.status == 400
        assert answer.body is not None
        assert answer.body["error"]["param"] == "output_schema"
        assert model.asked == []


@CLIENTS
@STREAM
async def test_a_vendor_that_keeps_schemas_is_asked_to_in_its_own_way(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path, client: Client, stream: bool
) -> None:
    """Also where the request is translated on its way."""
    for kind in ("openai", "anthropic"):
        provider = a_provider(kind, kind, mock.port)
        key, text = a_key()
        snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
        async with running_gateway(snapshot, tmp_path / kind) as gateway:
            answer = await call(http, gateway, text, client, a_body(client, "work", text=WISH, stream=stream))
            assert (answer.status, answer.headers[OUTPUT]) == (200, "valid"), answer.raw
            assert isinstance(json.loads(answer.text)["n"], int)
        sent = json.loads(mock.bodies()[-1].body)
        wanted = (
            sent["response_format"]["json_schema"] if kind == "openai" else sent["output_config"]["format"]
        )
        assert wanted["schema"]["required"] == ["n"]


async def test_a_call_of_a_tool_is_no_output_yet(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("one", "openai", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for stream in (False, True):
        async with running_gateway(snapshot, tmp_path / str(stream)) as gateway:
            body = a_body(
                "openai",
                "work",
                text="@@tokenhub output=json\nWeather?",
                stream=stream,
                tools=[tool],
                tool_choice="required",
            )
            answer = await call(http, gateway, text, "openai", body)
            assert answer.status == 200, answer.raw
            assert b"get_weather" in answer.raw
            await gateway.settled(1)


async def test_a_vendor_without_a_member_for_it_is_told_in_words(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("one", "anthropic", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,))
    async with running_gateway(snapshot, tmp_path) as gateway:
        for system in ("Be kind.", [{"type": "text", "text": "Be kind."}], None):
            more = {} if system is None else {"system": system}
            body = a_body("anthropic", "work", text="@@tokenhub output=json\nCount.", **more)
            await call(http, gateway, text, "anthropic", body)
    # The simulated vendor answers with prose, so that each is asked once more; the first of each two is the request.
    sent = [json.loads(received.body)["system"] for received in mock.bodies()][::2]
    assert sent[0] == "Be kind.\n\nAnswer with one JSON document and nothing else."
    assert [block["text"] for block in sent[1]] == [
        "Be kind.",
        "Answer with one JSON document and nothing else.",
    ]
    assert sent[2] == "Answer with one JSON document and nothing else."
