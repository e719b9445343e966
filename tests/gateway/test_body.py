"""Bodies: parsed once with unique keys at every depth, edited without touching any other byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.body import SMALL, parse_body
from tokenhub.core.errors import InvalidJSON

# Names that differ by their letters' case alone are refused, which has tests of its own.
names = st.text(max_size=8).filter(lambda name: name == name.casefold())
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
spaces = st.sampled_from(["", " ", "\n\t", "  "])


def write(value: Any, gap: str, *, escape: bool) -> bytes:
    """JSON with odd white space."""
    text = json.dumps(value, ensure_ascii=escape, separators=(f"{gap},{gap}", f"{gap}:{gap}"))
    return (gap + text + gap).encode()


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(names, values, max_size=6), spaces, st.booleans(), st.booleans())
async def test_a_body_means_what_the_standard_library_says(
    data: dict[str, Any], gap: str, escape: bool, large: bool
) -> None:
    if large:
        data["padding"] = "x" * (SMALL + 10)
    raw = write(data, gap, escape=escape)
    body = await parse_body(raw)
    assert body.data == data
    assert body.edited({}) == raw


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(names, values, max_size=5),
    st.dictionaries(names, values.filter(lambda value: value is not None), max_size=3),
    st.sets(names, max_size=2),
    spaces,
    st.booleans(),
)
async def test_edits_change_just_these_members(
    data: dict[str, Any], changed: dict[str, Any], removed: set[str], gap: str, large: bool
) -> None:
    if large:
        data = {"padding": "x" * (SMALL + 10), **data}
    raw = write(data, gap, escape=False)
    body = await parse_body(raw)
    edits: dict[str, Any] = {
        **changed,
        **dict.fromkeys(removed - set(changed) | (set(list(data)[:1]) - set(changed))),
    }
    expected = {name: value for name, value in data.items() if name not in edits} | changed
    edited = body.edited(edits)
    assert json.loads(edited) == expected
    if not any(name in data or value is not None for name, value in edits.items()):
        assert edited == raw


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, values, min_size=1, max_size=4), st.booleans(), st.integers(0, 3), st.data())
async def test_a_key_that_stands_twice_is_refused_at_any_depth(
    data: dict[str, Any], large: bool, depth: int, draw: st.DataObject
) -> None:
    name = draw.draw(st.sampled_from(sorted(data)))
    first = json.dumps(data)
    doubled = first[:-1] + "," + json.dumps(name) + ":" + json.dumps(draw.draw(values)) + "}"
    for _ in range(depth):
        doubled = draw.draw(st.sampled_from(['{"in":%s}', '{"in":[%s]}'])) % doubled
    if large:
        doubled = f'{{"padding":"{"x" * (SMALL + 10)}","in":{doubled}}}'
    with pytest.raises(InvalidJSON, match="twice"):
        await parse_body(doubled.encode())


async def test_a_doubled_key_is_refused_however_its_values_are_chosen() -> None:
    """Values made so that a reader who goes by lengths alone would step over the first of the two."""
    pad = "x" * (SMALL + 10)
    for inner in (
        '"a":"1","a":"2"',
        '"a":"\\",\\"b\\":\\"","a":"","b":"x"',
        '"a":[1,2],"b":1,"a":[3,4]',
        '"a":12,"a":1',
        '"a":1,"a":12',
        '"\\u0061":1,"a":2',
        '"a":"' + "\\\\" * 50 + '","a":"' + "\\\\" * 50 + '"',
    ):
        for body in (
            f"{{{inner}}}",
            f'{{"pad":"{pad}",{inner}}}',
            f'{{{inner},"pad":"{pad}"}}',
            f'{{"o":{{{inner},"pad":"{pad}"}}}}',
        ):
            with pytest.raises(InvalidJSON, match="twice"):
                await parse_body(body.encode())
