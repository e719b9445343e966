"""Turns OpenAI-style usage objects, with their vendors' differences, into disjoint buckets. Data plane; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.adapters._openai_json import count_of, dict_of
from tokenhub.core.usage import Usage

_OPENAI_NAMES = frozenset(
    {
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
        "completion_tokens_details",
    }
)
"""All that OpenAI's own usage has; no vendor's count of searches is among them."""


def find_usage(chunk: Mapping[str, Any]) -> Usage | None:
    """The usage of an answer or a stream's chunk, wherever the vendor puts it; None where it tells none.

    Groq's streams put it into `x_groq`.
    """
    usage = chunk.get("usage")
    if usage is None and "x_groq" in chunk:
        usage = dict_of(chunk["x_groq"]).get("usage")
    return read_usage(usage) if isinstance(usage, dict) else None


def read_usage(raw: Mapping[str, Any]) -> Usage | None:
    """Disjoint buckets of a usage object; None if it has no token count at all. An explicit 0 is a count.

    OpenAI's totals hold everything: `prompt_tokens` what was cached, written to a cache, audio and images;
    `completion_tokens` reasoning, audio, images and rejected predictions. Details above their total are cut to it (Azure's
    Grok tells more cached tokens than prompt tokens). Where `total_tokens` is above their sum, the rest is what the vendor
    counts beside them: see `_read_rest`.
    """
    if (plain := _read_plain(raw)) is not None:
        return plain
    prompt, completion = count_of(raw.get("prompt_tokens")), count_of(raw.get("completion_tokens"))
    total = count_of(raw.get("total_tokens"))
    if prompt is None and completion is None and total is None:
        return None
    if prompt is None:
        prompt = max(0, (total or 0) - (completion or 0))
    audio, reasoning, rest = _read_rest(raw, prompt, completion or 0, total)
    told = dict_of(raw.get("prompt_tokens_details"))
    spent = dict_of(raw.get("completion_tokens_details"))
    text_in, cache_read, cache_write, audio_in, image_in = _take_out(
        prompt + audio,
        _read_cached(raw, told),
        _first(told.get("cache_write_tokens"), told.get("cache_creation_tokens")),
        _first(told.get("audio_tokens"), raw.get("audio_prompt_tokens")),
        count_of(told.get("image_tokens")) or 0,
    )
    text_out, thought, audio_out, image_out = _take_out(
        (completion or 0) + reasoning + rest,
        _read_reasoning(raw, spent) + rest,
        count_of(spent.get("audio_tokens")) or 0,
        count_of(spent.get("image_tokens")) or 0,
    )
    return Usage(
        input=text_in,
        cache_read=cache_read,
        cache_write_5m=cache_write,
        output=text_out,
        reasoning=thought,
        audio_in=audio_in,
        audio_out=audio_out,
        image_in=image_in,
        image_out=image_out,
        searches=0 if raw.keys() <= _OPENAI_NAMES else _read_searches(raw),
        raw=raw,
    )


_PLAIN_DETAILS = frozenset(
    {
        "cached_tokens",
        "reasoning_tokens",
        "audio_tokens",
        "accepted_prediction_tokens",
        "rejected_prediction_tokens",
    }
)


def _read_plain(raw: Mapping[str, Any]) -> Usage | None:
    """The usage of an answer of text, as OpenAI itself writes it, where its parts add up; None says nothing.

    Nearly every answer is one, and reading it as one costs a quarter.
    """
    prompt, completion = raw.get("prompt_tokens"), raw.get("completion_tokens")
    if (
        type(prompt) is not int
        or type(completion) is not int
        or raw.get("total_tokens") != prompt + completion
    ):
        return None
    if not raw.keys() <= _OPENAI_NAMES:
        return None
    cached = _read_plain_detail(raw.get("prompt_tokens_details"), "cached_tokens", prompt)
    reasoning = _read_plain_detail(raw.get("completion_tokens_details"), "reasoning_tokens", completion)
    if cached < 0 or reasoning < 0:
        return None
    return Usage(
        input=prompt - cached, cache_read=cached, output=completion - reasoning, reasoning=reasoning, raw=raw
    )


def _read_plain_detail(details: Any, name: str, total: int) -> int:
    """One detail of a total; -1 where it is more than that, or stands beside others that take from the total too."""
    if details is None:
        return 0 if total >= 0 else -1
    if type(details) is not dict or not details.keys() <= _PLAIN_DETAILS or details.get("audio_tokens"):
        return -1
    count = details.get(name, 0)
    return count if type(count) is int and 0 <= count <= total else -1


def _take_out(total: int, *details: int) -> tuple[int, ...]:
    """What is left of a total, and then its details, each cut to what those before it left."""
    taken: list[int] = []
    for count in details:
        if count > total:
            count = total
        total -= count
        taken.append(count)
    return total, *taken


def _first(*values: Any) -> int:
    """The first of them that is a count; 0 where none is."""
    for value in values:
        if value is not None and (count := count_of(value)) is not None:
            return count
    return 0


def _read_cached(raw: Mapping[str, Any], details: Mapping[str, Any]) -> int:
    """Cached prompt tokens: OpenAI; DeepSeek; Moonshot, Together and SGLang; Mistral."""
    return _first(
        details.get("cached_tokens"),
        raw.get("prompt_cache_hit_tokens"),
        raw.get("cached_tokens"),
        raw.get("num_cached_tokens"),
    )


def _read_reasoning(raw: Mapping[str, Any], details: Mapping[str, Any]) -> int:
    return _first(details.get("reasoning_tokens"), raw.get("reasoning_tokens"))


def _read_rest(
    raw: Mapping[str, Any], prompt: int, completion: int, total: int | None
) -> tuple[int, int, int]:
    """What the vendor counts beside its two totals: prompt tokens, told reasoning, untold reasoning.

    Mistral: audio is not in `prompt_tokens`. xAI: reasoning is not in `completion_tokens`. Perplexity: citations are not in
    `prompt_tokens`. Gemini: thoughts are in the total alone, so what nobody explains is reasoning, never free.
    """
    rest = (total or 0) - prompt - completion
    if rest <= 0:
        return 0, 0, 0
    audio = _first(dict_of(raw.get("prompt_tokens_details")).get("audio_tokens"))
    beside = min(rest, _first(raw.get("citation_tokens")))
    if audio and audio <= rest - beside and audio > prompt:
        beside += audio
    rest -= beside
    reasoning = _read_reasoning(raw, dict_of(raw.get("completion_tokens_details")))
    told = reasoning if reasoning <= rest else 0
    return beside, told, rest - told


def _read_searches(raw: Mapping[str, Any]) -> int:
    """Searches: Perplexity; OpenRouter; xAI, which bills sources."""
    server = dict_of(raw.get("server_tool_use_details")) or dict_of(raw.get("server_tool_use"))
    return _first(
        raw.get("num_search_queries"), server.get("web_search_requests"), raw.get("num_sources_used")
    )
