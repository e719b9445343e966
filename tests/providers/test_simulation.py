"""The simulation engine by itself: same question, same answer; schemas obeyed; usage exact; refusals as the vendors'."""

import json
import math
import struct
from base64 import b64decode
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.simulation import Settings, SimulatedFailure, SimulatedStream, Simulator, count_text
from providers.simulation.dice import Dice
from providers.simulation.pattern import matching
from providers.simulation.schema import example

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 3},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 7},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
OPENAI_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
ANTHROPIC_TOOL = {"name": "get_weather", "input_schema": WEATHER}


class Clock:
    """A clock that tests turn by hand."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


def simulator(clock: Clock | None = None, **changes: Any) -> Simulator:
    return Simulator(Settings(**changes), key=b"k" * 32, now=clock or Clock())


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "sim-small", "messages": [{"role": "user", "content": text}], **more}


def message(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "sim-large", "max_tokens": 500, "messages": [{"role": "user", "content": text}], **more}


def body_of(sim: Simulator, operation: Any, request: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = sim.answer(operation, request, **options)
    assert answer.status == 200, answer.body
    body: dict[str, Any] = json.loads(answer.body)
    return body


def error_of(
    sim: Simulator, operation: Any, request: dict[str, Any], **options: Any
) -> tuple[int, dict[str, Any]]:
    answer = sim.answer(operation, request, **options)
    return answer.status, json.loads(answer.body)


def openai_chunks(
    sim: Simulator, request: dict[str, Any], operation: Any = "chat.completions"
) -> list[dict[str, Any]]:
    events = list(sim.stream(operation, request))
    assert events[-1] == b"data: [DONE]\n\n"
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)
    return [json.loads(event.removeprefix(b"data: ")) for event in events[:-1]]


def anthropic_events(sim: Simulator, request: dict[str, Any]) -> list[dict[str, Any]]:
    documents = []
    for event in sim.stream("messages", request):
        name, data = event.decode().rstrip("\n").split("\n")
        documents.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {documents[-1]['type']}"
    return documents


def test_the_same_chat_has_the_same_text_and_another_has_another() -> None:
    texts = [
        body_of(simulator(), "chat.completions", request)["choices"][0]["message"]["content"]
        for request in (chat("one"), chat("one"), chat("two"), chat("one", seed=7))
    ]
    assert texts[0] == texts[1]
    assert len({texts[0], texts[2], texts[3]}) == 3


def test_default_answers_have_twenty_to_sixty_tokens() -> None:
    counts = [
        body_of(simulator(), "chat.completions", chat(f"question {number}"))["usage"]["completion_tokens"]
        for number in range(200)
    ]
    assert min(counts) >= 20
    assert max(counts) <= 60


def test_some_answers_are_not_ascii() -> None:
    bodies = [simulator().answer("chat.completions", chat(str(number))).body for number in range(40)]
    assert any(not body.isascii() for body in bodies)


def test_a_streamed_chat_carries_the_same_text_and_usage_as_a_plain_one() -> None:
    request = chat("compare", stream_options={"include_usage": True})
    plain = body_of(simulator(), "chat.completions", request)
    chunks = openai_chunks(simulator(), request)
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == plain["choices"][0]["message"]["content"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == plain["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_that_did_not_ask_for_usage_has_no_usage_field() -> None:
    assert all("usage" not in chunk for chunk in openai_chunks(simulator(), chat()))


def test_chat_usage_follows_the_documented_rule() -> None:
    body = body_of(simulator(), "chat.completions", chat("x" * 41))
    text = body["choices"][0]["message"]["content"]
    assert body["usage"]["prompt_tokens"] == 3 + 4 + 11
    assert body["usage"]["completion_tokens"] == count_text(text) == math.ceil(len(text) / 4)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_token_limit_cuts_the_text_and_says_so(field: str) -> None:
    body = body_of(simulator(), "chat.completions", {**chat(), field: 5})
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 5
    assert len(body["choices"][0]["message"]["content"]) == 20


def test_reasoning_tokens_are_part_of_the_output_and_can_use_up_the_limit() -> None:
    body = body_of(simulator(), "chat.completions", chat(reasoning_effort="high"))
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 32
    short = body_of(simulator(), "chat.completions", chat(reasoning_effort="high", max_completion_tokens=10))
    assert short["usage"]["completion_tokens"] == 10
    assert short["choices"][0]["message"]["content"] == ""
    assert short["choices"][0]["finish_reason"] == "length"


def test_a_stop_sequence_ends_the_text_before_it() -> None:
    whole = body_of(simulator(), "chat.completions", chat())["choices"][0]["message"]["content"]
    word = whole.split()[4]
    body = body_of(simulator(), "chat.completions", chat(stop=[word, "never there"]))
    assert body["choices"][0]["message"]["content"] == whole[: whole.index(word)]
    assert body["choices"][0]["finish_reason"] == "stop"


def test_n_gives_different_choices_and_sums_their_tokens() -> None:
    plain = body_of(simulator(), "chat.completions", chat(n=3))
    texts = [choice["message"]["content"] for choice in plain["choices"]]
    assert len(set(texts)) == 3
    assert plain["usage"]["completion_tokens"] == sum(map(count_text, texts))
    streamed = {0: "", 1: "", 2: ""}
    for chunk in openai_chunks(simulator(), chat(n=3)):
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content") or ""
    assert list(streamed.values()) == texts


def test_logprobs_cover_the_whole_text() -> None:
    choice = body_of(simulator(), "chat.completions", chat(logprobs=True, top_logprobs=1))["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in tokens) == choice["message"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in tokens).decode() == choice["message"]["content"]
    assert len(tokens[0]["top_logprobs"]) == 1


@pytest.mark.parametrize(
    ("text", "choice", "calls"),
    [
        ("hello", "required", 1),
        ("hello", {"type": "function", "function": {"name": "get_weather"}}, 1),
        ("how is the weather", "auto", 1),
        ("please use get_weather", "auto", 1),
        ("the weather in two places, in parallel", "auto", 2),
        ("hello", "auto", 0),
        ("how is the weather", "none", 0),
    ],
)
def test_tools_are_called_when_asked_for_with_arguments_that_validate(
    text: str, choice: Any, calls: int
) -> None:
    request = chat(text, tools=[OPENAI_TOOL], tool_choice=choice)
    made = body_of(simulator(), "chat.completions", request)["choices"][0]
    given = made["message"].get("tool_calls", [])
    assert len(given) == calls
    for call in given:
        jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
    expected = "tool_calls" if calls and not isinstance(choice, dict) else "stop"
    assert made["finish_reason"] == expected


def test_parallel_tool_calls_can_be_switched_off() -> None:
    request = chat("weather in parallel", tools=[OPENAI_TOOL], parallel_tool_calls=False)
    assert len(body_of(simulator(), "chat.completions", request)["choices"][0]["message"]["tool_calls"]) == 1


def test_streamed_arguments_come_in_several_fragments_and_join_to_the_plain_ones() -> None:
    request = chat("weather in parallel", tools=[OPENAI_TOOL])
    plain = body_of(simulator(), "chat.completions", request)["choices"][0]["message"]["tool_calls"]
    joined: dict[int, list[str]] = {}
    for chunk in openai_chunks(simulator(), request):
        for call in chunk["choices"][0]["delta"].get("tool_calls", []):
            joined.setdefault(call["index"], []).append(call["function"]["arguments"])
    assert ["".join(parts) for parts in joined.values()] == [call["function"]["arguments"] for call in plain]
    assert all(len(parts) > 2 for parts in joined.values())


def test_a_tool_result_is_answered_with_text() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    request = chat("weather", tools=[OPENAI_TOOL])
    request["messages"] += [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    made = body_of(simulator(), "chat.completions", request)["choices"][0]
    assert made["finish_reason"] == "stop"
    assert made["message"]["content"]


def test_images_are_counted_as_tokens() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    request = chat()
    request["messages"][0]["content"] = [{"type": "text", "text": "see"}, image]
    assert body_of(simulator(), "chat.completions", request)["usage"]["prompt_tokens"] == 3 + 4 + 1 + 85


def test_structured_output_validates_against_its_schema() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "strict": True, "schema": WEATHER}}
    text = body_of(simulator(), "chat.completions", chat(response_format=wanted))["choices"][0]["message"][
        "content"
    ]
    jsonschema.validate(json.loads(text), WEATHER)


def test_json_mode_needs_the_word_json_as_the_vendor_does() -> None:
    wanted = {"type": "json_object"}
    text = body_of(simulator(), "chat.completions", chat("as JSON", response_format=wanted))
    assert isinstance(json.loads(text["choices"][0]["message"]["content"]), dict)
    status, error = error_of(simulator(), "chat.completions", chat("plain", response_format=wanted))
    assert (status, error["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize(
    ("request_body", "param", "code"),
    [
        ({"model": "m"}, "messages", "missing_required_parameter"),
        ({"model": "m", "messages": []}, "messages", "empty_array"),
        ({"model": "m", "messages": "x"}, "messages", "invalid_type"),
        (
            {"model": "m", "messages": [{"role": "alien", "content": "x"}]},
            "messages[0].role",
            "invalid_value",
        ),
        ({"model": "m", "messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        (chat(temperature=3), "temperature", "decimal_above_max_value"),
        (chat(max_tokens=0), "max_tokens", "integer_below_min_value"),
        (chat(max_tokens="x"), "max_tokens", "invalid_type"),
        ({"messages": [{"role": "user", "content": "x"}]}, None, None),
        (
            {"model": "m", "messages": [{"role": "tool", "tool_call_id": "1", "content": ""}]},
            "messages.[0].role",
            None,
        ),
        (chat(stop=7), "stop", "invalid_type"),
    ],
)
def test_openai_refusals_name_the_parameter_and_the_code(request_body: Any, param: Any, code: Any) -> None:
    status, body = error_of(simulator(), "chat.completions", request_body)
    assert status == 400
    assert (body["error"]["param"], body["error"]["code"]) == (param, code)
    assert body["error"]["type"] == "invalid_request_error"


def test_unknown_fields_are_refused_only_when_told() -> None:
    assert simulator().answer("chat.completions", chat(foo=1)).status == 200
    status, body = error_of(simulator(strict_fields=True), "chat.completions", chat(foo=1))
    assert (status, body["error"]["code"]) == (400, "unknown_parameter")


def test_a_prompt_over_the_window_gets_the_vendors_own_words() -> None:
    sim = simulator(context_window=50)
    _, openai = error_of(sim, "chat.completions", chat("x" * 400))
    assert openai["error"]["code"] == "context_length_exceeded"
    _, anthropic = error_of(sim, "messages", message("x" * 400))
    assert anthropic["error"]["message"] == "prompt is too long: 107 tokens > 50 maximum"


def test_the_vllm_dialect_has_integer_codes_and_its_own_types() -> None:
    sim = simulator(dialect="vllm")
    _, body = error_of(sim, "chat.completions", {"model": "m"})
    assert (body["error"]["code"], body["error"]["type"]) == (400, "BadRequestError")
    _, body = error_of(sim, "messages", {"model": "m"})
    assert body["type"] == "error"
    assert body["error"]["type"] == "BadRequestError"


def test_frames_carry_the_gap_and_exactly_the_wished_number_of_content_events() -> None:
    reply = simulator(gap=0.01, tokens=100).respond("chat.completions", chat(stream=True))
    assert isinstance(reply, SimulatedStream)
    frames = list(reply.frames)
    assert sum(frame.content for frame in frames) == 100
    assert {frame.delay for frame in frames if frame.content} == {0.01}
    assert sum(frame.tokens for frame in frames) == reply.usage.output == 100


# OpenAI completions and embeddings


def test_completions_answer_each_prompt_and_stream_the_same_text() -> None:
    request = {"model": "m", "prompt": ["a", "b"], "max_tokens": 8}
    plain = body_of(simulator(), "completions", request)
    assert [choice["index"] for choice in plain["choices"]] == [0, 1]
    assert plain["usage"] == {
        **plain["usage"],
        "prompt_tokens": 2,
        "completion_tokens": 16,
        "total_tokens": 18,
    }
    streamed = ["", ""]
    for chunk in openai_chunks(simulator(), request, "completions"):
        streamed[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert streamed == [choice["text"] for choice in plain["choices"]]


def test_embeddings_are_unit_vectors_that_repeat() -> None:
    request = {"model": "m", "input": ["one", "two", "one"], "dimensions": 64}
    vectors = [entry["embedding"] for entry in body_of(simulator(), "embeddings", request)["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    assert all(len(vector) == 64 and math.isclose(math.hypot(*vector), 1, rel_tol=1e-5) for vector in vectors)


def test_base64_embeddings_hold_the_same_numbers() -> None:
    plain = body_of(simulator(), "embeddings", {"model": "m", "input": "x", "dimensions": 8})
    coded = body_of(
        simulator(), "embeddings", {"model": "m", "input": "x", "dimensions": 8, "encoding_format": "base64"}
    )
    decoded = struct.unpack("<8f", b64decode(coded["data"][0]["embedding"]))
    assert decoded == pytest.approx(plain["data"][0]["embedding"])
    assert coded["usage"] == {"prompt_tokens": 1, "total_tokens": 1}


# Anthropic


def test_a_message_and_its_events_agree_in_text_and_usage() -> None:
    plain = body_of(simulator(), "messages", message())
    events = anthropic_events(simulator(), message())
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    text = "".join(e["delta"]["text"] for e in events if e["type"] == "content_block_delta")
    assert text == plain["content"][0]["text"]
    assert events[-2]["usage"]["output_tokens"] == plain["usage"]["output_tokens"] == count_text(text)
    assert events[0]["message"]["usage"]["input_tokens"] == plain["usage"]["input_tokens"] == 3 + 4 + 2
    assert events[-2]["delta"]["stop_reason"] == plain["stop_reason"] == "end_turn"


def test_count_tokens_says_what_the_message_is_billed() -> None:
    request = message("some words", system="be brief", tools=[ANTHROPIC_TOOL])
    counted = body_of(
        simulator(), "messages.count_tokens", {k: v for k, v in request.items() if k != "max_tokens"}
    )
    assert counted == {"input_tokens": body_of(simulator(), "messages", request)["usage"]["input_tokens"]}


@pytest.mark.parametrize("thinking", [{"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}])
def test_thinking_is_signed_and_taken_back_only_unchanged(thinking: dict[str, Any]) -> None:
    sim = simulator()
    request = message(thinking=thinking, max_tokens=2000)
    first = body_of(sim, "messages", request)
    assert [block["type"] for block in first["content"]] == ["thinking", "text"]
    asked = request["messages"]
    again = {**request, "messages": [*asked, {"role": "assistant", "content": first["content"]}, *asked]}
    assert sim.answer("messages", again).status == 200
    first["content"][0]["thinking"] += "!"
    status, body = error_of(sim, "messages", again)
    assert status == 400
    assert "Invalid `signature` in `thinking` block" in body["error"]["message"]


def test_another_servers_signature_is_refused() -> None:
    request = message(thinking={"type": "adaptive"})
    content = body_of(simulator(), "messages", request)["content"]
    other = Simulator(Settings(), key=b"other", now=Clock())
    again = {
        **request,
        "messages": [*request["messages"], {"role": "assistant", "content": content}, *request["messages"]],
    }
    assert simulator().answer("messages", again).status == 200
    assert other.answer("messages", again).status == 400


def test_thinking_streams_its_text_then_its_signature() -> None:
    request = message(thinking={"type": "adaptive"})
    plain = body_of(simulator(), "messages", request)
    deltas = [
        event["delta"]
        for event in anthropic_events(simulator(), request)
        if event["type"] == "content_block_delta"
    ]
    kinds = [delta["type"] for delta in deltas]
    assert kinds == sorted(kinds, key=["thinking_delta", "signature_delta", "text_delta"].index)
    assert kinds.count("signature_delta") == 1
    thinking = "".join(delta.get("thinking", "") for delta in deltas)
    signature = next(delta["signature"] for delta in deltas if "signature" in delta)
    assert {"type": "thinking", "thinking": thinking, "signature": signature} == plain["content"][0]
    assert plain["usage"]["output_tokens_details"]["thinking_tokens"] == count_text(thinking)


def test_omitted_thinking_is_billed_but_not_shown() -> None:
    shown = body_of(simulator(), "messages", message(thinking={"type": "adaptive"}))
    hidden = body_of(simulator(), "messages", message(thinking={"type": "adaptive", "display": "omitted"}))
    assert hidden["content"][0]["thinking"] == ""
    assert hidden["usage"]["output_tokens"] == shown["usage"]["output_tokens"]


@pytest.mark.parametrize("display", ["summarized", "omitted"])
def test_the_frames_of_a_message_carry_exactly_the_billed_tokens(display: str) -> None:
    request = message("weather", thinking={"type": "adaptive", "display": display}, tools=[ANTHROPIC_TOOL])
    reply = simulator().respond("messages", {**request, "stream": True})
    assert isinstance(reply, SimulatedStream)
    assert sum(frame.tokens for frame in reply.frames) == reply.usage.output


def test_anthropic_tools_stream_json_that_validates() -> None:
    request = message("weather in parallel", tools=[ANTHROPIC_TOOL])
    plain = body_of(simulator(), "messages", request)
    blocks = [block for block in plain["content"] if block["type"] == "tool_use"]
    assert plain["stop_reason"] == "tool_use"
    assert len(blocks) == 2
    joined: dict[int, str] = {}
    for event in anthropic_events(simulator(), request):
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "input_json_delta":
            joined[event["index"]] = joined.get(event["index"], "") + event["delta"]["partial_json"]
    assert [json.loads(text) for text in joined.values()] == [block["input"] for block in blocks]
    for block in blocks:
        jsonschema.validate(block["input"], WEATHER)


def test_a_note_to_the_model_after_the_last_turn_hides_it_not() -> None:
    turns = [*message("weather")["messages"], {"role": "system", "content": "Be brief."}]
    request = message(messages=turns, tools=[ANTHROPIC_TOOL])
    assert body_of(simulator(), "messages", request)["stop_reason"] == "tool_use"


def test_anthropic_structured_output_validates() -> None:
    wanted = {"format": {"type": "json_schema", "schema": WEATHER}}
    made = body_of(simulator(), "messages", message(output_config=wanted))
    jsonschema.validate(json.loads(made["content"][0]["text"]), WEATHER)


def test_an_anthropic_stop_sequence_is_named() -> None:
    whole = body_of(simulator(), "messages", message())["content"][0]["text"]
    word = whole.split()[3]
    made = body_of(simulator(), "messages", message(stop_sequences=[word]))
    assert (made["stop_reason"], made["stop_sequence"]) == ("stop_sequence", word)
    assert made["content"][0]["text"] == whole[: whole.index(word)]


def test_the_prompt_cache_is_written_then_read_then_forgotten() -> None:
    clock = Clock()
    sim = simulator(clock)
    system = [{"type": "text", "text": "s" * 8000, "cache_control": {"type": "ephemeral"}}]
    request = message(system=system)
    usages = []
    for pause in (0, 299, 299, 301):
        clock.seconds += pause
        usages.append(body_of(sim, "messages", request)["usage"])
    seen = [
        (u["cache_creation_input_tokens"], u["cache_read_input_tokens"], u["input_tokens"]) for u in usages
    ]
    assert seen == [(2000, 0, 9), (0, 2000, 9), (0, 2000, 9), (2000, 0, 9)]


def test_the_cache_splits_what_it_writes_by_lifetime() -> None:
    marks = [{"type": "ephemeral", "ttl": "1h"}, {"type": "ephemeral", "ttl": "5m"}]
    system = [{"type": "text", "text": "s" * 4096, "cache_control": marks[0]}]
    request = message(system=system)
    request["messages"][0]["content"] = [{"type": "text", "text": "u" * 400, "cache_control": marks[1]}]
    usage = body_of(simulator(), "messages", request)["usage"]
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 1024}
    assert usage["cache_creation_input_tokens"] == 1124


def test_a_growing_conversation_reads_the_part_it_shares() -> None:
    sim = simulator()
    mark = {"cache_control": {"type": "ephemeral"}}
    first = message()
    first["messages"] = [{"role": "user", "content": [{"type": "text", "text": "a" * 8000, **mark}]}]
    body_of(sim, "messages", first)
    second = message()
    second["messages"] = [
        {"role": "user", "content": "a" * 8000},
        {"role": "assistant", "content": "b" * 40},
        {"role": "user", "content": [{"type": "text", "text": "c" * 40, **mark}]},
    ]
    usage = body_of(sim, "messages", second)["usage"]
    assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (2000, 20)


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k"])
def test_the_newer_version_takes_no_sampling_parameters(name: str) -> None:
    request = {**message(), name: 1}
    assert simulator().answer("messages", request, version="2023-06-01").status == 200
    status, body = error_of(simulator(), "messages", request, version="2026-10-21")
    assert status == 400
    assert body["error"]["message"].startswith(name)


@pytest.mark.parametrize(
    ("request_body", "words"),
    [
        ({"model": "m", "messages": [{"role": "user", "content": "x"}]}, "max_tokens: Field required"),
        ({"model": "m", "max_tokens": 5}, "messages: Field required"),
        ({"model": "m", "max_tokens": 5, "messages": []}, "at least one message is required"),
        (message(thinking={"type": "enabled", "budget_tokens": 2000}), "`max_tokens` must be greater than"),
        (
            message(tool_choice={"type": "tool", "name": "nope"}, tools=[ANTHROPIC_TOOL]),
            "not found in provided tools",
        ),
        (
            {
                "model": "m",
                "max_tokens": 5,
                "messages": [
                    {"role": "user", "content": "x"},
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "t1", "name": "a", "input": {}}],
                    },
                    {"role": "user", "content": "no result"},
                ],
            },
            "`tool_use` ids were found without `tool_result` blocks immediately after: t1",
        ),
    ],
)
def test_anthropic_refusals_use_its_words(request_body: dict[str, Any], words: str) -> None:
    status, body = error_of(simulator(), "messages", request_body)
    assert status == 400
    assert body["error"]["type"] == "invalid_request_error"
    assert words in body["error"]["message"]


def test_a_missing_version_header_is_refused() -> None:
    status, body = error_of(simulator(), "messages", message(), version="")
    assert (status, body["error"]["message"]) == (400, "anthropic-version: header is required")


def test_models_come_in_either_vendors_shape() -> None:
    sim = simulator(models=("a", "b"))
    assert [model["id"] for model in body_of(sim, "models", {})["data"]] == ["a", "b"]
    listed = body_of(sim, "models", {}, version="2023-06-01")
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("a", "b", False)
    assert listed["data"][0]["type"] == "model"
    assert error_of(sim, "models", {"model": "c"})[0] == 404


# everything


@pytest.mark.parametrize("operation", ["chat.completions", "completions", "embeddings", "messages"])
@given(value=st.deferred(lambda: ODD_VALUES), field=st.deferred(lambda: ODD_FIELDS), stream=st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_value_of_any_field_breaks_the_engine(
    operation: Any, value: Any, field: str, stream: bool
) -> None:
    base = {**chat(), "max_tokens": 50, "prompt": "p", "input": "i", "stream": stream}
    reply = simulator().respond(operation, {**base, field: value})
    assert reply.status in (200, 400)
    if isinstance(reply, SimulatedStream):
        assert all(frame.data.endswith(b"\n\n") for frame in reply.frames)


ODD_KEYS = ["role", "content", "type", "text", "name", "function", "id", "tool_use_id", "cache_control"]
ODD_FIELDS: st.SearchStrategy[str] = st.sampled_from(
    [
        "messages",
        "model",
        "tools",
        "tool_choice",
        "stop",
        "system",
        "thinking",
        "input",
        "prompt",
        "response_format",
        "output_config",
        "stop_sequences",
        "cache_control",
        "stream_options",
        "n",
        "max_tokens",
        "reasoning_effort",
        "dimensions",
        "seed",
    ]
)
ODD_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ODD_KEYS), inner, max_size=4),
    max_leaves=8,
)


@given(schema=st.deferred(lambda: SCHEMAS), seed=st.binary(min_size=8, max_size=8))
@settings(max_examples=200, deadline=None)
def test_examples_validate_against_their_schema(schema: dict[str, Any], seed: bytes) -> None:
    jsonschema.validate(example(schema, Dice(seed)), schema)


SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.builds(lambda low: {"type": "string", "minLength": low, "maxLength": low + 9}, st.integers(0, 30)),
        st.builds(lambda low: {"type": "integer", "minimum": low, "maximum": low + 5}, st.integers(-50, 50)),
        st.builds(
            lambda low: {"type": "number", "exclusiveMinimum": low, "maximum": low + 2}, st.integers(-9, 9)
        ),
        st.builds(lambda step: {"type": "integer", "multipleOf": step}, st.integers(1, 9)),
        st.sampled_from(
            [
                {"type": "boolean"},
                {"type": "null"},
                {"const": {"a": 1}},
                {"enum": [1, "two", None]},
                {"type": ["string", "null"]},
                {"type": "string", "pattern": "^[A-Z]{3}-\\d{2,4}$"},
                {"type": "string", "format": "date-time"},
                {},
                {"type": "array", "uniqueItems": True, "minItems": 3, "items": {"type": "integer"}},
            ]
        ),
    ),
    lambda inner: st.one_of(
        st.builds(
            lambda item, least: {"type": "array", "items": item, "minItems": least}, inner, st.integers(0, 3)
        ),
        st.builds(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": sorted(fields),
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from("abcdef"), inner, max_size=4),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=10,
)


def test_a_recursive_schema_ends() -> None:
    schema = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "next", "children"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    }
    for number in range(50):
        jsonschema.validate(example(schema, Dice(bytes([number] * 8))), schema)


@pytest.mark.parametrize(
    "pattern",
    [r"^\w+@\w+\.org$", r"^(red|green)-[^a-f]{2}$", r"\d{4}-\d{2}", r"^[A-Fa-f0-9]{8}$", r"^a?b*c+$"],
)
def test_patterns_are_matched(pattern: str) -> None:
    made = [matching(pattern, Dice(bytes([number] * 8))) for number in range(20)]
    assert None not in made
    assert len(made) == 20


def test_streaming_a_refused_request_raises_with_the_vendors_status() -> None:
    with pytest.raises(SimulatedFailure) as caught:
        list(simulator().stream("chat.completions", {"model": "m"}))
    assert caught.value.status == 400
