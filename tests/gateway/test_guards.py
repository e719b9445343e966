"""Guards on the way: what a provider sees, what a caller gets, and what nobody ever gets to see."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.guards.edited_side import StreamEditor
from gateway.guards.guarding import _edit_answer
from gateway.guards.redaction import Placeholders, Restoring, within_json
from gateway.guards.texts import IN_REQUESTS, list_texts
from providers.adapters.base import Operation
from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot
from tests.fakes.raw_server import RawConnection, RawRequest, serve
from tests.gateway.calls import Client, a_body, a_head, call
from tests.gateway.saying import saying
from tests.gateway.serving import CREDENTIAL, running_gateway
from tokenhub.core.policies import GuardSpec, HedgeSpec, PolicySpec

MAIL, CARD = "ada@lovelace.example", "4111 1111 1111 1111"
ASKED = f"Write to {MAIL}, card {CARD}, and again {MAIL}."
MASKED = "Write to [EMAIL_1], card [CARD_1], and again [EMAIL_1]."
GUARDS = "x-tokenhub-guards"
PII = GuardSpec("pii", patterns=("email", "card"))

CLIENTS = pytest.mark.parametrize("client", ["openai", "anthropic"])
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def guarded(*guards: GuardSpec, **fields: Any) -> tuple[PolicySpec, ...]:
    return (PolicySpec("1", "house", 1, guards=guards, **fields),)


@CLIENTS
@STREAM
async def test_the_provider_gets_placeholders_and_the_caller_his_own_words(
    http: httpx.AsyncClient, tmp_path: Path, client: Client, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said = "I wrote to [EMAIL_1] with [CARD_1], cc charles@babbage.example."
    policies = guarded(GuardSpec("pii", patterns=("email", "card"), restore=True))
    async with saying(tmp_path, said, policies=policies) as (gateway, key, model):
        answer = await call(http, gateway, key, client, a_body(client, "work", text=ASKED, stream=stream))
        assert answer.status == 200
        assert answer.text == f"I wrote to {MAIL} with {CARD}, cc [EMAIL_2]."
        assert answer.ended or not stream
        assert MASKED in json.dumps(model.asked[0])
        assert MAIL not in json.dumps(model.asked[0])
        before = "pii:card=1, pii:email=2"
        assert answer.headers[GUARDS] == (before if stream else "pii:card=1, pii:email=3")
        await gateway.settled(1)
        [decision] = gateway.worker.decisions.take(10)
        assert json.loads(decision.document)["guards"] == {"pii:card": 1, "pii:email": 3}
        metrics = gateway.worker.metrics.counters["guards"]
        assert metrics == {
            ("pii", "before", "email"): 2,
            ("pii", "before", "card"): 1,
            ("pii", "after", "email"): 1,
        }
        journal = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (MAIL, CARD, "babbage"):
        assert secret not in caplog.text
        assert secret.encode() not in journal + decision.document


@CLIENTS
@STREAM
async def test_a_guard_that_blocks_a_request_lets_nothing_out(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path, client: Client, stream: bool
) -> None:
    provider = a_provider("one", "openai", mock.port)
    key, text = a_key()
    block = GuardSpec("no-cards", side="before", action="block", patterns=("card",))
    snapshot = a_snapshot(
        providers=(provider,), models=(a_model(provider, "work"),), keys=(key,), policies=guarded(block)
    )
    async with running_gateway(snapshot, tmp_path) as gateway:
        refused = await call(http, gateway, text, client, a_body(client, "work", text=ASKED, stream=stream))
        assert refused.status == 403
        assert "guard_blocked" in refused.raw.decode()
        assert "no-cards" in refused.raw.decode()
        assert "4111" not in refused.raw.decode()
        passed = await call(http, gateway, text, client, a_body(client, "work", text="hello", stream=stream))
        assert passed.status == 200
        assert GUARDS not in passed.headers
    assert mock.stats()["calls"] == 1


@CLIENTS
async def test_a_guard_that_blocks_an_answer_gives_none_of_it_and_it_is_accounted(
    http: httpx.AsyncClient, tmp_path: Path, client: Client
) -> None:
    block = GuardSpec("no-cards", side="after", action="block", patterns=("card",))
    async with saying(tmp_path, f"It is {CARD}.", f"It is {CARD}.", policies=guarded(block)) as (
        gateway,
        key,
        _,
    ):
        whole = await call(http, gateway, key, client, a_body(client, "work", text=ASKED))
        assert (whole.status, "guard_blocked" in whole.raw.decode()) == (403, True)
        streamed = await call(http, gateway, key, client, a_body(client, "work", text=ASKED, stream=True))
        assert not streamed.ended
        for refused in (whole, streamed):
            assert "4111" not in refused.raw.decode()
            assert "no-cards" in refused.raw.decode()
        finals = await gateway.settled(2)
        assert all(final.cost_nanos for final in finals)


async def test_a_guard_that_flags_changes_nothing_but_the_head(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    flag = GuardSpec("see", action="flag", patterns=("email",), own=(("greeting", "(?i)hello"),))
    async with saying(tmp_path, "Hello you", policies=guarded(flag)) as (gateway, key, model):
        answer = await call(http, gateway, key, "openai", a_body("openai", "work", text=ASKED))
        assert (answer.text, answer.headers[GUARDS]) == ("Hello you", "see:email=2, see:greeting=1")
        assert ASKED in json.dumps(model.asked[0])


async def test_all_attempts_and_the_repair_get_the_masked_text(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    wish = '@@tokenhub\noutput_schema={"type":"object","required":["n"]}\n@@end\n' + ASKED
    said = ("[EMAIL_1]", '{"n": "[EMAIL_1]"}')
    policies = guarded(GuardSpec("pii", patterns=("email", "card"), restore=True), hedge=HedgeSpec(True, 1))
    async with saying(tmp_path, *said, policies=policies) as (gateway, key, model):
        answer = await call(http, gateway, key, "openai", a_body("openai", "work", text=wish))
        assert json.loads(answer.text) == {"n": MAIL}
        assert answer.headers["x-tokenhub-output"] == "repaired"
    assert len(model.asked) == 2
    assert MAIL not in json.dumps(model.asked)
    assert CARD not in json.dumps(model.asked)


async def test_embeddings_envelopes_and_counts_are_masked_too(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    one, two = a_provider("one", "openai", mock.port), a_provider("two", "anthropic", mock.port)
    key, text = a_key()
    models = (
        a_model(one, "work"),
        a_model(one, "embed", capabilities=frozenset({"embeddings"})),
        a_model(two, "mind"),
    )
    snapshot = a_snapshot(providers=(one, two), models=models, keys=(key,), policies=guarded(PII))
    message = [{"role": "user", "content": ASKED}]
    calls: list[tuple[str, Client, Any]] = [
        ("/v1/embeddings", "openai", {"model": "embed", "input": [ASKED, "plain"]}),
        ("/v1/chat", "openai", {"request": {"model_hint": "work", "messages": message}}),
        ("/v1/messages/count_tokens", "anthropic", {"model": "mind", "messages": message}),
        ("/v1/completions", "openai", {"model": "work", "prompt": ASKED}),
    ]
    async with running_gateway(snapshot, tmp_path) as gateway:
        for path, client, body in calls:
            answer = await http.post(gateway.origin + path, json=body, headers=a_head(client, text))
            assert answer.status_code == 200, answer.text
            assert answer.headers[GUARDS].startswith("pii:card=1, pii:email=2"), path
    heard = b"".join(one.body for one in mock.bodies())
    assert heard.count(MASKED.encode()) == len(calls)
    assert MAIL.encode() not in heard


async def test_other_bytes_of_a_body_stay_as_they_are(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    provider = a_provider("one", "openai", mock.port)
    key, text = a_key()
    snapshot = a_snapshot(
        providers=(provider,), models=(a_model(provider, "work"),), keys=(key,), policies=guarded(PII)
    )
    raw = b'{ "model":"work", "messages":[{"role":"user","content":"a\\u00e9 %b"}],"temperature" : 0.50,"max_tokens":40}'
    async with running_gateway(snapshot, tmp_path) as gateway:
        headers = {**a_head("openai", text), "content-type": "application/json"}
        answer = await http.post(
            f"{gateway.origin}/v1/chat/completions", content=raw % MAIL.encode(), headers=headers
        )
        assert answer.status_code == 200
    # The edited string is written anew, everything around it is the caller's.
    expected = raw.replace(b"\\u00e9", "é".encode()) % b"[EMAIL_1]"
    assert mock.bodies()[-1].body == expected


class Hook:
    """A webhook guard that says what a test wants."""

    def __init__(self, say: Callable[[dict[str, Any]], Any]) -> None:
        self._say = say
        self.asked: list[RawRequest] = []

    async def answer(self, connection: RawConnection) -> None:
        while True:
            request = await connection.request()
            self.asked.append(request)
            said = self._say(json.loads(request.body))
            if said is None:
                await asyncio.sleep(5)
            data = said if isinstance(said, bytes) else json.dumps(said).encode()
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data) + data)


@asynccontextmanager
async def hooked(
    folder: Path, say: Callable[[dict[str, Any]], Any], *texts: str, **fields: Any
) -> AsyncIterator[tuple[Any, str, Any, Hook]]:
    """A gateway whose policy asks a webhook, its key's text, its model, and the webhook."""
    hook = Hook(say)
    async with serve(hook.answer) as raw:
        # The tests' gateway has one variable; its name is not one for guards, and so it is never sent.
        guard = GuardSpec("review", "webhook", url=f"http://127.0.0.1:{raw.port}/check?v=1", timeout_ms=400)
        guards = (GuardSpec("pii", side="before", patterns=("email",), restore=True), _with(guard, fields))
        async with saying(folder, *texts, policies=guarded(*guards)) as (gateway, key, model):
            yield gateway, key, model, hook


