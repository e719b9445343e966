"""The Anthropic adapter on hand-made samples: streams, usage, requests, refusals, models."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.adapters._anthropic_stream import MessagesDecoder
from providers.adapters.anthropic import Anthropic
from providers.adapters.base import Operation, Signal, StreamWatch, Target
from providers.adapters.registry import get_adapter
from tests.providers.adapters.anthropic_cast import (
    build_inbound,
    build_target,
    concatenate,
    decode_stream,
    fold_events,
    plain,
    read_sample,
    split_events,
    watch_stream,
)
from tokenhub.core.chat import ChatAnswer, TextPart, ThinkingPart, ToolCallPart
from tokenhub.core.errors import SettingInvalid

ADAPTER = Anthropic()
MESSAGES = Operation.ANTHROPIC_MESSAGES


def watch(name: str) -> tuple[StreamWatch, Signal]:
    """A sample stream's watch and its joined signals."""
    found = ADAPTER.stream_watch(MESSAGES)
    return found, watch_stream(read_sample(name), found)


def decode(name: str) -> tuple[MessagesDecoder, ChatAnswer]:
    """A sample stream's decoder and the answer it amounts to."""
    decoder = ADAPTER.stream_decoder()
    assert isinstance(decoder, MessagesDecoder)
    return decoder, fold_events(decode_stream(read_sample(name), decoder)[1])


def test_the_registry_finds_the_adapter() -> None:
    assert isinstance(get_adapter("anthropic"), Anthropic)


@pytest.mark.parametrize("name", ["text.sse", "tools.sse", "thinking.sse", "server_tools.sse"])
def test_a_stream_amounts_to_its_own_concatenation(name: str) -> None:
    decoder, answer = decode(name)
    whole = ADAPTER.decode_chat(json.dumps(concatenate(read_sample(name))).encode())
    assert plain(answer) == plain(whole)
    assert decoder.usage == watch(name)[0].usage


def test_cache_writes_keep_the_lives_that_only_the_start_of_a_stream_tells() -> None:
    found, signals = watch("text.sse")
    assert found.usage is not None
    assert found.usage.counts() == {
        "input": 12,
        "cache_read": 40,
        "cache_write_5m": 100,
        "cache_write_1h": 200,
        "output": 9,
    }
    assert signals == Signal.CONTENT | Signal.USAGE | Signal.FINISH | Signal.END
    assert found.output_characters == len("Grüße, 世界 🌍")


def test_a_stop_string_is_told_with_the_finish() -> None:
    choice = decode("text.sse")[1].choices[0]
    assert (choice.finish, choice.stop_sequence) == ("stop_sequence", "END")


def test_tool_arguments_stay_the_text_that_the_model_wrote() -> None:
    parts = decode("tools.sse")[1].choices[0].parts
    assert parts[1:] == (
        ToolCallPart("toolu_a", "weather", '{"city": "São Paulo", "big": 12345678901234567890123}'),
        ToolCallPart("toolu_b", "now", ""),
        ToolCallPart("toolu_c", "weather", '{"city":"Oslo"}'),
    )


def test_thinking_keeps_its_signature_and_its_redacted_data_and_is_counted_apart() -> None:
    decoder, answer = decode("thinking.sse")
    assert answer.choices[0].parts == (
        ThinkingPart("Let me see.", "c2lnbmVk"),
        ThinkingPart(redacted="b3BhcXVl"),
        TextPart("42"),
    )
    assert decoder.usage is not None
    assert (decoder.usage.output, decoder.usage.reasoning) == (15, 45)


def test_blocks_of_anthropics_own_tools_are_skipped_named_and_leave_no_gap() -> None:
    decoder, answer = decode("server_tools.sse")
    assert answer.choices[0].parts == (TextPart("X is x."),)
    assert decoder.losses.names() == (
        "dropped:content.compaction",
        "dropped:content.server_tool_use",
        "dropped:content.web_search_tool_result",
        "dropped:content.citations",
    )


def test_compaction_is_billed_and_an_advisor_on_another_model_is_not() -> None:
    found, _ = watch("server_tools.sse")
    assert found.usage is not None
    assert found.usage.counts() == {
        "input": 5000,
        "cache_read": 7,
        "cache_write_1h": 3,
        "output": 41,
        "searches": 2,
    }
    assert found.usage.raw is not None
    assert found.usage.raw["iterations"][1]["model"] == "claude-advisor"


