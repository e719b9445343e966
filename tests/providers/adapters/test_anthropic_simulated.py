"""The built-in provider: each operation is read by the adapter whose format it is, and its answers pass
both."""

from __future__ import annotations

import json

import pytest

from providers.adapters.base import Operation, Signal
from providers.adapters.registry import get_adapter
from providers.adapters.simulated import Simulated, read_settings
from providers.simulation import SimulatedAnswer, SimulatedStream, Simulator
from tests.providers.adapters.anthropic_cast import (
    build_inbound,
    build_target,
    decode_stream,
    fold_events,
    read_sample,
    say,
    split_events,
    watch_stream,
)
from tokenhub.core.chat import ChatCall, TextPart

ADAPTER = Simulated()
TARGET = build_target("sim-small", secret="", kind="simulated")


def test_it_needs_no_network_and_speaks_both_formats() -> None:
    found = get_adapter("simulated")
    assert isinstance(found, Simulated)
    assert found.in_process
    assert found.native == frozenset(Operation) - {Operation.TOKENHUB_CHAT}


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        (Operation.OPENAI_CHAT, b"/v1/chat/completions"),
        (Operation.OPENAI_COMPLETIONS, b"/v1/completions"),
        (Operation.OPENAI_EMBEDDINGS, b"/v1/embeddings"),
        (Operation.ANTHROPIC_MESSAGES, b"/v1/messages"),
        (Operation.ANTHROPIC_COUNT_TOKENS, b"/v1/messages/count_tokens"),
    ],
)
def test_each_operation_goes_its_vendors_way(operation: Operation, path: bytes) -> None:
    request = ADAPTER.request(TARGET, operation, b"{}", build_inbound(), stream=False)
    assert request.path == path
    assert (b"anthropic-version" in dict(request.headers)) is (
        operation in ("anthropic.messages", "anthropic.count_tokens")
    )
    assert ADAPTER.edits(TARGET, operation, {"model": "x"})["model"] == "sim-small"


@pytest.mark.parametrize(
    ("operation", "sample", "tokens", "finish"),
    [
        (Operation.OPENAI_CHAT, "chat.json", {"input": 5, "output": 2}, "stop"),
        (Operation.ANTHROPIC_MESSAGES, "message.json", {"input": 5, "output": 2}, "end_turn"),
        (Operation.OPENAI_EMBEDDINGS, "embeddings.json", {"input": 4}, ""),
    ],
)
def test_answers_are_read_by_their_own_format(
    operation: Operation, sample: str, tokens: dict[str, int], finish: str
) -> None:
    usage, found, _ = ADAPTER.read_answer(operation, read_sample(sample, "simulated"))
    assert usage is not None
    assert (usage.counts(), found) == (tokens, finish)


def test_refusals_are_read_by_their_own_envelope() -> None:
    failure = ADAPTER.classify(529, {}, read_sample("messages_error.json", "simulated"))
    assert (failure.kind, failure.code) == ("transient", "overloaded_error")
    failure = ADAPTER.classify(429, {}, read_sample("chat_error.json", "simulated"))
    assert (failure.kind, failure.code) == ("rate_limited", "rate_limit_exceeded")
    assert ADAPTER.classify(503, {}, b"<html>").kind == "transient"


def test_a_profile_makes_the_simulations_settings() -> None:
    target = build_target(kind="simulated", latency_ms=250, gap_ms=5, tokens=7, context_window=100)
    settings = read_settings(target.provider)
    assert (settings.latency, settings.gap, settings.tokens, settings.context_window) == (0.25, 0.005, 7, 100)
    assert read_settings(TARGET.provider).tokens is None
    with pytest.raises(ValueError, match="latency_ms"):
        read_settings(build_target(latency_ms=-1).provider)


def new_simulator() -> Simulator:
    """A simulated provider with fixed time and key."""
    return Simulator(read_settings(TARGET.provider), key=b"k" * 32, now=lambda: 1_000.0)


def join_stream(reply: object) -> bytes:
    """The bytes of a simulated stream."""
    assert isinstance(reply, SimulatedStream)
    return b"".join(frame.data for frame in reply.frames)


def test_a_translated_call_comes_back_from_the_simulation() -> None:
    call = ChatCall((say("hello"),), max_tokens=50)
    operation, body, _ = ADAPTER.encode_chat(call, TARGET)
    assert operation == Operation.OPENAI_CHAT
    reply = new_simulator().respond("chat.completions", json.loads(body))
    assert isinstance(reply, SimulatedAnswer)
    answer = ADAPTER.decode_chat(reply.body)
    assert isinstance(answer.choices[0].parts[0], TextPart)
    assert answer.usage.output > 0


def test_simulated_streams_of_both_formats_are_watched_to_their_end() -> None:
    good = Signal.CONTENT | Signal.USAGE | Signal.FINISH | Signal.END
    messages = [{"role": "user", "content": "hello"}]
    request = {"model": "sim-small", "messages": messages, "stream": True, "max_tokens": 50}
    bodies = {
        Operation.ANTHROPIC_MESSAGES: new_simulator().respond("messages", request),
        Operation.OPENAI_CHAT: new_simulator().respond(
            "chat.completions", request | {"stream_options": {"include_usage": True}}
        ),
    }
    for operation, reply in bodies.items():
        body = join_stream(reply)
        watch = ADAPTER.stream_watch(operation)
        assert watch_stream(body, watch) & good == good
        assert watch.usage is not None
        assert watch.usage.output > 0
        assert len(split_events(body)) > 3
        if operation is Operation.OPENAI_CHAT:
            answer = fold_events(decode_stream(body, ADAPTER.stream_decoder())[1])
            assert answer.usage.output == watch.usage.output
