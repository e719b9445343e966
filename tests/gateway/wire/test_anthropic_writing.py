"""Answers, streams and errors in Anthropic's format, as Anthropic's own SDK and our own decoder read them."""

from __future__ import annotations

import json
from typing import Any, Literal

import anthropic
import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import _anthropic_write
from gateway.wire.anthropic_count_tokens import AnthropicCountTokens
from gateway.wire.anthropic_messages import AnthropicMessages
from gateway.wire.base import StreamEncoder
from providers.adapters.anthropic import Anthropic
from providers.adapters.base import Failure
from tests.providers.adapters.anthropic_cast import decode_stream, fold_events, plain, split_events
from tokenhub.core.chat import (
    AudioPart,
    ChatAnswer,
    ChatCall,
    ChatEvent,
    Choice,
    Ended,
    Finished,
    Part,
    PartDelta,
    PartStarted,
    PartStopped,
    RefusalPart,
    SignatureDelta,
    Started,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UsageSeen,
)
from tokenhub.core.errors import (
    AllAttemptsFailed,
    AuthenticationFailed,
    ContextOverflow,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    TokenhubError,
)
from tokenhub.core.sse import EventTooLarge
from tokenhub.core.usage import Usage

WIRE, ADAPTER = AnthropicMessages(), Anthropic()
USAGE = Usage(input=10, cache_read=3, cache_write_5m=1, cache_write_1h=2, output=20, reasoning=5, searches=1)


def new_encoder() -> StreamEncoder:
    """A fresh encoder for the model `m`."""
    return WIRE.stream_encoder(model="m", call=ChatCall(()))


def write_stream(*events: ChatEvent) -> bytes:
    """A whole stream of these events."""
    encoder = new_encoder()
    return encoder.encode(events) + encoder.end()


def list_events(written: bytes) -> list[dict[str, Any]]:
    """The data of a stream's events; their names agree with their types."""
    found = []
    for event in split_events(written):
        data = json.loads(event.data or b"")
        assert event.name == data["type"]
        found.append(data)
    return found


