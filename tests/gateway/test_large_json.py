"""Large documents: read window by window, they mean what the standard library says, and no step is long."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.body import SMALL, parse_body
from gateway.large_json import TURN, WINDOW, LargeObject
from gateway.strict_json import loads
from tokenhub.core.errors import InvalidJSON

MEGABYTE = 1_000_000
TINY = 24
"""A window in which every value of the documents below but a few is a large one."""

texts = st.text(st.sampled_from('ab1e-."\\/\n\té中\U0001f600\ufeff,:[]{}'), max_size=60)
numbers = st.integers(-(10**15), 10**15) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
documents = st.dictionaries(texts, values, max_size=5)
spaces = st.sampled_from(["", " ", "\n\t", " " * 50])


def write(value: Any, gap: str, *, escape: bool) -> bytes:
    """JSON with odd white space."""
    text = json.dumps(value, ensure_ascii=escape, separators=(f"{gap},{gap}", f"{gap}:{gap}"))
    return (gap + text + gap).encode()


def tell_refusal(raw: bytes) -> str:
    """What is said of a document when it is small; "" if nothing is wrong."""
    try:
        loads(raw)
    except json.JSONDecodeError as error:
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    except RecursionError:
        return "nested too deeply"
    except (ValueError, InvalidJSON) as error:
        return str(error)
    return ""


async def read(raw: bytes, window: int = TINY) -> tuple[dict[str, Any], dict[str, tuple[int, int]]] | None:
    """The document as LargeObject reads it, giving way at every chance."""
    return await LargeObject(raw, window=window, turn=1).read()


def steps(reading: LargeObject) -> Iterator[int]:
    """How far each step went, in bytes."""
    coroutine, before = reading.read(), 0
    while True:
        try:
            coroutine.send(None)
        except StopIteration:
            yield reading.position - before
            return
        yield reading.position - before
        before = reading.position


@settings(max_examples=400, deadline=None)
@given(documents, spaces, st.booleans(), st.integers(TINY, 100))
async def test_a_document_means_what_the_standard_library_says(
    data: dict[str, Any], gap: str, escape: bool, window: int
) -> None:
    raw = write(data, gap, escape=escape)
    found = await read(raw, window)
    assert found is not None
    members, spans = found
    assert members == data
    assert {name: json.loads(raw[start:end]) for name, (start, end) in spans.items()} == data
    assert all(raw[start:end].strip() == raw[start:end] for start, end in spans.values())


@settings(max_examples=800, deadline=None)
@given(documents, spaces, st.booleans(), st.integers(TINY, 100), st.data())
async def test_a_broken_document_is_refused_exactly_where_a_small_one_is(
    data: dict[str, Any], gap: str, escape: bool, window: int, draw: st.DataObject
) -> None:
    raw = bytearray(write(data, gap, escape=escape))
    at = draw.draw(st.integers(0, len(raw) - 1))
    put = draw.draw(
        st.sampled_from(
            [b"", b'"', b"\\", b"\\u", b"\\ud83d", b"\x00", b"\xff", b"\xe4\xb8", *b"{}[],:1-.eNt "]
        )
    )
    raw[at : at + draw.draw(st.integers(0, 2))] = put if isinstance(put, bytes) else bytes((put,))
    expected, said = tell_refusal(bytes(raw)), None
    try:
        found = await read(bytes(raw), window)
    except (ValueError, InvalidJSON) as error:
        found, said = None, str(error)
    if said is None:
        assert found is None or not expected
        assert found is None or found[0] == json.loads(raw)
    else:
        assert expected
        assert expected in said or not ("Expecting" in expected and "Expecting" in said)


@pytest.mark.parametrize(
    "text",
    [
        "plain text that is longer than a window, with 123e4 in it",
        "\\" * 150,
        "a\\" * 60,
        '"' * 100,
        "é中\U0001f600" * 30,
        "\n\U0001f600é\\u1234" * 12,
        "\U0001f600" * 40,
        "\\u" * 50,
    ],
)
@pytest.mark.parametrize("escape", [False, True])
async def test_windows_may_end_anywhere_in_a_text(text: str, escape: bool) -> None:
    for shift in range(30):
        for window in range(13, 27):
            data = {"a" * shift + text[:5]: [text, {text: text}], "end": 1}
            found = await read(write(data, "", escape=escape), window)
            assert found is not None
            assert found[0] == data, (shift, window)


@pytest.mark.parametrize(
    "half", ["\\ud83d", "\\ude00", "\\ud83d\\u0041", "\\ud83dx", "\\ud83d\\ud83d\\ude00", "\\uDBFF\\uE000"]
)
async def test_half_a_surrogate_pair_is_refused_wherever_the_windows_end(half: str) -> None:
    for shift in range(40):
        for raw in (f'{{"{"a" * shift}{half}":1}}', f'{{"a":["{"a" * shift}{half}","b"]}}'):
            with pytest.raises(ValueError, match="surrogate"):
                await read(raw.encode())


@pytest.mark.parametrize(
    ("inner", "word"),
    [
        ('"a":1,"a":2', "'a' stands twice"),
        ('"o":{"a":1,"b":[],"a":2}', "'a' stands twice"),
        ('"a":NaN', "NaN is not"),
        ('"a":[1,2,-Infinity]', "-Infinity is not"),
        ('"a":[1e999,1]', "1e999 is too large"),
        ('"a":"\x07"', "Invalid control character"),
        ('"a":tru', "Expecting value"),
        ('"é":[1,,2]', "Expecting value"),
        ('"a":1 "b"', "Expecting ',' delimiter"),
        ('"a" 1', "Expecting ':' delimiter"),
        ("1:2", "Expecting property name"),
        ('"a":"\\q"', "Invalid \\"),
        ('"a":"\\u12z4"', "Invalid \\u"),
        ('"a":01', "Expecting ',' delimiter"),
        ('"a":1}{', ""),
        ('"a":"\\ud800 "', "surrogate"),
        ('"a":' + "9" * 5000, "4300 digits"),
        ('"a":' + "[" * 200_000, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("large", ["before", "inside", "behind"])
async def test_a_refusal_says_what_is_wrong_and_where(inner: str, word: str, large: str) -> None:
    pad = '"pad":"' + "中" * SMALL + '"'
    body = {
        "before": f"{{{pad},\n {inner}}}",
        "inside": f'{{"b":{{"b":[1,\n{{{pad}, {inner}}}]}}}}',
        "behind": f"{{\n {inner},{pad}}}",
    }[large].encode()
    expected = tell_refusal(body)
    assert word in expected
    with pytest.raises(InvalidJSON) as refusal:
        await parse_body(body)
    assert expected in str(refusal.value)


async def test_large_values_may_be_nested_so_deep_and_no_deeper() -> None:
    for depth, good in ((11, True), (12, False)):
        body = b'{"a":' + b"[" * depth + b'"' + b"x" * 2 * SMALL + b'"' + b"]" * depth + b"}"
        if good:
            assert (await parse_body(body)).data == json.loads(body)
        else:
            with pytest.raises(InvalidJSON, match="nested too deeply"):
                await parse_body(body)


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"[%b]", "JSON object"),
        (b'"%b"', "JSON object"),
        (b"1%b", "JSON object"),
        (b"%b", "JSON object"),
        (b"\xef\xbb\xbf{%b}", "byte order mark"),
        (b"{%b", r"property name enclosed in double quotes \(line 1, column 131084\)"),
        (b'{"a":[1,%b', r"Expecting value \(line 1, column 131091\)"),
        (b'{"a":"%b', r"Unterminated string starting at \(line 1, column 6\)"),
        (b'{"a":"%b\\', r"Unterminated string starting at \(line 1, column 6\)"),
        (b'{"a":"%b\xc3', r"not valid UTF-8 \(byte 131088\)"),
    ],
)
async def test_a_large_document_that_is_no_whole_object_is_refused(raw: bytes, word: str) -> None:
    with pytest.raises(InvalidJSON, match=word):
        await parse_body(raw % (b" " * (2 * SMALL + 10)))


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("[]", 400_000),
        ('""', 400_000),
        ("[[[[[[]]]]]]", 80_000),
        ('{"":{"":{"":{"":0}}}}', 80_000),
    ],
    ids=["lists", "texts", "nested", "objects"],
)
async def test_megabytes_of_tiny_values_are_refused(value: str, count: int) -> None:
    with pytest.raises(InvalidJSON, match="values of less than"):
        await parse_body(f'{{"x":[{",".join([value] * count)}]}}'.encode())


async def test_values_of_some_bytes_and_numbers_are_not_too_many() -> None:
    for inner in (",".join(['"abcdef"'] * 300_000), ",".join(["1"] * 400_000), "[" + ",".join(["[1]"] * 9)):
        body = f'{{"x":[{inner}]}}' if inner[0] != "[" else f'{{"x":["{inner * 9000}"]}}'
        assert (await parse_body(body.encode())).data == json.loads(body)


def shapes() -> Iterator[tuple[str, bytes]]:
    """Documents of many megabytes of every kind that takes a path of its own."""
    yield "image", b'{"a":[{"b":"%b"}]}' % (b"iVBORw0KGgoAAAAN" * (20 * MEGABYTE // 16))
    yield "chinese", b'{"a":"%b"}' % ("中文" * (5 * MEGABYTE // 6)).encode()
    yield "escapes", b'{"a":"%b"}' % (b'\\n\\u00e9\\ud83d\\ude00\\"' * (5 * MEGABYTE // 22))
    yield "messages", b'{"a":[%b]}' % b",".join([b'{"role":"user","content":"%b"}' % (b"x" * 500)] * 10_000)
    yield "numbers", b'{"a":[%b]}' % b",".join([b"1"] * 2 * MEGABYTE)
    yield "spaces", b'{"a":%b1}' % (b" " * 5 * MEGABYTE)
    yield "key", b'{"%b":1}' % (b"k" * 5 * MEGABYTE)
    yield "broken", b'{"a":"%b\x01"}' % (b"x" * 5 * MEGABYTE)


@pytest.mark.parametrize(("kind", "raw"), list(shapes()), ids=[kind for kind, _ in shapes()])
def test_no_step_through_a_large_document_is_long(kind: str, raw: bytes) -> None:
    """In bytes read between two turns of the loop; a value to make counts as many of them. A broken one's are read once more."""
    reading = LargeObject(raw)
    try:
        longest = max(steps(reading))
    except InvalidJSON:
        assert kind == "broken"
        return
    assert longest <= (2 * WINDOW if kind == "numbers" else TURN + 2 * WINDOW)


async def test_the_document_is_not_held_once_more_per_level() -> None:
    raw = b'{"x":' + b"[" * 10 + b'"' + b"a" * 10 * MEGABYTE + b'"' + b"]" * 10 + b"}"
    tracemalloc.start()
    try:
        await parse_body(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * len(raw)