def _with(guard: GuardSpec, fields: dict[str, Any]) -> GuardSpec:
    names = GuardSpec.__slots__  # type: ignore[attr-defined]
    return GuardSpec(**{**{name: getattr(guard, name) for name in names}, **fields})


@CLIENTS
@STREAM
async def test_a_webhook_sees_masked_texts_and_may_replace_them(
    http: httpx.AsyncClient, tmp_path: Path, client: Client, stream: bool
) -> None:
    def say(asked: dict[str, Any]) -> Any:
        return {"action": "replace", "texts": [text.replace("rude", "kind") for text in asked["texts"]]}

    async with hooked(tmp_path, say, "A rude answer to [EMAIL_1].") as (gateway, key, model, hook):
        body = a_body(client, "work", text=f"Something rude to {MAIL}", stream=stream)
        answer = await call(http, gateway, key, client, body)
        assert (answer.status, answer.text) == (200, f"A kind answer to {MAIL}.")
        assert answer.ended or not stream
        assert "Something kind to [EMAIL_1]" in json.dumps(model.asked)
        asked = [json.loads(one.body) for one in hook.asked]
        assert [one["side"] for one in asked] == ["before", "after"]
        assert asked[0]["texts"] == ["Something rude to [EMAIL_1]"]
        assert asked[1]["texts"] == ["A rude answer to [EMAIL_1]."]
        assert (asked[0]["guard"], asked[0]["policy"], asked[0]["model"]) == ("review", "house", "work")
        assert hook.asked[0].target == b"/check?v=1"