def read_with_sdk(written: bytes) -> anthropic.types.Message:
    """The message that Anthropic's SDK puts together from a stream."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=written)

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as client,
        anthropic.Anthropic(api_key="k", base_url="http://tokenhub.invalid", http_client=client) as sdk,
        sdk.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as stream,
    ):
        return stream.get_final_message()


CONVERSATION = (
    Started("msg_1", "served", usage=Usage(input=10, method="input_only")),
    PartStarted(0, "thinking"),
    PartDelta(0, "hm"),
    SignatureDelta(0, "si"),
    SignatureDelta(0, "g"),
    PartStopped(0),
    PartStarted(1, "redacted_thinking", redacted="b3A="),
    PartStopped(1),
    PartStarted(2, "text"),
    PartDelta(2, "Grüße "),
    PartDelta(2, "🌍"),
    PartStopped(2),
    PartStarted(3, "tool_call", "call_1", "f"),
    PartDelta(3, '{"a"'),
    PartDelta(3, ": [1]}"),
    PartStopped(3),
    PartStarted(4, "tool_call", "call_2", "g"),
    PartStopped(4),
    UsageSeen(USAGE),
    Finished("tool_calls"),
    Ended(),
)


def test_a_stream_has_the_formats_events_in_order() -> None:
    events = list_events(write_stream(*CONVERSATION))
    assert events[0]["message"]["usage"]["input_tokens"] == 10
    assert events[0]["message"]["model"] == "m"
    order = [(event["type"], event.get("index")) for event in events]
    assert order == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("content_block_start", 3),
        ("content_block_delta", 3),
        ("content_block_delta", 3),
        ("content_block_stop", 3),
        ("content_block_start", 4),
        ("content_block_stop", 4),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"]["input_tokens"] == 10
    assert events[-2]["usage"]["output_tokens"] == 25


def test_anthropics_sdk_accumulates_the_stream() -> None:
    message = read_with_sdk(write_stream(*CONVERSATION))
    assert [block.model_dump(exclude_none=True) for block in message.content] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "b3A="},
        {"type": "text", "text": "Grüße 🌍"},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": [1]}},
        {"type": "tool_use", "id": "call_2", "name": "g", "input": {}},
    ]
    assert (message.id, message.model, message.stop_reason) == ("msg_1", "m", "tool_use")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (10, 25)
    assert message.usage.cache_creation_input_tokens == 3
    assert message.usage.cache_read_input_tokens == 3


def test_nothing_ends_a_stream_but_its_end() -> None:
    encoder = new_encoder()
    written = encoder.encode(CONVERSATION)
    assert b"message_stop" not in written
    assert b"message_delta" not in written
    assert encoder.end().endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


def test_usage_that_comes_behind_the_finish_is_told() -> None:
    written = write_stream(
        Started("i", "x"), PartStarted(0, "text"), PartDelta(0, "a"), Finished("stop"), UsageSeen(USAGE)
    )
    assert list_events(written)[-2]["usage"]["output_tokens"] == 25


def test_a_part_that_starts_while_another_is_open_waits() -> None:
    events: list[ChatEvent] = [
        Started("i", "x"),
        PartStarted(0, "tool_call", "a", "f"),
        PartStarted(1, "tool_call", "b", "g"),
        PartDelta(1, '{"y":'),
        PartDelta(0, '{"x":'),
        PartDelta(1, "2}"),
        PartStopped(1),
        PartDelta(0, "1}"),
    ]
    encoder = new_encoder()
    first = encoder.encode(events)
    assert b'"index":1' not in first
    second = encoder.encode([PartStopped(0)])
    assert [event["type"] for event in list_events(second)] == [
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
    ]


def test_what_waits_is_bounded() -> None:
    encoder = new_encoder()
    encoder.encode([PartStarted(0, "tool_call", "a", "f"), PartStarted(1, "text")])
    piece = PartDelta(1, "x" * (_anthropic_write.MAX_HELD_CHARACTERS // 4))
    encoder.encode([piece] * 4)
    with pytest.raises(EventTooLarge):
        encoder.encode([PartDelta(1, "x")])


def test_empty_texts_get_no_block_and_other_choices_are_named() -> None:
    call = ChatCall(())
    encoder = WIRE.stream_encoder(model="m", call=call)
    written = encoder.encode(
        [
            Started("i", "x"),
            PartStarted(0, "text"),
            PartStopped(0),
            PartStarted(1, "refusal"),
            PartDelta(1, "no"),
            PartStarted(0, "text", choice=1),
            PartDelta(0, "other", choice=1),
            Finished("refusal"),
            Finished("stop", choice=1),
        ]
    )
    events = list_events(written + encoder.end())
    assert [event["type"] for event in events].count("content_block_start") == 1
    assert events[1]["index"] == 0
    assert events[-2]["delta"]["stop_reason"] == "refusal"
    assert call.losses.names() == ("dropped:choices",)


def test_a_turn_with_calls_that_ends_plainly_is_told_as_tool_use() -> None:
    written = write_stream(
        Started("i", "x"), PartStarted(0, "tool_call", "a", "f"), PartStopped(0), Finished("stop")
    )
    assert list_events(written)[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_stream_of_nothing_is_still_a_message() -> None:
    message = read_with_sdk(write_stream(Finished("stop_sequence", "END"), Ended()))
    assert (message.content, message.stop_reason, message.stop_sequence) == ([], "stop_sequence", "END")


Kind = Literal["text", "thinking", "tool_call", "refusal"]
KINDS: st.SearchStrategy[Kind] = st.sampled_from(("text", "thinking", "tool_call", "refusal"))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_however_parts_interleave_each_block_is_whole_and_in_order(data: st.DataObject) -> None:
    kinds: list[Kind] = data.draw(st.lists(KINDS, max_size=5))
    queues: list[list[ChatEvent]] = []
    for number, kind in enumerate(kinds):
        texts = data.draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=4), max_size=4))
        start = PartStarted(number, kind, id=f"c{number}", name="f") if kind == "tool_call" else None
        queue: list[ChatEvent] = [start or PartStarted(number, kind)]
        queue += [PartDelta(number, text) for text in texts]
        if kind == "thinking":
            queue.append(SignatureDelta(number, f"sig{number}"))
        queues.append(queue + [PartStopped(number)] * data.draw(st.integers(0, 1)))
    events: list[ChatEvent] = [Started("i", "m")]
    begun = 0
    while any(queues):
        ready = [queue for queue in queues[: begun + 1] if queue]
        queue = data.draw(st.sampled_from(ready)) if ready else next(queue for queue in queues if queue)
        if isinstance(queue[0], PartStarted):
            begun += 1
        events.append(queue.pop(0))
    written = write_stream(*events, Finished("stop"), UsageSeen(USAGE))
    again = fold_events(decode_stream(written, ADAPTER.stream_decoder())[1])
    closed = [PartStopped(n) for n in range(len(kinds)) if PartStopped(n) not in events]
    wanted = fold_events([*events, *closed, Finished("stop"), UsageSeen(USAGE)])
    texts_only = tuple(
        TextPart(part.text) if isinstance(part, RefusalPart) else part
        for part in plain(wanted).choices[0].parts
    )
    assert plain(again).choices[0].parts == texts_only
    open_block = None
    for event in list_events(written):
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block = event["index"]
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
    assert open_block is None


def write_answer(
    *parts: Part, finish: Any = "stop", stop: str = ""
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A written answer and its losses."""
    answer = ChatAnswer("chatcmpl-1", "served", (Choice(parts, finish, stop),), USAGE)
    return json.loads(WIRE.write_answer(answer, model="m", call=ChatCall(()))), answer.losses.names()


def test_a_whole_answer_is_written() -> None:
    message, losses = write_answer(
        ThinkingPart("hm"),
        ThinkingPart(redacted="b3A="),
        TextPart(""),
        TextPart("so"),
        RefusalPart("no"),
        ToolCallPart("t", "f", '{"n":1}'),
        ToolCallPart("u", "g", ""),
        AudioPart("aGk=", "wav"),
    )
    assert message == {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "redacted_thinking", "data": "b3A="},
            {"type": "text", "text": "so"},
            {"type": "text", "text": "no"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"n": 1}},
            {"type": "tool_use", "id": "u", "name": "g", "input": {}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "cache_creation_input_tokens": 3,
            "cache_read_input_tokens": 3,
            "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2},
            "output_tokens": 25,
            "output_tokens_details": {"thinking_tokens": 5},
            "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
        },
    }
    assert losses == ("dropped:content.audio",)
    anthropic.types.Message.model_validate(message, strict=True)


