"""Thoughts in a text, JSON in a text, and a bound on the answer's tokens."""

from __future__ import annotations

import itertools
import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.shaping import TAGS, ThinkStripper, clamp_limit, find_json, strip_thoughts

LONGEST_TAG = max(map(len, (*TAGS, *TAGS.values())))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>hm</think>\n\nYes.", "Yes."),
        ("<think>\n\n</think>\n\nYes.", "Yes."),
        ("\n<think>hm</think> Yes. ", "\nYes. "),
        ("<think>a</think>\n<thinking>b</thinking>Yes.", "Yes."),
        ("[THINK]hm[/THINK]Yes.", "Yes."),
        ("<|begin_of_thought|>hm<|end_of_thought|>Yes.", "Yes."),
        ("<seed:think>hm</seed:think>Yes.", "Yes."),
        ("<think>never ends", ""),
        ("<think>a<think>b</think>c</think>d", "c</think>d"),
        ("Yes. <think>hm</think>", "Yes. <think>hm</think>"),
        ("<thin", "<thin"),
        ("<thinker>x</thinker>", "<thinker>x</thinker>"),
        ("<think>x</think", ""),
        ("<b>bold</b>", "<b>bold</b>"),
        ("", ""),
        (" \n", " \n"),
        ("no thoughts", "no thoughts"),
    ],
)
def test_blocks_at_the_beginning_go_and_the_rest_stays(text: str, left: str) -> None:
    assert strip_thoughts(text) == left
    for at in range(len(text) + 1):
        stripper = ThinkStripper()
        assert stripper.feed(text[:at]) + stripper.feed(text[at:]) + stripper.finish() == left
    for first, second in itertools.combinations(range(len(text) + 1), 2):
        stripper = ThinkStripper()
        pieces = (text[:first], text[first:second], text[second:])
        assert "".join(map(stripper.feed, pieces)) + stripper.finish() == left


PIECES = st.lists(
    st.sampled_from([*TAGS, *TAGS.values(), "<", "th", "ink>", " ", "\n", "a", "é", "<think", "</"]),
    max_size=12,
)


@settings(max_examples=400, deadline=None)
@given(words=PIECES, seed=st.integers(0, 1 << 30))
def test_however_a_stream_is_cut_it_says_the_same_and_holds_little_back(words: list[str], seed: int) -> None:
    text, rng = "".join(words), random.Random(seed)
    whole = strip_thoughts(text)
    assert text.endswith(whole.lstrip())
    stripper, out, position = ThinkStripper(), "", 0
    while position < len(text):
        step = rng.randrange(1, 4)
        out += stripper.feed(text[position : position + step])
        position += step
        # What must come out of the text so far, whatever follows, but for a tag's beginning.
        known = strip_thoughts(text[:position])
        assert len(known) - len(out) < LONGEST_TAG
        assert whole.startswith(out)
    assert out + stripper.finish() == whole


def test_stripping_takes_time_by_the_length_alone() -> None:
    text = "<think>" + "</thin" * 500_000 + "</think>yes"
    began = time.process_time()
    stripper = ThinkStripper()
    assert "".join(stripper.feed(text[at : at + 7]) for at in range(0, len(text), 7)) == "yes"
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (' {"a": 1}\n', '{"a": 1}'),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', '{"a": 1}'),
        ("```\nls\n```\n```\n[1, 2]\n```", "[1, 2]"),
        ("```\n[3]\n```\n```json\n[1]\n```", "[1]"),
        ('~~~~json\n{"a": "```"}\n~~~~', '{"a": "```"}'),
        ('```json\n{"a": 1}', '{"a": 1}'),
        ('Sure! {"a": {"b": [1]}} I hope this helps.', '{"a": {"b": [1]}}'),
        ("The list [1, 2] it is", "[1, 2]"),
        ("null", "null"),
        ("no JSON here", None),
        ("{broken", None),
        ("```json\n{broken}\n```", None),
        ("", None),
        ("[" * 5000, None),
    ],
)
def test_json_is_found_as_it_was_written(text: str, found: str | None) -> None:
    assert find_json(text) == found
    if found is not None:
        json.loads(found)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='`~json{}[]"1:,\n a', max_size=80))
def test_what_is_found_is_json(text: str) -> None:
    found = find_json(text)
    if found is not None:
        json.loads(found)
        assert found in text


@pytest.mark.parametrize(
    ("operation", "given_limits", "changes"),
    [
        ("openai.chat", {}, {"max_completion_tokens": 10}),
        ("openai.chat", {"max_tokens": 5}, {}),
        ("openai.chat", {"max_tokens": 50, "max_completion_tokens": None}, {"max_tokens": 10}),
        ("openai.chat", {"max_tokens": 50, "max_completion_tokens": 8}, {"max_tokens": 10}),
        ("openai.completions", {}, {"max_tokens": 10}),
        ("anthropic.messages", {"max_tokens": 11.0}, {"max_tokens": 10}),
        ("anthropic.count_tokens", {}, {}),
        ("openai.embeddings", {"max_tokens": 99}, {}),
    ],
)
def test_a_limit_is_lowered_or_set(
    operation: str, given_limits: dict[str, int | None], changes: dict[str, int]
) -> None:
    assert clamp_limit(given_limits, operation, 10) == changes
