"""Streams of OpenAI-style providers: what they tell, what each event means, and what is taken out of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.adapters._openai_stream import strip_injected_usage
from providers.adapters.base import Operation, Signal
from providers.adapters.openai import OpenAI
from tests.providers.adapters.openai_cast import Told, cut_events, list_samples, read_sample, tell
from tokenhub.core.chat import Finished
from tokenhub.core.usage import Usage

ADAPTER = OpenAI()
STREAMS = [*list_samples("openai/*.sse"), *list_samples("vllm/*.sse")]


def told_by(name: str) -> Told:
    return tell(ADAPTER.stream_decoder(), cut_events(read_sample(name)))


def watched(stream: bytes, operation: Operation = Operation.OPENAI_CHAT) -> tuple[list[Signal], Any]:
    watch = ADAPTER.stream_watch(operation)
    return [watch.see(event.name, event.data or b"") for event in cut_events(stream)], watch


def test_a_text_stream_tells_its_text_usage_and_end() -> None:
    told = told_by("openai/text.sse")
    assert told.started is not None
    assert (told.started.id, told.started.model) == (
        "chatcmpl-sample",
        "small-1",
    )
    assert told.started.created == 1790000000
    assert told.texts() == ['Good morning,\n"you" \\o/ é😀.']
    assert told.finished == {0: Finished("stop")}
    assert told.usage is not None
    assert (told.usage.input, told.usage.output, told.usage.source) == (
        9,
        4,
        "provider",
    )
    assert told.ended


def test_tool_calls_are_put_together_by_their_index() -> None:
    told = told_by("openai/tools.sse")
    assert told.calls() == [("call_a", "weather", '{"city":"Oslo"}'), ("call_b", "clock", "{}")]
    assert told.finished[0].finish == "tool_calls"


def test_tool_calls_without_an_index_and_with_parsed_arguments_are_whole_calls() -> None:
    told = told_by("openai/tools_without_index.sse")
    assert told.calls() == [("aB3", "weather", '{"city":"Oslo"}'), ("aB4", "clock", '{"zone":"CET"}')]
    assert told.usage is not None
    assert told.usage.input_total == 30


def test_another_id_under_the_same_index_is_another_call_and_stop_means_tool_calls() -> None:
    told = told_by("openai/tools_same_index.sse")
    assert told.calls() == [("call_1", "weather", "{}"), ("call_2", "clock", '{"a":1}')]
    assert told.finished[0].finish == "tool_calls"


def test_a_piece_of_a_tool_call_that_already_ended_is_a_failure_and_never_lost_in_silence() -> None:
    decoder = ADAPTER.stream_decoder()

    def piece(index: int, **function: str) -> bytes:
        call = {"index": index, "id": f"c{index}", "function": function}
        return json.dumps(
            {"id": "1", "model": "m", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
        ).encode()

    decoder.decode("", piece(0, name="a", arguments="{"))
    decoder.decode("", piece(1, name="b", arguments="{}"))
    signal, _ = decoder.decode("", piece(0, arguments=""))
    assert signal is Signal.CONTENT
    signal, _ = decoder.decode("", piece(0, arguments="}"))
    assert signal is Signal.ERROR
    assert decoder.failure is not None
    assert decoder.failure.code == "tool_calls_mixed"


def test_a_refusal_is_a_part_of_its_own_and_the_reason_of_the_end() -> None:
    told = told_by("openai/refusal.sse")
    assert told.texts("refusal") == ["I can't help with that."]
    assert told.finished[0].finish == "refusal"


def test_choices_are_kept_apart() -> None:
    told = told_by("openai/two_choices.sse")
    assert (told.texts(choice=0), told.texts(choice=1)) == (["one"], ["two!"])
    assert (told.finished[0].finish, told.finished[1].finish) == ("stop", "length")


def test_azures_first_chunk_without_choices_starts_nothing() -> None:
    told = told_by("openai/azure.sse")
    assert told.started is not None
    assert told.started.id == "chatcmpl-sample"
    assert told.texts() == ["Hello"]
    signals, _ = watched(read_sample("openai/azure.sse"))
    assert signals[:3] == [Signal.NONE, Signal.NONE, Signal.CONTENT]


def test_reasoning_comes_before_the_text_and_into_its_own_bucket() -> None:
    told = told_by("openai/reasoning.sse")
    assert (told.texts("thinking"), told.texts()) == (["Let me see."], ["42"])
    assert told.usage == Usage(
        input=12, cache_read=8, output=6, reasoning=9, raw=told.usage.raw if told.usage else None
    )


def test_signatures_and_encrypted_reasoning_are_kept_and_late_empty_chunks_ignored() -> None:
    told = told_by("openai/signed_reasoning.sse")
    parts = list(told.parts.values())
    assert [part["kind"] for part in parts] == ["thinking", "redacted_thinking", "text"]
    assert (parts[0]["text"], parts[0]["signature"], parts[1]["text"]) == ("Thinking", "c2ln", "b3BhcXVl")
    assert told.finished[0].finish == "stop"


def test_mistrals_content_parts_are_thinking_and_text() -> None:
    told = told_by("openai/content_parts.sse")
    assert (told.texts("thinking"), told.texts()) == (["Hmm."], ["So!"])


def test_an_error_event_after_content_is_a_failure_with_its_own_status() -> None:
    signals, watch = watched(read_sample("openai/error_after_content.sse"))
    assert signals[-2:] == [Signal.CONTENT, Signal.ERROR]
    assert (watch.failure.kind, watch.failure.status, watch.failure.code) == ("transient", 500, "internal")


def test_an_error_within_a_chunk_keeps_the_usage_that_it_tells() -> None:
    signals, watch = watched(read_sample("openai/error_in_chunk.sse"))
    assert signals[1] == Signal.ERROR | Signal.USAGE
    assert (watch.failure.kind, watch.failure.message, watch.usage.input) == (
        "rate_limited",
        "Upstream is busy",
        43,
    )


def test_groqs_usage_is_found_and_does_not_make_its_chunk_removable() -> None:
    signals, watch = watched(read_sample("openai/usage_in_x_groq.sse"))
    assert signals[-2] == Signal.FINISH | Signal.USAGE
    assert (watch.usage.input, watch.usage.output) == (11, 3)


def test_a_stream_without_a_finish_reason_ends_at_its_end_mark() -> None:
    told = told_by("openai/no_finish.sse")
    assert told.finished == {0: Finished("stop")}
    assert told.ended


def test_vllms_stop_string_is_told() -> None:
    assert told_by("vllm/text.sse").finished[0] == Finished("stop_sequence", "END")


def test_usage_in_every_chunk_is_the_last_one_and_never_added_up() -> None:
    signals, watch = watched(read_sample("vllm/continuous_usage.sse"))
    assert (watch.usage.input, watch.usage.output) == (5, 2)
    assert signals == [
        Signal.USAGE,
        Signal.CONTENT | Signal.USAGE,
        Signal.CONTENT | Signal.USAGE,
        Signal.FINISH | Signal.USAGE,
        Signal.USAGE | Signal.USAGE_ONLY,
        Signal.END,
    ]


def test_only_events_with_content_commit_and_only_the_usage_chunk_is_removable() -> None:
    signals, watch = watched(read_sample("openai/text.sse"))
    assert signals == [
        Signal.NONE,
        *[Signal.CONTENT] * 4,
        Signal.FINISH,
        Signal.USAGE | Signal.USAGE_ONLY,
        Signal.END,
    ]
    assert (watch.finish_reason, watch.model) == ("stop", "small-1")
    assert watch.output_characters == len('Good morning,\n"you" \\o/ é😀.')


def test_a_completions_stream_is_watched() -> None:
    signals, watch = watched(read_sample("openai/completions.sse"), Operation.OPENAI_COMPLETIONS)
    content = [Signal.CONTENT] * 3
    assert signals == [*content, Signal.FINISH, Signal.USAGE | Signal.USAGE_ONLY, Signal.END]
    assert (watch.output_characters, watch.usage.output) == (len("Once upon a"), 3)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff", b"{" * 100_000, b"[" * 100_000]
)
def test_what_is_no_object_is_malformed_and_ends_nothing(data: bytes) -> None:
    assert ADAPTER.stream_watch(Operation.OPENAI_CHAT).see("", data) is Signal.MALFORMED
    assert ADAPTER.stream_decoder().decode("", data) == (Signal.MALFORMED, ())


def test_broken_characters_are_read_as_replacement_characters() -> None:
    told = Told()
    decoder = ADAPTER.stream_decoder()
    for text in (b"\xf0\x9f", b"\\ud83d"):
        data = b'{"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"a' + text + b'b"}}]}'
        signal, events = decoder.decode("", data)
        assert signal is Signal.CONTENT
        for event in events:
            told.add(event)
    assert told.texts() == ["a\ufffdba\ufffdb"]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_anywhere_tells_the_same(name: str) -> None:
    stream = read_sample(name)
    whole = tell(ADAPTER.stream_decoder(), cut_events(stream))
    signals, _ = watched(stream)
    for at in range(1, len(stream)):
        events = cut_events(stream, at)
        assert tell(ADAPTER.stream_decoder(), events) == whole
        watch = ADAPTER.stream_watch(Operation.OPENAI_CHAT)
        assert [watch.see(event.name, event.data or b"") for event in events] == signals


# The watch's short cut against a full parse of every event, written apart from it.


def judge(name: str, data: bytes) -> tuple[Signal, int]:
    """What an event means and its characters of text, by a full parse with the standard library."""
    if data.strip() == b"[DONE]":
        return Signal.END, 0
    try:
        chunk = json.loads(data)
    except ValueError:
        return Signal.MALFORMED, 0
    if not isinstance(chunk, dict):
        return Signal.MALFORMED, 0
    signal, count = Signal.NONE, 0
    if name == "error" or chunk.get("error") or chunk.get("object") == "error":
        signal |= Signal.ERROR
    for choice in chunk.get("choices") or []:
        delta = choice.get("delta") or {}
        texts = [
            choice.get("text"),
            delta.get("content"),
            delta.get("refusal"),
            delta.get("reasoning_content"),
        ]
        texts.append(delta.get("reasoning") if not delta.get("reasoning_content") else None)
        for call in delta.get("tool_calls") or []:
            texts += [call["function"].get("name"), call["function"].get("arguments")]
        characters = sum(len(text) for text in texts if text)
        if characters or delta.get("tool_calls"):
            signal |= Signal.CONTENT
        count += characters
        if choice.get("finish_reason"):
            signal |= Signal.FINISH
    usage = chunk.get("usage")
    if isinstance(usage, dict) and "prompt_tokens" in usage:
        signal |= Signal.USAGE
        if chunk.get("choices") == [] and not signal & Signal.ERROR:
            signal |= Signal.USAGE_ONLY
    return signal, count


TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "", "a", " b", "\n\n", '"', "\\", '"usage":{', '"finish_reason":"stop"', '"error":{"message":"x"}', "[DONE]",
            '","finish_reason":"stop","x":"', '"}}],"usage":{"prompt_tokens":1}', "\\u0000", "}", "{", "null",
            "é", "😀", "\x7f",
        ]
    ),
)  # fmt: skip


@st.composite
def chunks(draw: st.DrawFn) -> tuple[str, bytes]:
    """An event like those around it in everything but a few members, as streams are."""
    kind = draw(
        st.sampled_from(
            ["content"] * 8 + ["reasoning_content", "reasoning", "refusal", "text", "tool", "role", "usage"]
        )
    )
    text = draw(TEXTS)
    finish = draw(st.sampled_from([None] * 8 + ["stop", "length"]))
    choice: dict[str, Any] = {"index": draw(st.sampled_from([0, 0, 0, 1])), "finish_reason": finish}
    if kind == "text":
        choice["text"] = text
    elif kind == "tool":
        choice["delta"] = {
            "tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": text}}]
        }
    elif kind == "role":
        choice["delta"] = {"role": "assistant", "content": ""}
    else:
        choice["delta"] = {
            kind: text,
            **draw(st.sampled_from([{}, {}, {"role": "assistant"}, {"refusal": None}])),
        }
    chunk: dict[str, Any] = {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}
    usage = draw(st.sampled_from([None, None, None, {"prompt_tokens": 1, "completion_tokens": 2}]))
    if kind == "usage":
        chunk["choices"], usage = [], {"prompt_tokens": 0, "completion_tokens": 0}
    chunk["usage"] = usage
    if draw(st.booleans()):
        chunk[draw(st.sampled_from(["obfuscation", "p", "text", "content", "error"]))] = draw(
            st.one_of(st.none(), st.text("abcXYZ09", max_size=6), TEXTS)
        )
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    data = json.dumps(chunk, separators=separators, ensure_ascii=draw(st.booleans())).encode(
        "utf-8", "replace"
    )
    mutation = draw(st.sampled_from(["none"] * 12 + ["cut", "done", "name"]))
    if mutation == "cut":
        data = data[: draw(st.integers(0, len(data)))]
    return ("error" if mutation == "name" else "", b"[DONE]" if mutation == "done" else data)


@settings(max_examples=600, deadline=None)
@given(st.lists(chunks(), min_size=1, max_size=12))
def test_the_watchs_short_cut_always_agrees_with_a_full_parse(events: list[tuple[str, bytes]]) -> None:
    watch = ADAPTER.stream_watch(Operation.OPENAI_CHAT)
    characters = 0
    for name, data in events:
        signal, count = judge(name, data)
        assert watch.see(name, data) == signal, data
        characters += count
    assert watch.output_characters == characters


@settings(max_examples=300, deadline=None)
@given(
    st.lists(TEXTS, min_size=2, max_size=10), st.lists(st.text("aB3", max_size=4), min_size=10, max_size=10)
)
def test_texts_in_an_unchanging_frame_are_all_counted(texts: list[str], paddings: list[str]) -> None:
    watch = ADAPTER.stream_watch(Operation.OPENAI_CHAT)
    for text, padding in zip(["learn this", *texts], paddings, strict=False):
        chunk = {
            "id": "c",
            "choices": [{"delta": {"content": text}, "finish_reason": None}],
            "usage": None,
            "p": padding,
        }
        data = json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        before, (signal, count) = watch.output_characters, judge("", data)
        assert watch.see("", data) == signal
        assert watch.output_characters - before == count


def test_an_event_in_a_known_frame_with_another_meaning_is_not_taken_for_text() -> None:
    frame = b'{"id":"1","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":%b}],"usage":null}'
    watch = ADAPTER.stream_watch(Operation.OPENAI_CHAT)
    assert watch.see("", frame % (b"learn", b"null")) is Signal.CONTENT
    assert (
        watch.see("", frame % (b'x"},"finish_reason":"stop"}],"choices":[],"y":[{"z":{"q":"', b"null"))
        == Signal.NONE
    )
    assert watch.see("", frame % (b"again", b'"stop"')) == Signal.CONTENT | Signal.FINISH
    assert watch.see("", frame % (b"\\q", b"null")) is Signal.MALFORMED
    assert watch.see("", frame % (b"", b"null")) is Signal.NONE
    assert watch.see("error", frame % (b"text", b"null")) == Signal.ERROR | Signal.CONTENT


def count_characters(*events: bytes) -> int:
    watch = ADAPTER.stream_watch(Operation.OPENAI_CHAT)
    for event in events:
        assert watch.see("", event) is Signal.CONTENT
    return watch.output_characters


def test_members_that_stand_where_padding_stood_are_read() -> None:
    frame = b'{"choices":[{"delta":{"content":"%b"}}],"p":"%b"}'
    watch = ADAPTER.stream_watch(Operation.OPENAI_CHAT)
    assert watch.see("", frame % (b"learn", b"aB")) is Signal.CONTENT
    told = frame % (b"more", b'x","usage":{"prompt_tokens":1,"completion_tokens":1},"q":"y')
    assert watch.see("", told) == Signal.CONTENT | Signal.USAGE


@pytest.mark.parametrize(
    "frame",
    [
        b'{"choices":[{"delta":{"\\u0063ontent":"A"}}],"x":{"content":"%b"}}',
        b'{"x":{"content":"%b"},"choices":[{"delta":{"content":"A"}}]}',
    ],
)
def test_a_text_elsewhere_is_never_taken_for_the_answers(frame: bytes) -> None:
    assert count_characters(frame % b"A", frame % b"BBBB") == 2


# The injected member.


@pytest.mark.parametrize(
    ("data", "stripped"),
    [
        (b'{"a":1,"usage":null}', b'{"a":1}'),
        (b'{"a":1,"usage": null }', b'{"a":1 }'),
        (b'{"a":[{"b":1}],"usage":null,"obfuscation":"x}"}', b'{"a":[{"b":1}],"obfuscation":"x}"}'),
        (b'{"usage":null,"a":{"b":1}}', b'{"a":{"b":1}}'),
        (b'{"usage":null}', b"{}"),
        (b'{ "a" : 1 , "usage" : null , "b" : { } }', b'{ "a" : 1  , "b" : { } }'),
        (b'{"a":1,"usage":{"prompt_tokens":1}}', b'{"a":1,"usage":{"prompt_tokens":1}}'),
        (b'{"x_groq":{"id":1,"usage":null}}', b'{"x_groq":{"id":1,"usage":null}}'),
        (b'{"x":{"usage":null},"usage":null}', b'{"x":{"usage":null}}'),
        (b'{"x":{"usage":null},"usage":null,"y":{}}', b'{"x":{"usage":null},"y":{}}'),
        (b'{"usage":null,"x":{"a":1,"usage":null}}', b'{"x":{"a":1,"usage":null}}'),
        (b'{"c":",\\"usage\\":null}"}', b'{"c":",\\"usage\\":null}"}'),
        (b'{"c":"\\\\","usage":null}', b'{"c":"\\\\"}'),
        (b'{"a":"usage"}', b'{"a":"usage"}'),
        (b'{"a\\"usage":null}', b'{"a\\"usage":null}'),
        (b"[DONE]", b"[DONE]"),
        (b'{"usage":nul', b'{"usage":nul'),
    ],
)
def test_only_the_injected_member_is_taken_out(data: bytes, stripped: bytes) -> None:
    assert strip_injected_usage(data) == stripped


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["usage", "a", '"usage":null']), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["usage", "a", "b", 'x,"usage":null', "choices"]), VALUES), max_size=5, unique_by=lambda m: m[0]
    ),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)  # fmt: skip
def test_stripping_changes_nothing_but_that_member(
    members: list[tuple[str, Any]], separators: tuple[str, str]
) -> None:
    chunk = dict(members)
    data = json.dumps(chunk, separators=separators).encode()
    kept = {name: value for name, value in chunk.items() if name != "usage" or value is not None}
    assert strip_injected_usage(data) == json.dumps(kept, separators=separators).encode()