@STREAM
@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_webhook_may_block(http: httpx.AsyncClient, tmp_path: Path, stream: bool, side: str) -> None:
    def say(asked: dict[str, Any]) -> Any:
        return {"action": "block" if asked["side"] == side else "allow", "message": "not here"}

    async with hooked(tmp_path, say, "Well.") as (gateway, key, model, _):
        answer = await call(
            http, gateway, key, "openai", a_body("openai", "work", text="hello", stream=stream)
        )
        told = answer.raw.decode()
        assert "guard_blocked" in told
        assert "not here" in told
        assert "Well" not in told
        assert len(model.asked) == (side == "after")
        assert answer.status == 403 or (stream and side == "after")
        await gateway.settled(len(model.asked))


WRONG: list[tuple[Any, str]] = [
    (None, "within 400 ms"),
    (b"not json", "not what a guard says"),
    ({"action": "maybe"}, "not what a guard says"),
    ({"action": "replace", "texts": []}, "replaces 0 texts of 1"),
    ({"action": "replace"}, "replaces 0 texts of 1"),
]


@pytest.mark.parametrize(("said", "why"), WRONG)
async def test_a_webhook_that_fails_closes_the_way_or_leaves_it_open(
    http: httpx.AsyncClient, tmp_path: Path, said: Any, why: str
) -> None:
    async with hooked(tmp_path / "closed", lambda _: said, side="before") as (gateway, key, model, _):
        refused = await call(http, gateway, key, "openai", a_body("openai", "work"))
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert "guard_unavailable" in refused.raw.decode()
        assert why in refused.raw.decode()
        assert not model.asked
    async with hooked(tmp_path / "open", lambda _: said, "Yes.", side="before", failure="open") as (
        gateway,
        key,
        _,
        _,
    ):
        assert (await call(http, gateway, key, "openai", a_body("openai", "work"))).text == "Yes."


