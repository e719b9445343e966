"""Large translated requests: the same bytes as in one call, from calls none of which is long."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.adapters._json_pieces import PIECE, RUN, encode_in_pieces, encode_request
from providers.adapters.base import Target
from providers.adapters.registry import get_adapter
from tests.builders import a_model, a_provider
from tokenhub.core.chat import ChatCall, ImagePart, Message, TextPart
from tokenhub.core.errors import InvalidRequest

LONG = "long \u4e2d\U0001f600\n" * (PIECE // 4)
texts = st.sampled_from(["", "a", 'q"\\', "\u00e9", LONG])
values = st.recursive(
    st.none() | st.integers(-5, 5) | texts,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.builds(lambda items, times: items * times, st.lists(inner, max_size=2), st.integers(1, RUN))
        | st.dictionaries(st.sampled_from(["a", "\u00e9\n", "c"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(values)
def test_pieces_are_the_same_bytes_as_one_call(value: Any) -> None:
    body = {"model": "m", "messages": value, "end": True}
    assert encode_request(body) == msgspec.json.encode(body)
    assert b"".join(encode_in_pieces(value)) == msgspec.json.encode(value)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_no_piece_of_a_large_request_is_long(kind: str) -> None:
    provider = a_provider("only", kind, 1)
    target = Target(provider, a_model(provider, "work"), provider.endpoints[0], "")
    image = ImagePart(data="iVBORw0KGgoAAAAN" * 100_000, media_type="image/png")
    messages = [Message("user", (TextPart("hi"), image))] + [
        Message(role, (TextPart("x" * 500),)) for role in ("assistant", "user") for _ in range(2_000)
    ]
    call, written = ChatCall(tuple(messages), max_tokens=5), 0

    def count(frame: object, event: str, called: Any) -> None:
        nonlocal written
        written += event == "c_call" and called.__name__ == "encode"

    sys.setprofile(count)
    try:
        _, body, _ = get_adapter(kind).encode_chat(call, target)
    finally:
        sys.setprofile(None)
    pieces = list(encode_in_pieces(msgspec.json.decode(body)))
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= max(PIECE, RUN * 600)
    assert written > len(body) / (RUN * 600)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("text", ["x\ud800", "x" * PIECE + "\ud800"])
def test_half_a_surrogate_pair_is_refused_in_requests_of_any_size(kind: str, text: str) -> None:
    provider = a_provider("only", kind, 1)
    target = Target(provider, a_model(provider, "work"), provider.endpoints[0], "")
    with pytest.raises((InvalidRequest, UnicodeEncodeError)):
        get_adapter(kind).encode_chat(ChatCall((Message("user", (TextPart(text),)),), max_tokens=5), target)
