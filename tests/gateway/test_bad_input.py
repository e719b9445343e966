"""Bad input: a clear error in the caller's own format that names what is wrong; never a 500, never a row."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from gateway.authenticate import authenticate
from providers.mock import MockProvider
from tests.builders import PEPPER, a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import PATHS, Client, a_body, a_head, call
from tests.gateway.serving import RunningGateway, running_gateway
from tokenhub.core.errors import AuthenticationFailed
from tokenhub.core.keys import mint_key
from tokenhub.core.specs import KeySpec, Snapshot

CLIENTS: tuple[Client, ...] = get_args(Client)
PARSING = Path(__file__).parents[3] / "shared" / "fixtures" / "json_parsing.json"
NAUGHTY = PARSING.with_name("naughty_strings_base64.json")


def two_models(port: int, **fields: Any) -> tuple[Snapshot, str]:
    """`gpt` at an OpenAI provider and `claude` at an Anthropic one."""
    openai, anthropic = a_provider("oa", "openai", port), a_provider("an", "anthropic", port)
    models = (a_model(openai, "gpt"), a_model(anthropic, "claude"))
    key, text = a_key(**fields)
    return a_snapshot(
        providers=(openai, anthropic), models=models, aliases=(an_alias("best", *models),), keys=(key,)
    ), text


def assert_refused(answer: Any, client: Client, status: int, *words: str) -> None:
    """The error is in the client's format and names these words."""
    assert answer.status == status, answer.raw
    assert answer.body is not None
    assert (answer.body.get("type") == "error") is (client == "anthropic")
    error = answer.body["error"]
    assert isinstance(error["message"], str)
    for word in words:
        assert word in json.dumps(answer.body), (word, answer.body)
    assert answer.headers["x-tokenhub-request-id"].startswith("req_")


VALID_ONCE_WRAPPED: set[str] = set()
"""Cases of the parsing suite that are no JSON document alone, but are valid as a member's value."""

MESSAGES = b'"messages":[{"role":"user","content":"hi"}],"max_tokens":5'
BAD_BODIES = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"null", "JSON object"),
    (b"[1]", "JSON object"),
    (b'"text"', "JSON object"),
    (b'{"model":"gpt",' + MESSAGES + b"} trailing", "not valid JSON"),
    (b'{"model":"gpt","model":"claude",' + MESSAGES + b"}", "twice"),
    (b'{"model":"gpt","messages":[{"role":"user","role":"system","content":"hi"}],"max_tokens":5}', "twice"),
    (b'{"model":"gpt","temperature":NaN,' + MESSAGES + b"}", "NaN"),
    (b'{"model":"gpt","temperature":-Infinity,' + MESSAGES + b"}", "Infinity"),
    (b'{"model":"gpt","temperature":1e999,' + MESSAGES + b"}", "too large"),
    (b'{"model":"gpt","seed":' + b"9" * 5000 + b"," + MESSAGES + b"}", "JSON"),
    (b'{"model":"gpt","x":' + b"[" * 10_000 + b"]" * 10_000 + b"," + MESSAGES + b"}", "nested too deeply"),
    (
        b'{"model":"gpt","x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"," + MESSAGES + b"}",
        "nested too deeply",
    ),
    (b'{"model":"gpt","user":"\xff\xfe",' + MESSAGES + b"}", "UTF-8"),
    (b'{"model":"gpt","user":"\\ud800",' + MESSAGES + b"}", "JSON"),
    (b"\xef\xbb\xbf" + b'{"model":"gpt",' + MESSAGES + b"}", "byte order mark"),
    (b'{"model":"gpt","pad":"' + b"x" * 100_000 + b'","user":"a","user":"b",' + MESSAGES + b"}", "twice"),
    (b'{"model":"gpt","pad":"' + b"x" * 100_000 + b'\xff",' + MESSAGES + b"}", "UTF-8"),
    (b'{"model":"gpt","pad":"' + b"x" * 100_000 + b'","n":NaN,' + MESSAGES + b"}", "JSON"),
    (b'{"model":7,' + MESSAGES + b"}", "model"),
    (b'{"model":null,' + MESSAGES + b"}", "model"),
    (b"{" + MESSAGES + b"}", "model"),
    (b'{"model":"",' + MESSAGES + b"}", "model"),
    (b'{"model":"gpt","messages":"hi","max_tokens":5}', "messages"),
    (b'{"model":"gpt","messages":[],"max_tokens":5}', "messages"),
    (b'{"model":"gpt","max_tokens":5}', "messages"),
    (b'{"model":"gpt","stream":"yes",' + MESSAGES + b"}", "stream"),
]


