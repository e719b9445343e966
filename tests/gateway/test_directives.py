"""In-band directives: what is one, what it says, and that nothing but it is taken out of a request's bytes."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.body import Body
from gateway.directives import (
    MARK,
    MOST_BYTES,
    PLACEHOLDER,
    SETTINGS,
    WITHOUT_EFFECT,
    Directives,
    are_allowed,
    find_directives,
    merge,
    strip_body,
)
from gateway.json_places import find_members, find_places
from gateway.strict_json import loads
from providers.adapters.base import Operation
from tests.builders import a_key, a_snapshot
from tokenhub.core.errors import InvalidRequest
from tokenhub.core.policies import ConditionSpec, PolicySpec

CHAT = Operation.OPENAI_CHAT
BLOCK = "@@tokenhub\nmode=adversarial\nprimary_min_weight=6\nreview_min_weight=9\niterations=2\n@@end\n"
ONE_LINE = "@@tokenhub mode=cheap budget=0.01 latency=5000 min_weight=5\n"


def a_body(raw: bytes | str) -> Body:
    """A parsed body."""
    data = raw.encode() if isinstance(raw, str) else raw
    return Body(data, loads(data))


def asking(text: str) -> Body:
    """A chat of one user message."""
    return a_body(json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}))


def stripped(text: str) -> tuple[Directives | None, str]:
    """What a user's text asks, and what is left of it."""
    directives, body = strip_body(asking(text), CHAT)
    assert json.loads(body.raw) == body.data
    return directives, body.data["messages"][0]["content"]


def test_a_block_is_read_and_taken_out() -> None:
    directives, left = stripped(BLOCK + "the prompt")
    assert directives == Directives(
        mode="adversarial",
        min_weight=6,
        review_min_weight=9,
        iterations=2,
        ignored=("review_min_weight", "iterations"),
    )
    assert left == "the prompt"


def test_one_line_is_read_and_taken_out() -> None:
    directives, left = stripped(ONE_LINE + "the\nprompt")
    assert directives == Directives(mode="cheap", budget_nanos=10_000_000, latency_ms=5000, min_weight=5)
    assert left == "the\nprompt"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("@@tokenhub mode=cheap @@end the prompt", "the prompt"),
        ("@@tokenhub mode=cheap\r\nprompt", "prompt"),
        ("@@tokenhub\r\n mode = cheap \r\n\r\n\t@@end \r\nprompt", "prompt"),
        ("@@tokenhub mode=normal\nmode=cheap\n@@end\nprompt", "prompt"),
        ("@@tokenhub mode=normal\n@@tokenhub MODE=cheap\nprompt", "prompt"),
        (" \n@@tokenhub mode=cheap\n  prompt", " \n  prompt"),
        ("@@tokenhub mode=cheap\nx=1 is an equation", "x=1 is an equation"),
        ("@@tokenhub mode=cheap", PLACEHOLDER),
        ("  @@tokenhub mode=cheap\n \n", f"  {PLACEHOLDER} \n"),
    ],
)
def test_the_forms_of_a_directive(text: str, left: str) -> None:
    assert stripped(text) == (Directives(mode="cheap"), left)


@pytest.mark.parametrize(
    "text",
    [
        "Tell me what @@tokenhub mode=cheap does",
        "Hello\n@@tokenhub mode=cheap\nWorld",
        "\\@@tokenhub mode=cheap",
        "@@tokenhubs mode=cheap",
        "@tokenhub mode=cheap",
        " " * MOST_BYTES + "@@tokenhub mode=cheap\n",
        " " * (MOST_BYTES - 5) + "@@tokenhub mode=cheap\n",
        "@@end",
    ],
)
def test_what_is_not_at_the_top_of_the_text_is_text(text: str) -> None:
    assert stripped(text) == (None, text)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": ONE_LINE},
        {"role": "assistant", "content": ONE_LINE},
        {"role": "developer", "content": [{"type": "text", "text": ONE_LINE}]},
        {"role": "tool", "tool_call_id": "1", "content": ONE_LINE},
        {"role": "user", "content": [{"type": "tool_result", "content": ONE_LINE}]},
        {"role": "user", "content": [{"type": "image_url", "text": ONE_LINE}]},
        {"role": "user", "name": ONE_LINE, "content": "hi"},
    ],
)
def test_only_a_users_text_can_hold_one(message: dict[str, Any]) -> None:
    body = a_body(json.dumps({"model": "m", "system": ONE_LINE, "messages": [message]}))
    assert strip_body(body, CHAT) == (None, body)