async def test_a_webhook_that_is_away_or_lacks_its_secret_fails_and_tells_no_secret(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with hooked(tmp_path / "away", lambda _: {}, url="http://127.0.0.1:9/", side="before") as (
        gateway,
        key,
        _,
        _,
    ):
        refused = await call(http, gateway, key, "openai", a_body("openai", "work"))
        assert (refused.status, "can't be reached" in refused.raw.decode()) == (503, True)
    for number, name in enumerate(("TOKENHUB_GUARD_MISSING", "TOKENHUB_CRED_TESTS")):
        async with hooked(tmp_path / str(number), lambda _: {}, secret=name, side="before") as (
            gateway,
            key,
            _,
            hook,
        ):
            refused = await call(http, gateway, key, "openai", a_body("openai", "work"))
            assert f"{name} is not set" in refused.raw.decode()
            assert CREDENTIAL not in refused.raw.decode()
            assert not hook.asked


async def test_a_signed_webhook_can_be_verified(http: httpx.AsyncClient, tmp_path: Path) -> None:
    allow = {"action": "allow"}
    async with hooked(tmp_path, lambda _: allow, "Yes.", secret="TOKENHUB_GUARD_REVIEW", side="before") as (
        gateway,
        key,
        _,
        hook,
    ):
        answer = await call(http, gateway, key, "openai", a_body("openai", "work"))
        assert answer.text == "Yes."
    [asked] = hook.asked
    signature = asked.header(b"x-tokenhub-signature") or b""
    at, _, signed = signature.removeprefix(b"t=").partition(b",v1=")
    assert hmac.new(b"the guard's secret", at + b"." + asked.body, "sha256").hexdigest().encode() == signed


def test_texts_are_found_wherever_content_stands_and_nowhere_else() -> None:
    body = {
        "model": "m",
        "user": "not content",
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "name": "bob", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "u"}}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "c"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "d"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "2", "name": "f", "input": {"name": "e", "id": ["f"]}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "g"}]}]},
            {"role": "user", "content": [{"type": "document", "source": {"type": "text", "media_type": "t", "data": "h"}}]},
            {"role": "user", "content": [{"type": "image", "source": {"type": "base64", "media_type": "t", "data": "no"}}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "no", "signature": "no"}]},
        ],
        "tools": [{"name": "no", "description": "no"}],
    }  # fmt: skip
    assert "".join(text for _, text in list_texts(body, IN_REQUESTS, thoughts=False)) == "sabcdefgh"


def test_what_a_tool_is_called_with_is_restored_as_json() -> None:
    placeholders = Placeholders()
    placeholders.originals["[NAME_1]"] = 'A "B"\nC'
    whole = json.dumps(
        {
            "choices": [
                {"message": {"tool_calls": [{"function": {"name": "f", "arguments": '{"to":"[NAME_1]"}'}}]}}
            ]
        }
    ).encode()

    def restore(path: Any, text: str) -> str:
        return placeholders.restore(text, within_json if path[-1] == "arguments" else str)

    edited = json.loads(_edit_answer(whole, restore))
    function = edited["choices"][0]["message"]["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == {"to": 'A "B"\nC'}

    editor = StreamEditor(
        Operation.OPENAI_CHAT, lambda place, within: Restoring(placeholders, within_json if within else str)
    )
    out = b""
    for piece in ('{"to":"[NA', "ME_", '1]"', "}"):
        call_ = {"index": 0, "function": {"arguments": piece}}
        chunk = {
            "choices": [
                {"index": 0, "delta": {"tool_calls": [call_]}, "logprobs": {"content": [{"token": "x"}]}}
            ]
        }
        out += editor.edit(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    out += editor.finish()
    events = [json.loads(one[6:]) for one in out.decode().split("\n\n") if one]
    said = "".join(one["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] for one in events)
    assert json.loads(said) == {"to": 'A "B"\nC'}
    assert all(not one["choices"][0].get("logprobs") for one in events)
