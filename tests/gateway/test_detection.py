"""What guards find, and what they leave alone; and that a stream gives what the whole gives."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.guards.redaction import Masking, Placeholders, Redactor, Restoring, within_json
from routing.engine.detection import PATTERNS, Detector, check_own
from tokenhub.core.errors import GuardBlocked
from tokenhub.core.policies import GuardSpec

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcDEF123_-xyz"
BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIB\n-----END RSA PRIVATE KEY-----"

FOUND = [
    ("email", "bob.o-brien+x@mail.example.co.uk"),
    ("phone", "+49 30 1234-5678"),
    ("phone", "(415) 555-2671"),
    ("phone", "415-555-2671"),
    ("card", "4111 1111 1111 1111"),
    ("card", "378282246310005"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432"),
    ("ssn", "123-45-6789"),
    ("ip", "10.20.30.40"),
    ("ip", "2001:db8::1"),
    ("secret", "sk-proj-abcdefghijklmnopqrstuvwx"),
    ("secret", "AKIAIOSFODNN7EXAMPLE"),
    ("secret", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
    ("secret", JWT),
    ("secret", BLOCK),
]

LEFT_ALONE = [
    "4111 1111 1111 1112",
    "0000 0000 0000 0000",
    "DE88 3704 0044 0532 0130 00",
    "000-12-3456",
    "2024-11-25",
    "10:20:30",
    "999.1.1.1",
    "v1.2.3",
    "a @ b",
    "sk-short",
]


@pytest.mark.parametrize(("label", "text"), FOUND)
@pytest.mark.parametrize("around", ["{}", "see {}, please", "é{}ü", "a\n{}\nb", "({})"])
def test_it_is_found_whole(label: str, text: str, around: str) -> None:
    whole = around.format(text)
    [find] = Detector(PATTERNS).find(whole)
    assert (find.label, whole[find.start : find.end]) == (label, text)


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert Detector(PATTERNS).find(f"see {text} there") == []


def test_a_find_is_not_hidden_by_what_looks_like_a_longer_one() -> None:
    text = "card 4111 1111 1111 1111 12 and 123-45-6789 000-12-3456, BE68 5390 0754 7034 THIS"
    assert [(find.label, text[find.start : find.end]) for find in Detector(PATTERNS).find(text)] == [
        ("card", "4111 1111 1111 1111"),
        ("ssn", "123-45-6789"),
        ("iban", "BE68 5390 0754 7034"),
    ]


@pytest.mark.parametrize("expression", ["(", "a*", "(?=a)", "x{1000}{1000}", "", "a" * 501, "(a|b)*"])
def test_an_expression_that_can_not_be_used_is_told(expression: str) -> None:
    assert check_own(expression)


def test_an_own_expression_takes_time_that_grows_with_the_text_alone() -> None:
    # A backtracking engine would not come back within the age of the universe.
    assert Detector((), [("bomb", "(a+)+b")]).find("a" * 100_000) == []
    assert check_own(r"\pL{3}-\d+") == ""


PIECES = st.lists(
    st.one_of(
        st.sampled_from([text for _, text in FOUND] + LEFT_ALONE),
        st.sampled_from(
            [
                " ",
                "\n",
                "-",
                ",",
                "1",
                "12 ",
                "a",
                "é",
                "😀",
                "@",
                "x.",
                "-----BEGIN ",
                "[",
                "]",
                "TCK-12345 6",
            ]
        ),
        st.text(max_size=20),
    ),
    max_size=12,
)


@given(PIECES, st.lists(st.integers(0, 400), max_size=12))
def test_a_stream_is_masked_as_its_whole_is(pieces: list[str], cuts: list[int]) -> None:
    text = "".join(pieces)
    guards = [
        GuardSpec("pii", patterns=("email", "phone", "card", "iban", "ssn", "ip")),
        GuardSpec("keys", patterns=("secret",)),
        GuardSpec("tickets", own=(("ticket", r"TCK-\d+ ?\d"),)),
    ]
    told: list[tuple[str, str]] = []
    whole = Redactor(
        guards, Placeholders(), lambda guard, label: told.append((guard, label)), "answer"
    ).redact(text)
    counted = list(told)
    told.clear()
    masking = Masking(Redactor(guards, Placeholders(), lambda *one: told.append(one), "answer"))
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    out = [masking.feed(text[start:end]) for start, end in itertools.pairwise(places)]
    assert "".join(out) + masking.finish() == whole
    assert told == counted


def test_the_same_text_has_the_same_placeholder_and_only_the_callers_own_comes_back() -> None:
    placeholders = Placeholders()
    guard = GuardSpec("pii", patterns=("email",), restore=True)
    asked = Redactor([guard], placeholders, lambda *_: None, "request")
    assert asked.redact("a@x.de, b@x.de and a@x.de") == "[EMAIL_1], [EMAIL_2] and [EMAIL_1]"
    answered = Redactor([guard], placeholders, lambda *_: None, "answer")
    said = answered.redact("to [EMAIL_1] from c@x.de, [EMAIL_9]")
    assert said == "to [EMAIL_1] from [EMAIL_3], [EMAIL_9]"
    assert placeholders.restore(said) == "to a@x.de from [EMAIL_3], [EMAIL_9]"


@given(st.text(alphabet="[]_1EMAIL x", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_a_stream_is_restored_as_its_whole_is(text: str, cuts: list[int]) -> None:
    placeholders = Placeholders()
    placeholders.originals["[EMAIL_1]"] = 'a"b@x.de'
    text = f"[EMAIL_1]{text}[EMAIL_1]"
    restoring = Restoring(placeholders, within_json)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    out = [restoring.feed(text[start:end]) for start, end in itertools.pairwise(places)]
    assert "".join(out) + restoring.finish() == placeholders.restore(text, within_json)
    assert placeholders.restore("[EMAIL_1]", within_json) == 'a\\"b@x.de'


def test_a_guard_that_blocks_names_itself_and_the_kind_and_never_the_text() -> None:
    redactor = Redactor(
        [GuardSpec("no-cards", action="block", patterns=("card",))],
        Placeholders(),
        lambda *_: None,
        "request",
    )
    with pytest.raises(GuardBlocked) as refused:
        redactor.redact("pay with 4111 1111 1111 1111")
    assert "no-cards" in str(refused.value)
    assert "card" in str(refused.value)
    assert "4111" not in str(refused.value) + str(refused.value.details)
