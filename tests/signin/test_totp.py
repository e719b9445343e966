"""Codes, recovery codes and the sealing of secrets."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest

from signin import totp

SECRET = b"12345678901234567890"
KEY = "k" * 40


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (2000000000, "279037")],
)
def test_codes_are_those_of_rfc_6238(seconds: int, code: str) -> None:
    """Appendix B of RFC 6238, SHA-1, the last six of its eight digits."""
    moment = datetime.fromtimestamp(seconds, UTC)
    assert totp.find_step(SECRET, code, moment, 0) == seconds // 30


def test_a_code_is_good_one_step_early_or_late_and_no_longer() -> None:
    moment = datetime.fromtimestamp(1111111109, UTC)
    for steps, good in ((-2, False), (-1, True), (1, True), (2, False)):
        found = totp.find_step(SECRET, "081804", moment + steps * timedelta(seconds=30), 0)
        assert (found is not None) is good, steps


def test_a_used_step_is_not_taken_again() -> None:
    moment = datetime.fromtimestamp(59, UTC)
    assert totp.find_step(SECRET, "287082", moment, 1) is None


@pytest.mark.parametrize("code", ["", "28708", "2870823", "287 082", "abcdef", "２８７０８２"])
def test_what_is_no_code_is_refused(code: str) -> None:
    assert totp.find_step(SECRET, code, datetime.fromtimestamp(59, UTC), 0) is None


def test_a_sealed_secret_opens_for_its_user_under_its_key_only() -> None:
    sealed = totp.seal(SECRET, 7, KEY)
    assert totp.open_sealed(sealed, 7, KEY) == SECRET
    assert totp.seal(SECRET, 7, KEY) != sealed
    for user, key in ((8, KEY), (7, KEY + "x")):
        with pytest.raises(totp.SecretUnreadable):
            totp.open_sealed(sealed, user, key)


def test_neither_secret_nor_its_text_is_in_what_is_kept() -> None:
    sealed = totp.seal(SECRET, 7, KEY)
    assert totp.write_secret(SECRET) not in sealed
    assert hashlib.sha1(SECRET).hexdigest() not in sealed


def test_there_are_ten_different_recovery_codes_that_may_be_typed_in_any_way() -> None:
    codes = totp.make_recovery_codes()
    assert len(set(codes)) == 10
    digest = totp.digest_recovery_code(codes[0])
    assert totp.digest_recovery_code(codes[0].upper().replace("-", " ")) == digest
    assert len({totp.digest_recovery_code(code) for code in codes}) == 10


def test_the_picture_is_drawn_here_without_scripts_or_links() -> None:
    uri = totp.enrolment_uri(SECRET, "anna & ben", "hub.example.com:8080")
    assert uri.startswith("otpauth://totp/Tokenhub%3Aanna%20%26%20ben%40hub.example.com%3A8080?secret=")
    picture = ElementTree.fromstring(totp.draw_qr(uri))
    assert {element.tag.rpartition("}")[2] for element in picture.iter()} <= {"svg", "path", "g"}