@pytest.mark.parametrize("client", CLIENTS)
async def test_every_unreadable_body_is_refused_with_its_reason(
    client: Client, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        for body, word in BAD_BODIES:
            assert_refused(await call(http, gateway, key, client, body), client, 400, word)
        assert not mock.calls()
        assert gateway.records() == ([], [])


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("model", ["gpt", "claude"])
async def test_wrong_types_never_give_a_500(
    client: Client, model: str, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    wrong: list[Any] = [None, True, -1, 1.5, "text", [1], {"a": 1}, [[]], [{"type": "zebra"}]]
    fields = [
        "messages", "max_tokens", "tools", "tool_choice", "system", "stop", "stop_sequences", "temperature", "stream_options",
        "response_format", "thinking", "metadata", "n", "seed", "user", "reasoning_effort", "output_config", "top_k",
    ]  # fmt: skip
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        for field in fields:
            for value in wrong:
                body = a_body(client, model)
                body[field] = value
                answer = await call(http, gateway, key, client, body)
                assert answer.status in (200, 400), (field, value, answer.raw)
        for value in wrong:
            for content in ({"role": "user", "content": value}, {"role": value, "content": "hi"}, value):
                body = a_body(client, model)
                body["messages"] = [content]
                answer = await call(http, gateway, key, client, body)
                assert answer.status in (200, 400), (content, answer.raw)


@pytest.mark.parametrize("client", CLIENTS)
async def test_an_unknown_model_is_told_with_near_names(
    client: Client, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        assert_refused(
            await call(http, gateway, key, client, a_body(client, "cluade")), client, 404, "cluade", "claude"
        )
        assert_refused(await call(http, gateway, key, client, a_body(client, "x" * 50_000)), client, 404)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_huge_body_is_refused_naming_the_limit(
    client: Client, chunked: bool, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path, max_body_bytes=100_000) as gateway:
        body = json.dumps(a_body(client, "gpt", text="x" * 300_000)).encode()

        async def pieces() -> Any:
            for start in range(0, len(body), 10_000):
                yield body[start : start + 10_000]

        response = await http.post(
            gateway.origin + PATHS[client], content=pieces() if chunked else body, headers=a_head(client, key)
        )
        assert response.status_code == 413
        assert "100000" in response.json()["error"]["message"]
        assert (await call(http, gateway, key, client, a_body(client, "gpt"))).status == 200


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_slow_body_is_given_up(client: Client, mock: MockProvider, tmp_path: Path) -> None:
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path, body_timeout=0.3) as gateway:
        answer = await raw_request(gateway, client, key, b"content-length: 1000\r\n", b'{"model":')
        assert b" 408 " in answer.splitlines()[0]
        assert b"0.3 s" in answer


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_compressed_body_is_refused_unopened(
    client: Client, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        bomb = gzip.compress(b"0" * 50_000_000)
        headers = {**a_head(client, key), "content-encoding": "gzip"}
        response = await http.post(gateway.origin + PATHS[client], content=bomb, headers=headers)
        assert response.status_code == 415
        assert "compressed" in response.json()["error"]["message"]


async def raw_request(
    gateway: RunningGateway, client: Client, key: str, headers: bytes, body: bytes
) -> bytes:
    """What comes back for a request written by hand, for headers that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = "".join(f"{name}: {value}\r\n" for name, value in a_head(client, key).items()).encode()
    writer.write(
        f"POST {PATHS[client]} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n".encode()
        + head
        + headers
        + b"\r\n"
        + body
    )
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("headers", "statuses"),
    [
        (b"authorization: Bearer other\r\nauthorization: Bearer other\r\n", (400,)),
        (b"content-type: application/json\r\ncontent-type: text/plain\r\n", (400,)),
        (b"x-api-key: a\r\nx-api-key: b\r\n", (400,)),
        (b"content-length: 2\r\ncontent-length: 3\r\n", (400,)),
        (b"content-length: 2\r\ntransfer-encoding: chunked\r\n", (400,)),
        (b"content-length: -1\r\n", (400,)),
        (b"content-length: 99999999999999999999\r\n", (400, 413)),
        (b"bad header\r\n", (400,)),
        (b"x-bin: \xff\xfe\x80\r\ncontent-length: 2\r\n", (400,)),
        (b"anthropic-beta: \xff\r\ncontent-length: 2\r\n", (400,)),
    ],
)
async def test_bad_headers_are_a_400(
    headers: bytes, statuses: tuple[int, ...], mock: MockProvider, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await raw_request(gateway, "anthropic", key, headers, b"{}")
        assert int(answer.split(b" ")[1]) in statuses, answer


@pytest.mark.parametrize("client", CLIENTS)
async def test_every_bad_key_is_a_401_that_does_not_repeat_it(
    client: Client, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        swapped = key[:40] + ("A" if key[40] != "A" else "B") + key[41:]
        for bad in (
            "x",
            "sk-other",
            mint_key(),
            swapped,
            key[:-1],
            key + "x",
            "tha" + key[3:],
            key.lower(),
            "é" * 71,
        ):
            headers = {b"authorization": f"Bearer {bad}".encode("latin-1")}
            response = await http.post(
                gateway.origin + PATHS[client], json=a_body(client, "gpt"), headers=headers
            )
            assert response.status_code == 401, bad
            assert len(bad) < 5 or bad not in response.text
            assert response.headers["www-authenticate"] == "Bearer"
        response = await http.post(
            gateway.origin + PATHS[client] + f"?api_key={key}", json=a_body(client, "gpt")
        )
        assert response.status_code == 401
        assert "URL" in response.json()["error"]["message"]


async def test_disabled_and_expired_keys_and_secrets_are_refused(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, _ = two_models(mock.port)
    cases: list[tuple[KeySpec, str, int]] = []
    for fields, status in (
        ({"enabled": False}, 401),
        ({"expires_at": 1.0}, 401),
        ({"scopes": frozenset()}, 403),
        ({}, 200),
    ):
        spec, text = a_key(**fields)
        cases.append((spec, text, status))
    old, old_text = a_key()
    expired = a_key(old_text, digests=tuple(type(d)(d.digest, 1, 1.0) for d in old.digests))[0]
    unknown_pepper = a_key(digests=())[0]
    cases += [(expired, old_text, 401)]
    snapshot = a_snapshot(
        providers=snapshot.providers, models=snapshot.models, keys=(*(c[0] for c in cases), unknown_pepper)
    )
    async with running_gateway(snapshot, tmp_path) as gateway:
        for _, text, status in cases:
            assert (await call(http, gateway, text, "openai", a_body("openai", "gpt"))).status == status
    assert PEPPER not in repr(gateway.worker.config).encode()


@pytest.mark.parametrize(
    ("allowed", "reachable"),
    [
        (None, {"gpt", "claude", "best", "oa/gpt", "an/claude"}),
        ({"gpt"}, {"gpt", "best", "oa/gpt"}),
        ({"an/claude"}, {"claude", "best", "an/claude"}),
        ({"best"}, {"best"}),
        (set(), set()),
    ],
)
async def test_a_key_reaches_exactly_its_models_also_through_aliases(
    allowed: set[str] | None, reachable: set[str], mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port, allowed_models=None if allowed is None else frozenset(allowed))
    async with running_gateway(snapshot, tmp_path) as gateway:
        for name in ("gpt", "claude", "best", "oa/gpt", "an/claude"):
            answer = await call(http, gateway, key, "openai", a_body("openai", name))
            assert answer.status == (200 if name in reachable else 403), name
        if allowed == {"gpt"}:
            # The alias' second target is not the key's: it is not reached even when the first one fails.
            mock.fail_next("500", 1)
            answer = await call(http, gateway, key, "openai", a_body("openai", "best"))
            assert answer.status == 502
        listed = await http.get(gateway.origin + "/v1/models", headers=a_head("openai", key))
        assert {entry["id"] for entry in listed.json()["data"]} == {
            name for name in reachable if "/" not in name
        }


async def test_unknown_paths_and_methods_say_so(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        for method, path, status in (
            ("GET", "/v1/chat/completions", 405),
            ("POST", "/v1/models", 405),
            ("POST", "/v1/nothing", 404),
            ("GET", "/v1/models/none", 404),
            ("DELETE", "/healthz", 405),
        ):
            response = await http.request(method, gateway.origin + path, headers=a_head("openai", key))
            assert response.status_code == status, path


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "%C2%B2", "1" * 5000])
async def test_a_limit_that_is_no_small_number_is_a_400(
    limit: str, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        url = f"{gateway.origin}/v1/models?limit={limit}"
        answer = await http.get(url, headers=a_head("anthropic", key))
        assert answer.status_code == 400, answer.text
        assert "limit" in answer.json()["error"]["message"]


def test_nothing_is_remembered_of_a_key_of_a_wrong_length() -> None:
    snapshot = a_snapshot()
    filler = "x" * 60_000
    tracemalloc.start()
    try:
        for number in range(100):
            headers = {b"x-api-key": f"thk_{number}{filler}".encode()}
            with pytest.raises(AuthenticationFailed):
                authenticate(snapshot, headers, b"", peppers={1: PEPPER}, now=0.0)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000, "a hundred keys of 60 kB were sent"


@pytest.mark.skipif(not PARSING.exists(), reason=f"no {PARSING.name} beside the project")
async def test_the_json_parsing_suite_gives_no_500_and_refuses_what_is_not_json(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    cases = json.loads(PARSING.read_text())["cases"]
    snapshot, key = two_models(mock.port)
    accepted: list[str] = []
    async with running_gateway(snapshot, tmp_path) as gateway:
        for case in cases:
            name = case["name"]
            value = base64.b64decode(case["base64"])
            body = b'{"model":"gpt","messages":[{"role":"user","content":"hi"}],"x":' + value + b"}"
            answer = await call(http, gateway, key, "openai", body)
            assert answer.status in (200, 400), (name, answer.raw)
            if name.startswith("y_"):
                assert answer.status == (400 if "duplicate" in name else 200), (name, answer.raw)
            if name.startswith("n_"):
                accepted += [name] * (answer.status == 200)
        assert accepted == sorted(VALID_ONCE_WRAPPED)


@pytest.mark.skipif(not NAUGHTY.exists(), reason=f"no {NAUGHTY.name} beside the project")
@pytest.mark.parametrize("client", CLIENTS)
async def test_naughty_strings_pass_through_unharmed(
    client: Client, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    strings = [
        base64.b64decode(text).decode("utf-8", "replace") for text in json.loads(NAUGHTY.read_text()) if text
    ]
    snapshot, key = two_models(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        for text in strings[::9]:
            for model in ("gpt", "claude"):
                answer = await call(http, gateway, key, client, a_body(client, model, text=text or "-"))
                assert answer.status in (200, 400), (text, answer.raw)
                if answer.status == 200:
                    sent = json.loads(mock.bodies()[-1].body)
                    assert text in json.dumps(sent, ensure_ascii=False) or json.dumps(text)[
                        1:-1
                    ] in json.dumps(sent)


UNTRANSLATABLE = [{"n": 2}, {"tools": [{"type": "function", "function": {"name": 7}}]}]
"""What an OpenAI caller may ask of an OpenAI provider only: said by the adapter, or already when the request is read."""


def claude_before_gpt(port: int, upstream_name: str = "model") -> tuple[Snapshot, str]:
    """The alias `work`: first a target behind Anthropic's format, then one behind OpenAI's."""
    snapshot, key = two_models(port)
    gpt, claude = snapshot.models
    models = (replace(gpt, upstream_name=upstream_name), claude)
    return replace(snapshot, models=models, aliases=(an_alias("work", claude, gpt),)), key


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("asked", UNTRANSLATABLE)
async def test_a_request_that_one_target_can_not_carry_goes_to_the_next(
    asked: dict[str, Any], stream: bool, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = claude_before_gpt(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        body = a_body("openai", "work", stream=stream, **asked)
        answer = await call(http, gateway, key, "openai", body)
        assert (answer.status, answer.headers["x-tokenhub-provider"]) == (200, "oa"), answer.raw
        assert answer.headers["x-tokenhub-attempts"] == "1"
        (final,) = await gateway.settled(1)
        assert final.outcome == "completed"
        assert len(mock.calls()) == 1


async def test_a_request_that_no_target_can_carry_is_the_callers_to_mend(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = claude_before_gpt(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, "openai", a_body("openai", "claude", n=2))
        assert_refused(answer, "openai", 400, "one answer a request", '"param": "n"')
        assert answer.headers["x-tokenhub-attempts"] == "0"
        assert gateway.records() == ([], []), "nothing was sent, so nothing is booked"


async def test_why_a_target_could_not_carry_the_request_is_told_where_the_others_failed(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = claude_before_gpt(mock.port, "model@500")
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, "openai", a_body("openai", "work", n=2))
        assert_refused(
            answer, "openai", 502, "one answer a request", "untranslatable", "all 1 attempt failed"
        )
        assert len(await gateway.settled(1)) == 1
