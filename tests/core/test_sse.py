"""Reading event streams: the same events whatever the split, the same bytes back, bounded memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub.core.sse import Event, EventReader, EventTooLarge, format_event

STREAMS = [
    b'data: {"a":1}\n\ndata: [DONE]\n\n',
    b"event: message_start\ndata: {}\n\nevent: ping\ndata: {}\n\n",
    b"data: one\r\n\r\ndata: two\r\n\r\n",
    b"data: one\r\rdata: two\r\r",
    b": comment\n\ndata: a\ndata: b\n\n",
    b"\xef\xbb\xbfdata: bom\n\n",
    b"data:no space\n\ndata:  two spaces\n\n",
    b"data\n\nid: 7\nretry: 10\ndata: x\n\n",
    "data: naïve 😀 текст\n\n".encode(),
    b"data: mixed\r\n\ndata: ends\n\r\n",
    b": OPENROUTER PROCESSING\n\n: again\n\ndata: x\n\n",
]


def read(chunks: list[bytes]) -> tuple[list[Event], bytes]:
    """The events of these chunks, and what was left over."""
    reader = EventReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return events + reader.finish(), reader.tail


@pytest.mark.parametrize("stream", STREAMS)
def test_every_split_gives_the_same_events_and_the_same_bytes(stream: bytes) -> None:
    whole, tail = read([stream])
    assert b"".join(event.raw for event in whole) + tail == stream
    for first in range(len(stream) + 1):
        for second in range(first, min(first + 4, len(stream)) + 1):
            assert read([stream[:first], stream[first:second], stream[second:]]) == (whole, tail)
    assert read([stream[at : at + 1] for at in range(len(stream))]) == (whole, tail)


@given(
    st.lists(
        st.sampled_from(
            [b"data: x", b"event: e", b"\n", b"\r\n", b"\r", b": c", b"data:", b"\xf0\x9f\x98\x80", b" "]
        ),
        max_size=40,
    ),
    st.data(),
)
def test_random_streams_read_the_same_whole_or_in_pieces(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    whole, tail = read([stream])
    assert b"".join(event.raw for event in whole) + tail == stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    edges = [0, *cuts, len(stream)]
    assert read([stream[a:b] for a, b in pairwise(edges)]) == (whole, tail)


def test_names_data_and_comments_are_told_apart() -> None:
    (event,) = EventReader().feed(b": c\nevent: error\ndata: a\ndata: b\n\n")
    assert (event.name, event.data) == ("error", b"a\nb")
    (comment,) = EventReader().feed(b": only a comment\n\n")
    assert comment.data is None
    (plain,) = EventReader().feed(format_event(b"{}"))
    assert (plain.name, plain.data) == ("", b"{}")
    (named,) = EventReader().feed(format_event(b"{}", "ping"))
    assert (named.name, named.data) == ("ping", b"{}")


def test_an_endless_event_is_refused() -> None:
    reader = EventReader(max_event_bytes=1000)
    for _ in range(10):
        reader.feed(b"x" * 100)
    with pytest.raises(EventTooLarge):
        reader.feed(b"x")
