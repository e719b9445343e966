"""Usage objects of OpenAI-style vendors as disjoint buckets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.adapters._openai_usage import find_usage, read_usage
from tokenhub.core.usage import Usage


def counts(raw: dict[str, Any]) -> dict[str, int]:
    usage = read_usage(raw)
    assert usage is not None
    assert usage.raw is raw
    assert usage.source == "provider"
    return usage.counts()


@pytest.mark.parametrize(
    ("raw", "buckets"),
    [
        pytest.param(
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 20, "cache_write_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 10, "audio_tokens": 4, "rejected_prediction_tokens": 7},
            },
            {
                "input": 45, "cache_read": 30, "cache_write_5m": 5, "audio_in": 20,
                "output": 36, "reasoning": 10, "audio_out": 4,
            },
            id="OpenAI: totals hold their details",
        ),
        pytest.param(
            {
                "prompt_tokens": 7,
                "completion_tokens": 1,
                "total_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 161, "text_tokens": 7},
            },
            {"cache_read": 7, "output": 1},
            id="Azure's Grok: more cached than prompt tokens",
        ),
        pytest.param(
            {"prompt_tokens": 343, "completion_tokens": 58, "prompt_cache_hit_tokens": 256, "prompt_cache_miss_tokens": 87},
            {"input": 87, "cache_read": 256, "output": 58},
            id="DeepSeek's own cache member",
        ),
        pytest.param(
            {
                "prompt_tokens": 40,
                "completion_tokens": 1,
                "prompt_cache_hit_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
            {"input": 40, "output": 1},
            id="an explicit 0 counts before a fallback",
        ),
        pytest.param(
            {"prompt_tokens": 20, "completion_tokens": 30, "cached_tokens": 10},
            {"input": 10, "cache_read": 10, "output": 30},
            id="Moonshot",
        ),
        pytest.param(
            {"prompt_tokens": 70, "completion_tokens": 12, "num_cached_tokens": 69},
            {"input": 1, "cache_read": 69, "output": 12},
            id="Mistral",
        ),
        pytest.param(
            {
                "prompt_tokens": 9,
                "completion_tokens": 248,
                "total_tokens": 632,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 375},
            },
            {"input": 9, "audio_in": 375, "output": 248},
            id="Mistral's audio is beside the prompt",
        ),
        pytest.param(
            {
                "prompt_tokens": 12,
                "completion_tokens": 1,
                "total_tokens": 241,
                "prompt_tokens_details": {"cached_tokens": 2},
                "completion_tokens_details": {"reasoning_tokens": 228},
                "num_sources_used": 3,
            },
            {"input": 10, "cache_read": 2, "output": 1, "reasoning": 228, "searches": 3},
            id="xAI's reasoning is beside the completion",
        ),
        pytest.param(
            {"prompt_tokens": 66, "completion_tokens": 6, "total_tokens": 100},
            {"input": 66, "output": 6, "reasoning": 28},
            id="Gemini's thoughts are in the total alone",
        ),
        pytest.param(
            {
                "prompt_tokens": 10,
                "completion_tokens": 20,
                "total_tokens": 85,
                "citation_tokens": 15,
                "reasoning_tokens": 40,
                "num_search_queries": 4,
            },
            {"input": 25, "output": 20, "reasoning": 40, "searches": 4},
            id="Perplexity's deep research",
        ),
        pytest.param(
            {
                "prompt_tokens": 265,
                "completion_tokens": 208,
                "total_tokens": 473,
                "prompt_tokens_details": {"cached_tokens": 170, "text_tokens": 9, "image_tokens": 256},
            },
            {"cache_read": 170, "image_in": 95, "output": 208},
            id="cached images count once",
        ),
        pytest.param({"prompt_tokens": 4, "total_tokens": 4}, {"input": 4}, id="embeddings"),
        pytest.param({"total_tokens": 9}, {"input": 9}, id="a total alone"),
        pytest.param(
            {
                "prompt_tokens": 5,
                "completion_tokens": 6,
                "prompt_tokens_details": None,
                "completion_tokens_details": {"reasoning_tokens": None},
            },
            {"input": 5, "output": 6},
            id="null details",
        ),
        pytest.param({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, {}, id="zero is a count"),
        pytest.param({"prompt_tokens": -5, "completion_tokens": 3.0}, {"output": 3}, id="no negative counts"),
    ],
)  # fmt: skip
def test_vendors_usage_becomes_disjoint_buckets(raw: dict[str, Any], buckets: dict[str, int]) -> None:
    assert counts(raw) == buckets


@pytest.mark.parametrize(
    "raw", [{}, {"prompt_tokens": None}, {"prompt_tokens": "7"}, {"prompt_tokens": True}]
)
def test_an_object_without_counts_is_no_usage(raw: dict[str, Any]) -> None:
    assert read_usage(raw) is None


@pytest.mark.parametrize(
    "chunk", [{"usage": None}, {"usage": []}, {}, {"x_groq": None}, {"x_groq": {"id": 1}}]
)
def test_a_chunk_without_usage_tells_none(chunk: dict[str, Any]) -> None:
    assert find_usage(chunk) is None


COUNT = st.one_of(st.integers(0, 500), st.none())


@given(
    st.fixed_dictionaries(
        {"prompt_tokens": st.integers(0, 500), "completion_tokens": st.integers(0, 500)},
        optional={
            "cached_tokens": COUNT,
            "prompt_tokens_details": st.dictionaries(
                st.sampled_from(["cached_tokens", "audio_tokens", "image_tokens", "cache_write_tokens"]),
                COUNT,
            ),
            "completion_tokens_details": st.dictionaries(
                st.sampled_from(["reasoning_tokens", "audio_tokens", "image_tokens"]), COUNT
            ),
        },
    )
)
def test_the_buckets_always_add_up_to_the_vendors_totals(raw: dict[str, Any]) -> None:
    usage = read_usage(raw)
    assert usage is not None
    assert (usage.input_total, usage.output_total) == (raw["prompt_tokens"], raw["completion_tokens"])
    assert all(count > 0 for count in usage.counts().values())


@given(
    st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 900)
)
def test_a_larger_total_is_never_free(
    prompt: int, completion: int, rest: int, reasoning: int, audio: int
) -> None:
    usage = read_usage(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion + rest,
            "prompt_tokens_details": {"audio_tokens": audio},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        }
    )
    assert isinstance(usage, Usage)
    assert usage.input_total + usage.output_total == prompt + completion + rest
