"""Recorded requests are read and written again; recorded streams are written in this format and read
again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.tokens import estimate_tokens
from gateway.wire.anthropic_messages import AnthropicMessages
from providers.adapters.anthropic import Anthropic
from providers.adapters.base import Operation
from tests.providers.adapters.anthropic_cast import (
    ABSENT,
    FIXTURES,
    build_target,
    decode_stream,
    fold_events,
    is_empty,
    plain,
    plain_part,
    read_recordings,
    split_answers,
)
from tokenhub.core.chat import ChatAnswer, ChatCall, Message, Started, TextPart
from tokenhub.core.errors import InvalidRequest

pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason=ABSENT)

WIRE, ADAPTER = AnthropicMessages(), Anthropic()
FILES = ("anthropic_messages", "vllm-local_messages", "llamacpp-local_messages", "anthropic_count_tokens")


def read_requests(name: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The recorded request bodies of a file by their recordings' ids."""
    return [(row.id, row.request) for row in read_recordings(f"{name}.jsonl") if row.request is not None]


@pytest.mark.parametrize("name", FILES)
def test_every_recorded_request_is_read(name: str) -> None:
    requests = read_requests(name)
    refused = []
    for recording_id, body in requests:
        try:
            WIRE.read_call(body)
            assert estimate_tokens(Operation.ANTHROPIC_MESSAGES, body) > 0
        except InvalidRequest as error:
            refused.append((recording_id, error.param))
    print(f"{name}: {len(requests) - len(refused)} passed, {len(refused)} refused")
    assert refused == []


def merge(call: ChatCall) -> ChatCall:
    """The call as the format spells it: system text in front, turns of one role together, no empty text."""
    system: list[Any] = []
    turns: list[Message] = []
    for message in call.messages:
        parts = tuple(plain_part(part) for part in message.parts if not is_empty(part))
        if message.role == "system":
            system.extend(parts)
        elif turns and turns[-1].role == message.role:
            turns[-1] = replace(turns[-1], parts=turns[-1].parts + parts)
        elif parts:
            turns.append(Message(message.role, parts))
    head = (Message("system", tuple(system)),) if system else ()
    return replace(call, messages=head + tuple(turns))


DROPPED_BY_WRITING = {
    "changed:max_tokens",
    "changed:messages.role",
    "changed:tools",
    "dropped:tool_choice",
    "dropped:reasoning",
    "dropped:temperature",
    "dropped:top_p",
    "changed:tools.parameters",
    "changed:messages.assistant.text",
    "dropped:messages.assistant.text",
    "dropped:messages.assistant.thinking",
    "changed:reasoning",
    "changed:reasoning.budget_tokens",
    "changed:messages",
}


@pytest.mark.parametrize("name", ["anthropic_messages", "vllm-local_messages", "llamacpp-local_messages"])
def test_a_request_read_and_written_again_is_the_same_call(name: str) -> None:
    equal = lossy = 0
    for recording_id, body in read_requests(name):
        call = WIRE.read_call(body)
        target = build_target(str(body["model"]))
        if not any(message.parts for message in call.messages if message.role == "user"):
            lossy += 1
            continue
        _, written, losses = ADAPTER.encode_chat(call, target)
        again = WIRE.read_call(json.loads(written))
        assert ADAPTER.encode_chat(again, target)[1] == written, recording_id
        assert set(losses.names()) <= DROPPED_BY_WRITING, recording_id
        if losses.names():
            lossy += 1
            continue
        wanted = merge(call)
        if call.reasoning is not None and again.reasoning is not None:
            # An effort alone switches adaptive thinking on when it is written; that is documented.
            wanted = replace(wanted, reasoning=replace(call.reasoning, adaptive=again.reasoning.adaptive))
        assert merge(again) == wanted, recording_id
        equal += 1
    print(f"{name}: {equal} equal, {lossy} with named losses")
    assert equal > lossy


def test_every_recorded_stream_written_in_this_format_reads_as_the_same_answer() -> None:
    passed = 0
    for name in ("anthropic_messages", "vllm-local_messages", "llamacpp-local_messages", "ollama_messages"):
        for row in read_recordings(f"{name}.jsonl"):
            for body in split_answers(row.body) if row.is_stream else []:
                events = decode_stream(body, ADAPTER.stream_decoder())[1]
                model = next(event.model for event in events if isinstance(event, Started))
                encoder = WIRE.stream_encoder(model=model, call=ChatCall(()))
                written = b"".join(encoder.encode([event]) for event in events) + encoder.end()
                again = decode_stream(written, ADAPTER.stream_decoder())[1]
                assert strip(fold_events(again)) == strip(fold_events(events)), row.id
                passed += 1
    print(f"{passed} streams passed")
    assert passed == 147


def test_every_recorded_message_written_in_this_format_reads_as_the_same_answer() -> None:
    passed = 0
    for row in read_recordings("anthropic_messages.jsonl"):
        if row.status == 200 and not row.is_stream:
            answer = ADAPTER.decode_chat(row.body)
            written = WIRE.write_answer(answer, model=answer.model, call=ChatCall(()))
            assert strip(ADAPTER.decode_chat(written)) == strip(answer), row.id
            passed += 1
    assert passed == 368


def strip(answer: ChatAnswer) -> ChatAnswer:
    """The answer for comparing: an unnamed message has a name when it is written."""
    return replace(plain(answer), id=answer.id or "msg_unnamed")


def test_an_empty_text_is_no_reason_to_refuse() -> None:
    assert WIRE.read_call({"messages": [{"role": "user", "content": ""}]}).messages[0].parts == (
        TextPart(""),
    )