def test_the_placeholder_of_a_cut_stream_is_never_an_output_figure() -> None:
    found, signals = watch("overloaded.sse")
    assert found.usage is not None
    assert found.usage.counts() == {"input": 31, "cache_read": 8}
    assert found.usage.method == "input_only"
    assert not signals & (Signal.FINISH | Signal.END)
    assert found.output_characters == len("Half an ans")


def test_a_null_figure_does_not_replace_one_that_was_told() -> None:
    start = b'{"type":"message_start","message":{"usage":{"input_tokens":9,"cache_read_input_tokens":4}}}'
    delta = b'{"type":"message_delta","delta":{},"usage":{"input_tokens":null,"output_tokens":2}}'
    found = ADAPTER.stream_watch(MESSAGES)
    found.see("message_start", start)
    assert found.see("message_delta", delta) == Signal.USAGE
    assert found.usage is not None
    assert found.usage.counts() == {"input": 9, "cache_read": 4, "output": 2}


def test_a_block_type_that_no_header_should_carry_is_named_unknown() -> None:
    body = b'{"content":[{"type":"a\\r\\nb: c"}],"usage":{"input_tokens":1,"output_tokens":1}}'
    assert ADAPTER.decode_chat(body).losses.names() == ("dropped:content.unknown",)


def test_an_error_event_is_classified_and_ends_nothing() -> None:
    found, signals = watch("overloaded.sse")
    assert signals & Signal.ERROR
    assert found.failure is not None
    assert (found.failure.kind, found.failure.status, found.failure.message) == (
        "transient",
        529,
        "Overloaded",
    )
    decoder = ADAPTER.stream_decoder()
    decoded, _ = decode_stream(read_sample("overloaded.sse"), decoder)
    assert decoded & Signal.ERROR
    assert decoder.failure == found.failure


def test_a_stream_without_event_lines_and_without_a_start_is_read() -> None:
    found, signals = watch("bare.sse")
    assert signals == Signal.CONTENT | Signal.USAGE | Signal.FINISH | Signal.END
    assert found.usage is not None
    assert found.usage.output == 12
    _, answer = decode("bare.sse")
    assert answer.choices[0].parts == (TextPart("no names here"),)
    assert answer.choices[0].finish == "length"


@pytest.mark.parametrize(
    ("data", "signal"),
    [
        (b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}', Signal.NONE),
        (
            b'{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"f"}}',
            Signal.CONTENT,
        ),
        (
            b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}',
            Signal.NONE,
        ),
        (
            b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}',
            Signal.CONTENT,
        ),
        (
            b'{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"a"}}',
            Signal.CONTENT,
        ),
        (b'{"type":"ping"}', Signal.NONE),
        (b'{"type":"content_block_stop","index":0}', Signal.NONE),
        (b'{"type":"brand_new"}', Signal.NONE),
        (b'{"type":"content_block_delta","index":0,"del', Signal.MALFORMED),
        (b"null", Signal.MALFORMED),
        (b"", Signal.MALFORMED),
    ],
)
def test_content_is_what_a_caller_could_see(data: bytes, signal: Signal) -> None:
    assert ADAPTER.stream_watch(MESSAGES).see("", data) == signal
    assert ADAPTER.stream_decoder().decode("", data)[0] == signal


def test_a_malformed_event_does_not_end_the_stream() -> None:
    events = split_events(read_sample("text.sse"))
    found = ADAPTER.stream_watch(MESSAGES)
    found.see("content_block_delta", b"{")
    for event in events:
        found.see(event.name, event.data or b"")
    assert found.finish_reason == "stop_sequence"


def test_a_whole_message_is_decoded_with_disjoint_usage() -> None:
    answer = ADAPTER.decode_chat(read_sample("message.json"))
    assert answer.choices[0].parts == (
        ThinkingPart("Hm.", "c2ln"),
        ThinkingPart(redacted="b3BhcXVl"),
        TextPart("Calling."),
        ToolCallPart("toolu_1", "f", '{"n": 1.10, "big": 12345678901234567890123}'),
    )
    assert answer.usage.counts() == {
        "input": 10,
        "cache_read": 7,
        "cache_write_5m": 20,
        "cache_write_1h": 30,
        "output": 25,
        "reasoning": 15,
        "searches": 3,
    }
    assert answer.losses.names() == ("dropped:content.citations", "dropped:content.server_tool_use")
    assert ADAPTER.read_answer(MESSAGES, read_sample("message.json")) == (
        answer.usage,
        "tool_use",
        "claude-sample-5",
    )


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b'{"type":"error","error":{"type":"api_error","message":"x"}}', b"<html>"],
)
def test_what_is_no_answer_raises_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        ADAPTER.decode_chat(body)
    with pytest.raises(ValueError):
        ADAPTER.read_answer(MESSAGES, body)
    with pytest.raises(ValueError):
        ADAPTER.read_answer(Operation.ANTHROPIC_COUNT_TOKENS, body)


