"""Replays recorded traffic of every OpenAI-style vendor: answers, streams, errors and requests. `-rA -s` shows the counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.wire.openai_chat import OpenAIChat
from providers.adapters._openai_json import read_object
from providers.adapters._openai_stream import strip_injected_usage
from providers.adapters.base import Failure, Operation, Signal
from providers.adapters.openai import OpenAI
from tests.providers.adapters.openai_cast import (
    RECORDINGS,
    build_target,
    cut_events,
    encode_headers,
    needs_recordings,
    read_recordings,
    tell,
)
from tests.providers.adapters.test_openai_streams import judge
from tokenhub.core.chat import ChatCall
from tokenhub.core.errors import InvalidRequest

pytestmark = needs_recordings

ADAPTER = OpenAI()
FORMAT = OpenAIChat()
CHATS = sorted(path.name for path in RECORDINGS.glob("*_chat.jsonl") if not path.name.startswith("cohere"))
COMPLETIONS = sorted(path.name for path in RECORDINGS.glob("*_completions.jsonl"))
EMBEDDINGS = sorted(path.name for path in RECORDINGS.glob("*_embeddings.jsonl"))

NO_ANSWER = {
    "azure_chat-0009": "empty body",
    "azure_chat-0017": "Azure's filter, as an error object under 200",
    "azure_completions-0000": "empty body",
    "azure_embeddings-0001": "empty body",
    "groq_chat-0004": "a test's dump of a response, not its body",
    "llamacpp-local_chat-041": "the recording was cut at 60,000 characters",
    "openai_chat-0038": "empty body",
    "openai_chat-0064": "empty body",
    "openai_chat-0099": "LangSmith's answer, not OpenAI's",
    "openai_chat-0204": "LangSmith's answer, not OpenAI's",
    "openai_chat-0222": "empty body",
    "openai_chat-0601": "empty body",
    "openai_chat-0628": "empty body",
    "openai_chat-1085": "a PDF",
    "openai_completions-0008": "empty body",
    "openai_completions-0009": "empty body",
    "openai_completions-0010": "empty body",
    "openai_embeddings-0008": "empty body",
    "openai_embeddings-0010": "empty body",
}
"""Recordings under status 200 that are no answers: read as ValueError, each for its reason."""

CUT = {
    "groq_chat-0084": "ends with an error event",
    "openai-compatible_chat-0000": "the recording lacks the blank line behind its end mark",
    "perplexity_chat-0020": "ends without an end mark",
    **dict.fromkeys(
        (f"huggingface_chat-00{number}" for number in (16, 17, 19, 20, 21, 23, 24, 25)),
        "ends without an end mark",
    ),
}
"""Streams without an end mark."""


def body_of(row: dict[str, Any]) -> bytes:
    return str(row["response_body_raw"] or "").encode()


def is_stream(row: dict[str, Any]) -> bool:
    return bool(row["streaming"]) or body_of(row).startswith(b"data:")


def rows(name: str, *, good: bool) -> Iterator[dict[str, Any]]:
    for row in read_recordings(name):
        if (row["status"] == 200) is good:
            yield row


def replay(name: str, check: Callable[[dict[str, Any]], None]) -> Counter[str]:
    """Runs the check over the good recordings of a file; what is no answer must be refused as one."""
    counts: Counter[str] = Counter()
    for row in rows(name, good=True):
        if row["id"] in NO_ANSWER:
            with pytest.raises(ValueError, match="provider"):
                ADAPTER.decode_chat(body_of(row))
            counts["no answer"] += 1
        else:
            try:
                check(row)
            except Exception as error:
                raise AssertionError(f"{row['id']}: {error}") from error
            counts["streams" if is_stream(row) else "answers"] += 1
    print(f"{name}: {dict(counts)}")
    return counts


def check_chat(row: dict[str, Any]) -> None:
    if is_stream(row):
        check_stream(row)
        return
    body = body_of(row)
    answer = ADAPTER.decode_chat(body)
    choices = json.loads(body)["choices"]
    assert len(answer.choices) == len(choices)
    for choice, raw in zip(answer.choices, choices, strict=True):
        # A reasoning model may spend its whole limit without a word.
        assert choice.parts or choice.finish == "length"
        assert choice.finish != "other"
        assert choice.stop_sequence == "" or raw["stop_reason"] == choice.stop_sequence
    told = json.loads(body).get("usage")
    assert (answer.usage.source == "provider") is bool(told)
    usage, finish, model = ADAPTER.read_answer(Operation.OPENAI_CHAT, body)
    assert finish == choices[0].get("finish_reason", "")
    assert model == answer.model
    if told:
        assert usage == answer.usage
        total = told.get("total_tokens")
        assert total is None or answer.usage.input_total + answer.usage.output_total == total
    written = FORMAT.write_answer(answer, model="public", call=ChatCall(()))
    assert len(json.loads(written)["choices"]) == len(choices)


def check_stream(row: dict[str, Any]) -> None:
    events = cut_events(body_of(row))
    watch, decoder = ADAPTER.stream_watch(Operation.OPENAI_CHAT), ADAPTER.stream_decoder()
    seen = Signal.NONE
    for event in events:
        data = event.data or b""
        signal = watch.see(event.name, data)
        assert signal == decoder.decode(event.name, data)[0]
        assert not signal & Signal.MALFORMED
        seen |= signal
        check_stripped(data)
    assert watch.output_characters == decoder.output_characters
    told = tell(ADAPTER.stream_decoder(), events)
    assert bool(seen & Signal.END) is not (row["id"] in CUT)
    assert told.parts or "length" in {end.finish for end in told.finished.values()}
    assert (seen & Signal.CONTENT > 0) is any(part["text"] or part["name"] for part in told.parts.values())
    asked = isinstance(row["request_body"], dict) and (row["request_body"].get("stream_options") or {}).get(
        "include_usage"
    )
    if asked:
        assert told.usage is not None
        assert told.usage.input_total > 0
    assert told.usage == watch.usage
    if seen & Signal.END:
        assert told.finished
        assert not told.open
    # The local vLLM's tiny model writes noise where a schema does not bind it.
    for _, _, arguments in told.calls() if row["provider"] != "vllm-local" else ():
        assert isinstance(json.loads(arguments or "{}"), dict)


def check_stripped(data: bytes) -> None:
    chunk = read_object(data)
    stripped = strip_injected_usage(data)
    if chunk is not None and "usage" in chunk and chunk["usage"] is None:
        del chunk["usage"]
        assert read_object(stripped) == chunk
    else:
        assert stripped == data


@pytest.mark.parametrize("name", CHATS)
def test_every_recorded_chat_answer_and_stream_is_read(name: str) -> None:
    counts = replay(name, check_chat)
    assert counts["streams"] + counts["answers"] > 0


@pytest.mark.parametrize("name", COMPLETIONS)
def test_every_recorded_completion_is_read(name: str) -> None:
    def check(row: dict[str, Any]) -> None:
        if not is_stream(row):
            usage, finish, model = ADAPTER.read_answer(Operation.OPENAI_COMPLETIONS, body_of(row))
            assert finish in ("stop", "length")
            assert model
            assert usage is None or usage.input_total > 0
            return
        watch = ADAPTER.stream_watch(Operation.OPENAI_COMPLETIONS)
        signals = [watch.see(event.name, event.data or b"") for event in cut_events(body_of(row))]
        assert signals[-1] is Signal.END
        assert watch.output_characters > 0
        assert Signal.MALFORMED not in signals

    assert replay(name, check).total() > 0


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_every_recorded_embedding_is_read(name: str) -> None:
    def check(row: dict[str, Any]) -> None:
        usage, finish, model = ADAPTER.read_answer(Operation.OPENAI_EMBEDDINGS, body_of(row))
        assert usage is not None
        assert usage.counts() == {"input": usage.input_total}
        assert (finish, bool(model)) == ("", True)

    counts = replay(name, check)
    assert counts["streams"] == 0


@pytest.mark.parametrize("name", [*CHATS, *COMPLETIONS])
def test_the_watchs_short_cut_agrees_with_a_full_parse_of_every_recorded_event(name: str) -> None:
    for row in rows(name, good=True):
        if not is_stream(row):
            continue
        watch, characters = ADAPTER.stream_watch(Operation.OPENAI_CHAT), 0
        for event in cut_events(body_of(row)):
            data = event.data or b""
            signal = watch.see(event.name, data)
            expected, count = judge(event.name, data)
            plain = b'"content":[' not in data and b"x_groq" not in data and b"reasoning_details" not in data
            assert signal == expected or not plain, (row["id"], data)
            characters += count
        if row["provider"] not in ("mistral", "openrouter"):
            assert watch.output_characters == characters, row["id"]


def test_ten_recorded_streams_cut_at_every_offset_tell_the_same() -> None:
    chosen: list[dict[str, Any]] = []
    for name in (
        "openai",
        "azure",
        "groq",
        "mistral",
        "deepseek",
        "openrouter",
        "vllm-local",
        "llamacpp-local",
        "zai",
        "ollama",
    ):
        streams = [row for row in rows(f"{name}_chat.jsonl", good=True) if is_stream(row)]
        chosen.append(min(streams, key=lambda row: abs(len(row["response_body_raw"]) - 2_500)))
    assert len({row["provider"] for row in chosen}) == 10
    for row in chosen:
        stream = body_of(row)[:6_000]
        whole = cut_events(stream)
        told = tell(ADAPTER.stream_decoder(), whole)
        for at in range(1, len(stream)):
            events = cut_events(stream, at)
            assert [event.raw for event in events] == [event.raw for event in whole], (row["id"], at)
            assert at % 16 or tell(ADAPTER.stream_decoder(), events) == told, (row["id"], at)


# Errors.

OURS = frozenset({"chat", "completions", "embeddings"})

KINDS: dict[str, str] = {
    "maximum context length": "context_overflow",
    "prompt too long": "context_overflow",
    "exceeds the available context": "context_overflow",
    "all messages is too long": "context_overflow",
    "cannot be greater than max_model_len": "context_overflow",
    "got -186": "context_overflow",
    "content management policy": "content_filter",
    "Tool call validation failed": "transient",
    "current quota": "credential",
    "Incorrect API key": "credential",
    "rate-limited upstream": "rate_limited",
    "Rate limit exceeded": "rate_limited",
}
"""Words of recorded errors whose kind is not what their status alone says."""

BY_STATUS = {
    400: "fatal",
    401: "credential",
    404: "transient",
    405: "transient",
    429: "rate_limited",
    500: "transient",
}
BY_STATUS |= {501: "transient", 403: "credential", 422: "fatal"}


def status_of(row: dict[str, Any]) -> int:
    """The recorded status; quotations have it in words, or not at all."""
    if isinstance(row["status"], int):
        return row["status"]
    return 429 if "429" in row["status"] else 400


def classify_row(row: dict[str, Any]) -> Failure:
    return ADAPTER.classify(status_of(row), encode_headers(row["response_headers"] or {}), body_of(row))


def error_rows() -> Iterator[dict[str, Any]]:
    for name in ("errors_recorded.jsonl", "errors_quoted.jsonl", *CHATS, *COMPLETIONS, *EMBEDDINGS):
        for row in rows(name, good=False):
            openai = row["endpoint"] == "responses" and row["provider"] in ("openai", "xai", "deepseek")
            # 202: LangSmith's answers among OpenAI's.
            if row["status"] != 202 and (row["endpoint"] in OURS or openai):
                yield row


def test_every_recorded_error_is_classified() -> None:
    counts: Counter[str] = Counter()
    for row in error_rows():
        failure = classify_row(row)
        text = str(row["response_body_raw"] or "")
        status = status_of(row)
        if status == 429 and "insufficient_quota" in text:
            expected = "credential"
        elif "context_length_exceeded" in text:
            expected = "context_overflow"
        else:
            expected = next((kind for words, kind in KINDS.items() if words in text), BY_STATUS[status])
            if "(parameter=" in text and "max_model_len" not in text and "maximum context" not in text:
                expected = "fatal"
        assert failure.kind == expected, (row["id"], text[:300])
        assert failure.message
        assert failure.status == status
        assert "sk-" not in failure.message
        counts[f"{status} {failure.kind}"] += 1
    print(dict(counts))
    assert counts.total() > 120


def test_errors_under_200_are_classified_too() -> None:
    row = next(row for row in rows("azure_chat.jsonl", good=True) if row["id"] == "azure_chat-0017")
    failure = ADAPTER.classify(200, {}, body_of(row))
    assert (failure.kind, failure.status) == ("content_filter", 400)


# Requests.

UNTRANSLATABLE = {
    "model:": "no model: Azure's stands in the path, and two recordings test its absence",
    "max_tokens:": "0 or -1, which OpenAI refuses too",
    "n:": "0",
    "temperature:": "a string",
    "messages:": "an empty list, or a string",
    "messages[0].role:": "an invented role",
    "messages[0].content:": "no content",
    "messages[1].content[0].type:": "a part without a type",
    "messages[0].content[1].type:": "a video",
    "response_format.json_schema:": "no schema",
}
"""Why a recorded request can't be read: the path that the error names → what stands there."""