@pytest.mark.parametrize(
    ("pair", "bound"),
    [
        ("mode=fast", "one of cheap, normal"),
        ("iterations=6", "from 0 to 5"),
        ("iterations=-1", "from 0 to 5"),
        ("iterations=2.5", "from 0 to 5"),
        ("min_weight=11", "from 0 to 10"),
        ("review_min_weight=x", "from 0 to 10"),
        ("budget=0", "above 0 and up to 1000"),
        ("budget=1000.01", "above 0 and up to 1000"),
        ("budget=0.0000000001", "at most 9 decimals"),
        ("budget=1e-3", "an amount in USD"),
        ("budget=", "an amount in USD"),
        ("latency=0", "from 1 to 3600000"),
        ("max_tokens=0", "from 1 to"),
        ("strip_think=maybe", "on or off"),
        ("output=xml", "json, markdown, text"),
        ("cache=please", "on or off"),
        ("policy=", "a policy's name"),
        ("policy=" + "p" * 201, "at most 200"),
        ("output_schema=[1]", "one JSON object"),
        ("iterations=" + "9" * 500, "from 0 to 5"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_key_value_bound_and_path(pair: str, bound: str) -> None:
    key, _, value = pair.partition("=")
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": f"@@tokenhub {pair}\nhi"}]}]}
    with pytest.raises(InvalidRequest, match=r"^messages\[0\]\.content\[0\]\.text: ") as caught:
        strip_body(a_body(json.dumps(body)), CHAT)
    assert caught.value.param == "messages[0].content[0].text"
    assert f"the directive {key} must be" in caught.value.message
    assert bound in caught.value.message
    assert value[:40] in caught.value.message
    assert len(caught.value.message) < 300
    assert caught.value.details["bound"] in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "@@tokenhub",
        "@@tokenhub\n",
        "@@tokenhub\nmode=cheap\nthe prompt",
        "@@tokenhub\nmode=cheap\n",
        "@@tokenhub is a nice thing",
        "@@tokenhub =1\n",
        "@@tokenhub\n" + "mode=cheap\n" * 400 + "@@end\n",
        "@@tokenhub policy=" + "x" * MOST_BYTES,
        "@@tokenhub mode=cheap\n" + " " * 3000 + "@@tokenhub mode=cheap\n",
        "@@tokenhub mode=cheap\n" * 200,
    ],
)
def test_a_directive_that_is_malformed_or_too_long_is_refused_rather_than_forwarded(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        stripped(text)
    assert caught.value.param == "messages[0].content"
    assert caught.value.hint


def test_every_key_has_its_setting() -> None:
    values = {
        "mode": "planning",
        "policy": "night shift",
        "output_schema": '{"type": "object"}',
        "budget": "0.000000001",
        "max_budget_usd": "1000",
        "strip_think": "yes",
        "output": "json",
        "output_format": "markdown",
        "cache": "off",
    }
    for key, setting in SETTINGS.items():
        directives, _ = stripped(
            f"@@tokenhub\n{key.replace('_', '-').upper()}={values.get(key, '3')}\n@@end\nx"
        )
        assert directives is not None
        assert getattr(directives, setting.field) != getattr(Directives(), setting.field), key
        assert directives.ignored == ((key,) if setting.field in WITHOUT_EFFECT else ())


def test_unknown_keys_are_collected_once_each() -> None:
    directives, left = stripped("@@tokenhub foo=1 mode=cheap bar=2 Foo=3\nhi")
    assert directives == Directives(mode="cheap", ignored=("foo", "bar"))
    assert left == "hi"


def test_of_several_messages_the_last_says_what_holds_and_all_are_taken_out() -> None:
    messages = [
        {"role": "user", "content": "@@tokenhub mode=cheap min_weight=2\nfirst"},
        {"role": "assistant", "content": "@@tokenhub mode=normal\nno"},
        {"role": "user", "content": [{"type": "text", "text": "@@tokenhub mode=planning\nsecond"}]},
    ]
    directives, body = strip_body(a_body(json.dumps({"messages": messages})), CHAT)
    assert directives == Directives(mode="planning", min_weight=2)
    assert [message["content"] for message in body.data["messages"]] == [
        "first",
        "@@tokenhub mode=normal\nno",
        [{"type": "text", "text": "second"}],
    ]


def test_a_prompt_of_completions_may_have_one() -> None:
    directives, body = strip_body(
        a_body(json.dumps({"model": "m", "prompt": ONE_LINE + "once"})), Operation.OPENAI_COMPLETIONS
    )
    assert directives is not None
    assert body.data["prompt"] == "once"
    several = a_body(
        json.dumps({"model": "m", "prompt": ["@@tokenhub mode=cheap\nx", "y", "@@tokenhub cache=on"]})
    )
    directives, body = strip_body(several, Operation.OPENAI_COMPLETIONS)
    assert directives == Directives(mode="cheap", cache=True)
    assert json.loads(body.raw)["prompt"] == ["x", "y", PLACEHOLDER]


def test_every_other_byte_stays_as_it_was() -> None:
    raw = (
        b' {\t"messages" : [ {"content":"caf\\u00e9","role":"user"},{"role":"user", "content":[ {"text":"\\n @@tokenhub mode=cheap'
        b' x=\\u00e9\\ud83d\\ude00\xc3\xa9\\nA\\/B \\u00e9\xf0\x9f\x98\x80","type":"text" } ]}] ,"x":1e2, "y":0.50}\n'
    )
    directives, body = strip_body(a_body(raw), CHAT)
    assert directives == Directives(mode="cheap", ignored=("x",))
    assert body.raw == raw.replace(b"@@tokenhub mode=cheap x=\\u00e9\\ud83d\\ude00\xc3\xa9\\n", b"")
    assert body.edited({"model": "other"}) == body.raw.rstrip()[:-1] + b',"model":"other"}\n'


def test_the_known_places_of_a_large_body_are_kept_in_step() -> None:
    raw = b'{"a":1,"messages":[{"role":"user","content":"@@tokenhub mode=cheap\\nhi"}],"model":"m","z":[1]}'
    spans = find_members(raw)
    _, body = strip_body(Body(raw, json.loads(raw), spans), CHAT)
    edited = body.edited({"model": "longer", "z": 2})
    assert json.loads(edited) == {
        "a": 1,
        "messages": [{"role": "user", "content": "hi"}],
        "model": "longer",
        "z": 2,
    }


def test_what_the_request_says_itself_is_not_overruled() -> None:
    stated = Directives(mode="cheap", budget_nanos=5)
    assert merge(stated, Directives(mode="cheap", iterations=0)) == Directives(
        mode="cheap", budget_nanos=5, iterations=0
    )
    with pytest.raises(InvalidRequest, match="budget_nanos"):
        merge(stated, Directives(budget_nanos=6))


def test_a_policy_for_the_key_can_switch_them_off() -> None:
    key, _ = a_key(project="quiet")
    policies = (
        PolicySpec("1", "by model", 1, when=ConditionSpec(models=frozenset({"m"})), directives=False),
        PolicySpec("2", "quiet", 1, when=ConditionSpec(projects=frozenset({"quiet"})), directives=False),
        PolicySpec("3", "all", 1),
    )
    snapshot = a_snapshot(keys=(key,))
    assert are_allowed(snapshot, key)
    object.__setattr__(snapshot, "policies", policies)
    assert not are_allowed(snapshot, key)
    assert are_allowed(snapshot, a_key(project="loud")[0])


PAIRS = st.lists(
    st.sampled_from(["mode=cheap", "iterations=3", "budget=0.5", "cache=on", "who=knows", "strip-think=off"]),
    min_size=1,
    max_size=5,
)
BREAKS = st.sampled_from(["\n", "\r\n", "\r"])
PROSE = st.text(max_size=60).filter(lambda text: "@@" not in text and not text.startswith(("\n", "\r")))


@settings(max_examples=300, deadline=None)
@given(
    pairs=PAIRS,
    block=st.booleans(),
    end=BREAKS,
    before=st.text(" \t\r\n", max_size=9),
    prose=PROSE,
    escaped=st.booleans(),
)
def test_whatever_stands_around_a_directive_stays(
    pairs: list[str], block: bool, end: str, before: str, prose: str, escaped: bool
) -> None:
    written = end.join(["@@tokenhub", *pairs, "@@end"]) if block else " ".join(["@@tokenhub", *pairs])
    content = before + written + end + prose
    raw = json.dumps({"messages": [{"role": "user", "content": content}], "n": 1}, ensure_ascii=escaped)
    directives, body = strip_body(a_body(raw), CHAT)
    assert directives is not None
    assert (directives.mode == "cheap") == ("mode=cheap" in pairs)
    left = before + (PLACEHOLDER if not prose.strip() else "") + prose
    assert body.raw.decode() == json.dumps(
        {"messages": [{"role": "user", "content": left}], "n": 1}, ensure_ascii=escaped
    )


SOUP = [
    *(
        "@@tokenhub",
        "@@tokenhub ",
        "@@tokenhub\n",
        "@@end",
        "@@end\n",
        "\n",
        "\r",
        "\r\n",
        " ",
        "\t",
        "=",
        "mode=cheap",
    ),
    *(
        "budget=9999",
        "iterations=1\n",
        "x=y\n",
        "a",
        "é",
        "😀",
        "\\",
        '"',
        "/",
        "\u2028",
        "@",
        "\x00",
        "z" * 700,
        " " * 600,
    ),
]
TOPS = [
    "",
    "@@tokenhub",
    "@@tokenhub\n",
    ONE_LINE,
    BLOCK,
    " \n@@tokenhub x=\u00e9😀\r\n",
    "@@tokenhub a=1 @@end ",
]
ROLES = ["user", "user", "user", "system", "assistant", "tool"]


def cook(choose: Callable[[int], int]) -> bytes:
    """A body of messages whose texts are made of what directives are made of; `choose(n)` draws from 0 to n − 1."""

    def text() -> str:
        top = TOPS[choose(len(TOPS))]
        return top + "".join(SOUP[choose(len(SOUP))] for _ in range(choose(9)))

    messages: list[dict[str, Any]] = []
    for _ in range(1 + choose(4)):
        content: Any = text()
        if choose(3) == 0:
            content = [{"type": ("text", "image")[choose(2)], "text": text()} for _ in range(choose(3))]
        messages.append({"content": content, "role": ROLES[choose(len(ROLES))]})
    body = {"model": "@@tokenhub mode=cheap\n", "messages": messages, "x": "@@tokenhub"}
    written = json.dumps(body, ensure_ascii=bool(choose(2)), indent=(None, 1)[choose(2)])
    return written.replace("/", ("/", "\\/")[choose(2)]).encode()


def list_texts(data: Any) -> dict[tuple[Any, ...], str]:
    """The texts in which directives may stand."""
    found: dict[tuple[Any, ...], str] = {}
    for number, message in enumerate(data["messages"]):
        content, at = message["content"], ("messages", number, "content")
        if message["role"] == "user":
            if isinstance(content, str):
                found[at] = content
            else:
                found |= {
                    (*at, n, "text"): part["text"] for n, part in enumerate(content) if part["type"] == "text"
                }
    return found


def check_soup(raw: bytes) -> bool:
    """Strips a body and holds the result against it. Whether there was a directive that was taken out."""
    before = list_texts(json.loads(raw))
    try:
        directives, body = strip_body(a_body(raw), CHAT)
    except InvalidRequest as error:
        if str(error.param).startswith("messages["):
            return False
        raise
    data = json.loads(body.raw)
    assert data == body.data
    after = list_texts(data)
    assert before.keys() == after.keys()
    changed = [path for path in before if before[path] != after[path]]
    assert bool(changed) == (directives is not None)
    old, new = find_places(raw, before), find_places(body.raw, after)
    for path, text in after.items():
        assert find_directives(text, "") is None, "a directive is left"
        token_before, token_after = raw[slice(*old[path])], body.raw[slice(*new[path])]
        if path in changed:
            start = before[path].index("@@tokenhub")
            assert before[path][:start].strip() == ""
            rest = text[start:]
            assert before[path].endswith(rest) or rest[:1] == PLACEHOLDER
            tail = token_after[len(json.dumps(before[path][:start])) - 1 :].removeprefix(PLACEHOLDER.encode())
            assert token_before.endswith(tail)
        else:
            assert token_before == token_after
    assert outside(raw, list(old.values())) == outside(body.raw, list(new.values()))
    return bool(changed)


def outside(raw: bytes | bytearray, spans: list[tuple[int, int]]) -> list[bytes]:
    """What stands between the spans."""
    edges = [0, *(edge for span in sorted(spans) for edge in span), len(raw)]
    return [bytes(raw[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_text_breaks_it_leaves_a_directive_in_or_changes_anything_else(data: st.DataObject) -> None:
    check_soup(cook(lambda most: data.draw(st.integers(0, most - 1))))


def test_thousands_of_texts_of_all_kinds() -> None:
    rng = random.Random(20_270_101)
    found = sum(check_soup(cook(rng.randrange)) for _ in range(3_000))
    assert found > 300


@pytest.mark.drill
@pytest.mark.slow
def test_a_hundred_thousand_texts_of_all_kinds() -> None:
    rng = random.Random(time.time_ns())
    state = rng.getstate()
    found = 0
    for number in range(100_000):
        raw = cook(rng.randrange)
        try:
            found += check_soup(raw)
        except BaseException as error:
            raise AssertionError(f"case {number} from {state[1][:3]}: {raw!r}") from error
    assert found > 10_000


def test_time_grows_with_the_length_alone() -> None:
    def measure(count: int) -> float:
        hard = "@@tokenhub a=1\n" + "b=2\n" * 400 + "x" * 4000
        raw = json.dumps({"messages": [{"role": "user", "content": hard}] * count}).encode()
        best = 1e9
        for _ in range(3):
            body = a_body(raw)
            began = time.process_time()
            strip_body(body, CHAT)
            best = min(best, time.process_time() - began)
        return best

    assert measure(800) < 30 * measure(100) + 0.05
    body = a_body(json.dumps({"messages": [{"role": "user", "content": " " * 5_000_000 + MARK.decode()}]}))
    began = time.process_time()
    assert strip_body(body, CHAT) == (None, body)
    assert time.process_time() - began < 0.2