def test_a_token_count_used_nothing() -> None:
    usage, finish, model = ADAPTER.read_answer(Operation.ANTHROPIC_COUNT_TOKENS, b'{"input_tokens": 7}')
    assert usage is not None
    assert (usage.source, finish, model) == ("none", "", "")


def send(
    body: bytes = b"{}",
    *,
    query: bytes = b"",
    stream: bool = False,
    target: Target | None = None,
    **headers: str,
) -> tuple[dict[bytes, bytes], bytes]:
    """The request's headers and path."""
    request = ADAPTER.request(
        target or build_target(), MESSAGES, body, build_inbound(query, **headers), stream=stream
    )
    return dict(request.headers), request.path


def test_only_the_providers_own_credential_and_the_callers_betas_go_upstream() -> None:
    headers, path = send(
        x_api_key="thk_caller",
        authorization="Bearer thk_caller",
        anthropic_beta="context-management-2025-06-27,interleaved-thinking-2025-05-14",
        anthropic_dangerous_direct_browser_access="true",
        x_stainless_lang="js",
        user_agent="claude-cli/2.1",
    )
    assert headers == {
        b"content-type": b"application/json",
        b"accept": b"application/json",
        b"anthropic-version": b"2023-06-01",
        b"anthropic-beta": b"context-management-2025-06-27,interleaved-thinking-2025-05-14",
        b"x-api-key": b"sk-ant-sample",
    }
    assert path == b"/v1/messages"


def test_a_bearer_profile_sends_the_credential_as_such() -> None:
    headers, _ = send(target=build_target(auth="bearer"))
    assert headers[b"authorization"] == b"Bearer sk-ant-sample"
    assert b"x-api-key" not in headers


def test_the_providers_betas_join_the_callers() -> None:
    target = build_target(headers=(("Anthropic-Beta", "fast-mode"), ("X-Extra", "1")))
    headers, _ = send(target=target, anthropic_beta="files-api")
    assert headers[b"anthropic-beta"] == b"files-api,fast-mode"
    assert headers[b"x-extra"] == b"1"


def test_a_credential_with_a_line_end_is_refused_without_being_shown() -> None:
    with pytest.raises(SettingInvalid) as caught:
        send(target=build_target(secret="sk-ant\r\nx: y"))
    assert "sk-ant" not in caught.value.message


@pytest.mark.parametrize(
    ("query", "path"),
    [
        (b"", b"/proxy/v1/messages"),
        (b"beta=true", b"/proxy/v1/messages?beta=true"),
        (b"api_key=x&beta=true", b"/proxy/v1/messages?beta=true"),
        (b"beta=false", b"/proxy/v1/messages"),
    ],
)
def test_of_the_query_only_beta_goes_on(query: bytes, path: bytes) -> None:
    assert send(query=query, target=build_target(base_path="/proxy"))[1] == path


NEW = "2026-10-21"


@pytest.mark.parametrize(
    ("body", "version"),
    [
        ({"messages": [{"role": "user", "content": 'the "temperature" is fine'}]}, NEW),
        ({"temperature": 1, "messages": []}, "2023-06-01"),
        ({"top_p": 0.5, "messages": []}, "2023-06-01"),
        ({"top_k": None, "messages": []}, "2023-06-01"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, NEW),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "document", "source": {}}]}]},
            "2023-06-01",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "citations": [{}]}]}]},
            "2023-06-01",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "citations": []}]}]}, NEW),
        ({"messages": [{"role": "assistant", "content": [{"type": "text", "citations": [{}]}]}]}, NEW),
        ({"messages": 'document citations "document"'}, NEW),
    ],
)
def test_the_older_version_goes_out_with_what_only_it_takes(body: dict[str, Any], version: str) -> None:
    headers, _ = send(json.dumps(body).encode(), anthropic_version=NEW)
    assert headers[b"anthropic-version"] == version.encode()


def test_a_pinned_version_rules_and_a_strange_one_does_not_go_on() -> None:
    assert send(anthropic_version="1\x00")[0][b"anthropic-version"] == b"2023-06-01"
    pinned = build_target(anthropic_version="2026-10-21")
    assert send(b'{"temperature":1}', target=pinned)[0][b"anthropic-version"] == b"2026-10-21"