@pytest.mark.parametrize("name", CHATS)
def test_every_recorded_request_is_read_or_refused_by_its_path_and_survives_a_round_trip(name: str) -> None:
    counts: Counter[str] = Counter()
    refused: list[tuple[str, str]] = []
    target = build_target(cache_control=True, top_k=True, reasoning_field="thinking_blocks", max_stops=0)
    for row in read_recordings(name):
        body = row["request_body"]
        if not isinstance(body, dict):
            counts["without request"] += 1
            continue
        try:
            call = FORMAT.read_call(body)
        except InvalidRequest as refusal:
            refused.append((row["id"], f"{refusal.param}:"))
            continue
        FORMAT.check(body)
        _, encoded, losses = ADAPTER.encode_chat(call, target)
        again = FORMAT.read_call(json.loads(encoded))
        assert compare(call, again, losses.names()) == [], row["id"]
        counts["translated"] += 1
    assert [(row_id, path) for row_id, path in refused if path not in UNTRANSLATABLE] == []
    print(f"{name}: {dict(counts)} refused: {len(refused)}")
    assert counts.total() + len(refused) > 0


def compare(call: ChatCall, again: ChatCall, losses: tuple[str, ...]) -> list[str]:
    """Names of the fields that a round trip changed without a loss that names them."""
    covered = {
        "messages": "messages.", "reasoning": "reasoning", "tool_choice": "tool_choice", "tools": "tools", "stop": "stop",
    }  # fmt: skip
    # A stream always asks for its usage; a schema without a name gets one, which OpenAI demands.
    skipped = {"losses", "include_usage"}
    if call.output_format is not None and not call.output_format.name:
        skipped.add("output_format")
    changed = [name for name in ChatCall.__dataclass_fields__ if getattr(call, name) != getattr(again, name)]
    return [
        name
        for name in changed
        if name not in skipped and not any(covered.get(name, name) in loss for loss in losses)
    ]
