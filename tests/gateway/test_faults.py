"""The fault matrix: every fault × both clients × streamed or not × both providers, with a healthy target behind the faulty one."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import httpx
import pytest

from providers.mock import MockProvider, closed_port
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import Client, a_body, call
from tests.gateway.serving import CREDENTIAL, running_gateway
from tokenhub.core.attempts import AttemptFinal
from tokenhub.core.specs import Snapshot, TimeoutsSpec

FAST = TimeoutsSpec(connect=0.5, first_event=0.4, between_events=0.4, total=10.0)

BEFORE_CONTENT_EITHER_WAY = (
    "reset", "silent", "empty", "401", "403", "429", "429-no-header", "500", "502", "503", "529", "context", "huge-head",
    "html",
)  # fmt: skip
BEFORE_CONTENT_STREAMED = (
    *BEFORE_CONTENT_EITHER_WAY,
    "silent-after-head",
    "error-event",
    "cut:0",
    "stall:0",
    "malformed-cut:0",
)
BEFORE_CONTENT_WHOLE = (
    *BEFORE_CONTENT_EITHER_WAY,
    "silent-after-head",
    "error-event",
    "cut",
    "stall",
    "bad-json",
    "null-body",
)
AFTER_CONTENT = ("cut:2", "stall:2", "malformed-cut:2", "error-event:2", "truncated:2")
KINDS = ("openai", "anthropic")
CLIENTS: tuple[Client, ...] = get_args(Client)


def faulty_and_healthy(kind: str, fault: str, faulty_port: int, healthy_port: int) -> tuple[Snapshot, str]:
    """The alias `work`: first a target with the fault, then a healthy one with a larger context."""
    faulty = a_provider("faulty", kind, faulty_port, timeouts=FAST)
    healthy = a_provider("healthy", kind, healthy_port)
    first = a_model(faulty, "first", f"model@{fault}" if fault else "model", context_tokens=1000)
    second = a_model(healthy, "second", "model", context_tokens=2000)
    key, text = a_key()
    snapshot = a_snapshot(
        providers=(faulty, healthy),
        models=(first, second),
        aliases=(an_alias("work", first, second),),
        keys=(key,),
    )
    return snapshot, text


def matrix() -> list[tuple[str, str, Client, bool]]:
    """Every fault that strikes before content, with provider, client and whether it is streamed."""
    return [
        (fault, kind, client, stream)
        for stream, faults in ((True, BEFORE_CONTENT_STREAMED), (False, BEFORE_CONTENT_WHOLE))
        for fault in faults
        for kind in KINDS
        for client in CLIENTS
    ]


def assert_booked(fault: str, failed: AttemptFinal) -> None:
    """A provider's refusal is not billed. Any other call that was sent may be, so its input is booked as an estimate."""
    refused = fault[0].isdecimal() or fault in ("context", "error-event")
    assert failed.usage.source == ("none" if refused else "estimated")
    assert bool(failed.usage.input) is bool(failed.usage.method) is bool(failed.cost_nanos) is not refused


@pytest.mark.parametrize(("fault", "kind", "client", "stream"), matrix())
async def test_before_content_the_next_target_answers(
    fault: str,
    kind: str,
    client: Client,
    stream: bool,
    mock: MockProvider,
    http: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    snapshot, key = faulty_and_healthy(kind, fault, mock.port, mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, client, a_body(client, "work", stream=stream))
        assert answer.status == 200
        assert answer.text
        assert answer.ended is stream
        assert not answer.errors
        assert answer.headers["x-tokenhub-provider"] == "healthy"
        assert answer.headers["x-tokenhub-attempts"] == "2"
        failed, completed = await gateway.settled(2)
        assert (failed.outcome, completed.outcome) == ("failed", "completed")
        assert failed.error_class
        assert failed.usage.output == 0
        assert_booked(fault, failed)
        calls = mock.calls()
        assert len(calls) == 2
        assert (completed.usage.input, completed.usage.output) == (
            calls[1].input_tokens,
            calls[1].output_tokens,
        )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("client", CLIENTS)
async def test_a_refused_connection_fails_over(
    client: Client, stream: bool, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    with closed_port() as port:
        snapshot, key = faulty_and_healthy("openai", "", port, mock.port)
        async with running_gateway(snapshot, tmp_path) as gateway:
            answer = await call(http, gateway, key, client, a_body(client, "work", stream=stream))
            assert answer.status == 200
            assert answer.text
            failed, completed = await gateway.settled(2)
            assert (failed.outcome, failed.error_class, completed.outcome) == (
                "failed",
                "transient",
                "completed",
            )
            assert failed.usage.source == "none"
            assert failed.cost_nanos == 0


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", AFTER_CONTENT)
async def test_after_content_the_caller_gets_an_error_event_and_no_false_end(
    fault: str, kind: str, client: Client, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = faulty_and_healthy(kind, fault, mock.port, mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, client, a_body(client, "work", stream=True))
        assert answer.status == 200
        assert answer.text, "what came before the break is relayed"
        assert not answer.ended
        assert len(answer.errors) == 1
        assert answer.events[-1][1]["error"] == answer.errors[0], "nothing follows the error"
        (final,) = await gateway.settled(1)
        assert final.outcome == "truncated"
        assert final.usage.source == "estimated"
        assert 0 < final.usage.output <= 60
        assert len(mock.calls()) == 1, "the next target is not called once content was relayed"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_an_unreadable_event_does_not_end_a_healthy_stream(
    kind: str, client: Client, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = faulty_and_healthy(kind, "malformed:2", mock.port, mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, client, a_body(client, "work", stream=True))
        assert answer.ended
        assert not answer.errors
        (final,) = await gateway.settled(1)
        assert final.outcome == "completed"
        assert final.usage.source == "provider"
        assert gateway.worker.metrics.counters["malformed_events"] == {("faulty",): 1}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("fault", ["401", "429", "500", "529", "context", "silent", "reset"])
async def test_a_lone_failing_target_gives_an_error_in_the_callers_format_without_secrets(
    fault: str, client: Client, stream: bool, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = faulty_and_healthy("openai", fault, mock.port, mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, client, a_body(client, "first", stream=stream))
        expected = {
            "401": 502,
            "429": 429,
            "500": 502,
            "529": 502,
            "context": 400,
            "silent": 504,
            "reset": 502,
        }
        assert answer.status == expected[fault]
        assert answer.body is not None
        assert answer.body["error"]["message"]
        assert (answer.body.get("type") == "error") is (client == "anthropic")
        if fault == "429":
            assert answer.headers["retry-after"] == "1"
        assert CREDENTIAL.encode() not in answer.raw
        assert CREDENTIAL[-6:].encode() not in answer.raw
        (final,) = await gateway.settled(1)
        assert final.outcome == "failed"
        assert_booked(fault, final)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("kind", KINDS)
async def test_usage_that_the_provider_leaves_out_is_estimated_and_says_so(
    kind: str, client: Client, mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = faulty_and_healthy(kind, "no-usage", mock.port, mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        for stream in (True, False):
            answer = await call(http, gateway, key, client, a_body(client, "work", stream=stream))
            assert answer.text
        for final in await gateway.settled(2):
            assert final.outcome == "completed"
            assert final.usage.source == "estimated"
            assert 0 < final.usage.output <= 60
            assert final.cost_nanos
