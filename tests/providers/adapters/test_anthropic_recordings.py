"""Every recorded answer of Anthropic and of the servers that speak its format goes through the adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from providers.adapters.anthropic import Anthropic
from providers.adapters.base import Operation, Signal
from tests.providers.adapters.anthropic_cast import (
    ABSENT,
    FIXTURES,
    Recording,
    concatenate,
    decode_stream,
    fold_events,
    plain,
    read_recordings,
    split_answers,
    split_events,
    watch_stream,
)
from tokenhub.core.sse import EventReader

pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason=ABSENT)

ADAPTER = Anthropic()
EXPLAINED = {
    "anthropic_messages-0357": "hand-made: a second message_start, with its own id, before the first message ended",
}
"""Recordings that are no stream of the API; each is decoded all the same, without an equal to compare
with."""
FINISHES = {"stop", "stop_sequence", "length", "tool_calls", "refusal", "pause", "context"}


def run_all(name: str, run: Callable[[Recording], None]) -> int:
    """Runs every recording of a file, prints and asserts the counts, and gives how many passed."""
    failures: list[str] = []
    passed = explained = 0
    for recording in read_recordings(name):
        if recording.id in EXPLAINED:
            explained += 1
            signals, _ = decode_stream(recording.body, ADAPTER.stream_decoder())
            assert signals & Signal.END
            continue
        try:
            run(recording)
            passed += 1
        except (AssertionError, ValueError, KeyError, TypeError) as error:
            failures.append(f"{recording.id}: {error!r}")
    print(f"{name}: {passed} passed, {len(failures)} failed, {explained} explained")
    assert failures == []
    return passed


def replay(recording: Recording) -> None:
    """One recording through whatever reads its kind."""
    if recording.is_stream:
        for body in split_answers(recording.body):
            replay_stream(body)
    elif recording.status >= 400 or b'"error"' in recording.body[:20]:
        replay_failure(recording)
    else:
        replay_message(recording)


def replay_message(recording: Recording) -> None:
    answer = ADAPTER.decode_chat(recording.body)
    usage, finish, model = ADAPTER.read_answer(Operation.ANTHROPIC_MESSAGES, recording.body)
    raw = json.loads(recording.body)
    assert answer.usage == usage
    assert (answer.model, finish) == (model, raw["stop_reason"])
    assert answer.choices[0].finish in FINISHES
    check_totals(raw["usage"], answer.usage.input_total, answer.usage.output_total)
    held = [b for b in raw["content"] if b["type"] in ("text", "tool_use", "thinking", "redacted_thinking")]
    assert len(held) == len(answer.choices[0].parts)
    skipped = {b["type"] for b in raw["content"]} - {b["type"] for b in held}
    assert {f"dropped:content.{kind}" for kind in skipped} <= set(answer.losses.names())


def check_totals(raw: dict[str, Any], input_total: int, output_total: int) -> None:
    """The buckets add up to what the provider told, compaction included."""
    told = [raw] + [entry for entry in raw.get("iterations") or [] if entry["type"] == "compaction"]
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    assert input_total == sum(entry.get(name) or 0 for entry in told for name in names)
    assert output_total == sum(entry["output_tokens"] for entry in told)


def replay_stream(body: bytes) -> None:
    watch = ADAPTER.stream_watch(Operation.ANTHROPIC_MESSAGES)
    decoder = ADAPTER.stream_decoder()
    watched = watch_stream(body, watch)
    signals, events = decode_stream(body, decoder)
    good = Signal.USAGE | Signal.FINISH | Signal.END
    assert watched & good == signals & good == good
    assert not (watched | signals) & (Signal.MALFORMED | Signal.ERROR)
    assert watch.usage == decoder.usage
    assert watch.output_characters == decoder.output_characters
    assert (watch.model, watch.finish_reason) == (decoder.model, decoder.finish_reason)
    whole = ADAPTER.decode_chat(json.dumps(concatenate(body)).encode())
    assert plain(fold_events(events)) == plain(whole)
    assert watch.usage is not None
    assert not watch.usage.method
    unnamed = ADAPTER.stream_watch(Operation.ANTHROPIC_MESSAGES)
    for event in split_events(body):
        unnamed.see("", event.data or b"")
    assert (unnamed.usage, unnamed.output_characters) == (watch.usage, watch.output_characters)


def replay_failure(recording: Recording) -> None:
    failure = ADAPTER.classify(recording.status, recording.headers, recording.body)
    error = json.loads(recording.body)["error"]
    assert failure.message == error["message"]
    assert failure.status == (recording.status if recording.status >= 400 else 400)
    expected = {401: "credential", 404: "transient", 429: "rate_limited", 500: "transient", 529: "transient"}
    if failure.status in expected:
        assert failure.kind == expected[failure.status]
    else:
        long = "too long" in failure.message or "context" in failure.message
        assert failure.kind == ("context_overflow" if long else "fatal")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("anthropic_messages.jsonl", 510),
        ("vllm-local_messages.jsonl", 7),
        ("llamacpp-local_messages.jsonl", 7),
        ("ollama_messages.jsonl", 11),
    ],
)
def test_every_recorded_message_stream_and_error_is_read(name: str, count: int) -> None:
    assert run_all(name, replay) == count


def test_every_recorded_token_count_is_read_and_used_nothing() -> None:
    def replay_count(recording: Recording) -> None:
        usage, _, _ = ADAPTER.read_answer(Operation.ANTHROPIC_COUNT_TOKENS, recording.body)
        assert usage is not None
        assert usage.source == "none"

    assert run_all("anthropic_count_tokens.jsonl", replay_count) == 11


def test_every_recorded_models_list_is_read() -> None:
    def replay_models(recording: Recording) -> None:
        models = ADAPTER.read_models(recording.body)
        raw = json.loads(recording.body)["data"]
        assert [model["id"] for model in models] == [row["id"] for row in raw]
        assert [model.get("context_tokens") for model in models] == [r.get("max_input_tokens") for r in raw]

    assert run_all("anthropic_models.jsonl", replay_models) == 2


@pytest.mark.parametrize("name", ["errors_recorded.jsonl", "errors_quoted.jsonl"])
def test_every_recorded_refusal_in_this_format_is_classified(name: str) -> None:
    """llama.cpp's envelope on this route is its own, and is read here too; the ids say which route was
    asked."""
    rows = [
        row for row in read_recordings(name) if "messages" in row.id or row.provider.startswith("anthropic")
    ]
    for row in rows:
        replay_failure(row)
    print(f"{name}: {len(rows)} passed, 0 failed")
    assert len(rows) == {"errors_recorded.jsonl": 11, "errors_quoted.jsonl": 7}[name]


def test_a_quoted_rate_limit_keeps_its_wait() -> None:
    waits = {
        row.id: ADAPTER.classify(row.status, row.headers, row.body).retry_after
        for row in read_recordings("errors_quoted.jsonl")
        if row.provider == "anthropic" and row.status == 429
    }
    assert waits == {"quoted-006": 23.0, "quoted-007": 505.0, "quoted-008": None, "quoted-009": None}


def test_a_stream_cut_into_two_at_any_byte_gives_the_same_events() -> None:
    streams = [row.body for row in read_recordings("anthropic_messages.jsonl") if row.is_stream]
    for body in sorted(streams, key=len)[:10]:
        whole = EventReader().feed(body)
        expected = fold_events(decode_stream(body, ADAPTER.stream_decoder())[1])
        for offset in range(len(body) + 1):
            reader, decoder = EventReader(), ADAPTER.stream_decoder()
            events = reader.feed(body[:offset]) + reader.feed(body[offset:])
            assert events == whole
            if offset % 97 == 0:
                found = [item for e in events for item in decoder.decode(e.name, e.data or b"")[1]]
                assert fold_events(found) == expected