@pytest.mark.parametrize(
    ("finish", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("stop_sequence", "stop_sequence"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
        ("refusal", "refusal"),
        ("pause", "pause_turn"),
        ("context", "model_context_window_exceeded"),
        ("error", "end_turn"),
        ("other", "end_turn"),
    ],
)
def test_every_finish_has_a_stop_reason(finish: str, stop_reason: str) -> None:
    message, _ = write_answer(TextPart("x"), finish=finish, stop="END")
    assert (message["stop_reason"], message["stop_sequence"]) == (stop_reason, "END")


@pytest.mark.parametrize("arguments", ["{", "[1]", "7", '"x"', '{"a": "\\ud800"}'])
def test_arguments_that_are_no_object_stay_readable(arguments: str) -> None:
    message, losses = write_answer(ToolCallPart("t", "f", arguments))
    assert message["content"][0]["input"] == {"_raw": arguments}
    assert losses == ("changed:content.tool_call.arguments",)


def test_half_a_surrogate_pair_does_not_break_the_answer() -> None:
    message, _ = write_answer(TextPart("a\ud83d"))
    assert message["content"] == [{"type": "text", "text": "a?"}]


def test_of_several_choices_the_first_is_told_and_the_rest_named() -> None:
    choice = Choice((TextPart("a"),), "stop")
    answer = ChatAnswer("", "x", (choice, choice))
    message = json.loads(WIRE.write_answer(answer, model="m", call=ChatCall(())))
    assert len(message["content"]) == 1
    assert answer.losses.names() == ("dropped:choices",)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x", param="messages[0]"), "invalid_request_error"),
        (AuthenticationFailed("x"), "authentication_error"),
        (InvalidRequest("x", code="budget_exceeded"), "invalid_request_error"),
        (PermissionDenied("x"), "permission_error"),
        (ModelNotFound("x"), "not_found_error"),
        (PayloadTooLarge("x"), "request_too_large"),
        (RateLimited("x"), "rate_limit_error"),
        (AllAttemptsFailed("x"), "api_error"),
        (NotReady("x"), "api_error"),
        (DeadlineExceeded("x"), "timeout_error"),
    ],
)
def test_errors_have_anthropics_types_and_our_codes(error: TokenhubError, kind: str) -> None:
    for wire in (WIRE, AnthropicCountTokens()):
        body = json.loads(wire.error_body(error, "req_1"))
        assert (body["type"], body["request_id"]) == ("error", "req_1")
        assert body["error"]["type"] == kind
        assert body["error"]["code"] == error.code
        assert body["error"].get("param") == error.param
        event = wire.error_event(error, "req_1")
        assert event.startswith(b"event: error\ndata: ")
        assert json.loads(event.split(b"data: ", 1)[1]) == body


def test_hints_are_told_and_context_overflow_in_the_words_that_clients_look_for() -> None:
    body = json.loads(WIRE.error_body(InvalidRequest("wrong", hint="mend it"), "r"))
    assert body["error"]["message"] == "wrong (mend it)"
    body = json.loads(WIRE.error_body(ContextOverflow("9 tokens over 8"), "r"))
    assert body["error"]["message"] == "prompt is too long: 9 tokens over 8"


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (Failure("fatal", 400, "x"), "invalid_request_error", "x"),
        (Failure("fatal", 422, "x"), "invalid_request_error", "x"),
        (Failure("context_overflow", 400, "long"), "invalid_request_error", "prompt is too long: long"),
        (
            Failure("context_overflow", 400, "prompt is too long: 9"),
            "invalid_request_error",
            "prompt is too long: 9",
        ),
        (Failure("rate_limited", 429, "x"), "rate_limit_error", "x"),
        (Failure("transient", 529, "x"), "overloaded_error", "x"),
        (Failure("transient", 404, "x"), "not_found_error", "x"),
        (Failure("transient", 500, "x"), "api_error", "x"),
        (Failure("credential", 401, "x"), "api_error", "x"),
        (Failure("content_filter", 400, "x"), "invalid_request_error", "x"),
    ],
)
def test_failures_of_any_provider_are_told_in_this_format(failure: Failure, kind: str, message: str) -> None:
    body = json.loads(WIRE.failure_body(failure, "req_1"))
    assert (body["error"]["type"], body["error"]["message"]) == (kind, message)


def test_anthropics_sdk_raises_its_own_error_for_an_error_event() -> None:
    encoder = new_encoder()
    written = encoder.encode(CONVERSATION[:3]) + WIRE.error_event(AllAttemptsFailed("cut"), "req_1")
    with pytest.raises(anthropic.APIStatusError) as caught:
        read_with_sdk(written)
    assert "cut" in str(caught.value)