def test_token_counts_have_their_own_path_and_no_stream() -> None:
    request = ADAPTER.request(
        build_target(), Operation.ANTHROPIC_COUNT_TOKENS, b"{}", build_inbound(b"beta=true"), stream=False
    )
    assert request.path == b"/v1/messages/count_tokens?beta=true"
    with pytest.raises(ValueError):
        ADAPTER.stream_watch(Operation.ANTHROPIC_COUNT_TOKENS)
    with pytest.raises(ValueError):
        ADAPTER.request(build_target(), Operation.OPENAI_CHAT, b"{}", build_inbound(), stream=False)


def test_a_native_body_changes_in_its_models_name_alone() -> None:
    assert ADAPTER.edits(build_target("claude-x"), MESSAGES, {"model": "auto", "top_k": 1}) == {
        "model": "claude-x"
    }


def test_models_are_listed_with_what_the_provider_tells() -> None:
    request = ADAPTER.models_request(build_target())
    assert (request.method, request.path, request.body) == (b"GET", b"/v1/models?limit=1000", b"")
    assert dict(request.headers)[b"x-api-key"] == b"sk-ant-sample"
    first, second = ADAPTER.read_models(read_sample("models.json"))
    assert first == {
        "id": "claude-sample-5",
        "context_tokens": 1_000_000,
        "max_output_tokens": 128_000,
        "capabilities": frozenset({"chat", "streaming", "tools", "vision", "json_schema", "thinking"}),
    }
    assert second == {"id": "claude-sample-3"}


def error(kind: str, message: str = "m") -> bytes:
    """An error body in Anthropic's shape."""
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, error("invalid_request_error", "max_tokens: Field required"), "fatal"),
        (400, error("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), "context_overflow"),
        (
            400,
            error("invalid_request_error", "input length and `max_tokens` exceed context limit: 1 + 2 > 2"),
            "context_overflow",
        ),
        (400, error("invalid_request_error", "Your credit balance is too low to access"), "credential"),
        (400, error("invalid_request_error", "Output blocked by content filtering policy"), "content_filter"),
        (401, error("authentication_error"), "credential"),
        (402, error("billing_error"), "credential"),
        (403, error("permission_error"), "credential"),
        (404, error("not_found_error", "model: x"), "transient"),
        (413, error("request_too_large"), "context_overflow"),
        (429, error("rate_limit_error"), "rate_limited"),
        (500, error("api_error"), "transient"),
        (504, error("timeout_error"), "transient"),
        (529, error("overloaded_error"), "transient"),
        (502, b"<html>bad gateway</html>", "transient"),
        (400, b"", "fatal"),
        (422, b'{"detail":[]}', "fatal"),
        (400, b'{"error":"plain words"}', "fatal"),
    ],
)
def test_refusals_mean_what_their_type_says(status: int, body: bytes, kind: str) -> None:
    failure = ADAPTER.classify(status, {}, body)
    assert (failure.kind, failure.status) == (kind, status)
    assert failure.message


def test_an_error_under_status_200_gets_its_types_status() -> None:
    assert ADAPTER.classify(200, {}, error("overloaded_error")).status == 529
    assert ADAPTER.classify(200, {}, b"null").status == 502


def test_a_limit_is_waited_for_until_the_exhausted_bucket_resets() -> None:
    headers = {
        b"date": b"Mon, 18 May 2026 11:42:00 GMT",
        b"anthropic-ratelimit-input-tokens-remaining": b"0",
        b"anthropic-ratelimit-input-tokens-reset": b"2026-05-18T11:42:18Z",
    }
    assert ADAPTER.classify(429, headers, error("rate_limit_error")).retry_after == 18.0


def test_x_should_retry_decides_only_what_nothing_else_does() -> None:
    yes, no = {b"x-should-retry": b"true"}, {b"x-should-retry": b"false"}
    assert ADAPTER.classify(409, yes, error("conflict_error")).kind == "transient"
    assert ADAPTER.classify(409, no, error("conflict_error")).kind == "fatal"
    assert ADAPTER.classify(529, no, error("overloaded_error")).kind == "transient"


def test_a_providers_long_message_is_cut() -> None:
    failure = ADAPTER.classify(400, {}, error("invalid_request_error", "x" * 9_000))
    assert len(failure.message) == 2_000
