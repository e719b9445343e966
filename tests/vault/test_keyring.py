"""The keyring: opens what may be opened, follows a rotated file, and tells no secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tokenhub.core.specs import CredentialSpec
from vault.keyring import CredentialUnavailable, Keyring

SECRET = "sk-canary-7f3a"


class Clock:
    """Monotonic seconds that stand still until told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def env(reference: str) -> CredentialSpec:
    return CredentialSpec("1", "main", "env", reference)


def file(reference: str) -> CredentialSpec:
    return CredentialSpec("1", "main", "file", reference)


def test_a_variable_is_opened(tmp_path: Path) -> None:
    keyring = Keyring({"TOKENHUB_CRED_ACME": SECRET, "OPENAI_API_KEY": "other"}, tmp_path)
    assert keyring.get_secret(env("TOKENHUB_CRED_ACME")) == SECRET
    assert keyring.get_secret(env("OPENAI_API_KEY")) == "other"


def test_no_credential_is_an_empty_secret(tmp_path: Path) -> None:
    assert Keyring({}, tmp_path).get_secret(CredentialSpec("1", "main", "none")) == ""


@pytest.mark.parametrize(
    "name", ["PATH", "TOKENHUB_KEY_PEPPER", "TOKENHUB_CRED_", "tokenhub_cred_a", "", SECRET]
)
def test_other_variables_stay_closed_and_the_reference_is_not_repeated(name: str, tmp_path: Path) -> None:
    with pytest.raises(CredentialUnavailable) as refused:
        Keyring({name: "value"}, tmp_path).get_secret(env(name))
    assert SECRET not in refused.value.message


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialUnavailable, match="TOKENHUB_CRED_ACME is not set"):
        Keyring({}, tmp_path).get_secret(env("TOKENHUB_CRED_ACME"))


@pytest.mark.parametrize("value", ["", "a\nb", "a\x00b", " padded ", "schlüssel", "x" * 20_000, "a\r\nx: y"])
def test_what_can_not_stand_in_a_header_is_refused_without_being_shown(value: str, tmp_path: Path) -> None:
    with pytest.raises(CredentialUnavailable) as refused:
        Keyring({"TOKENHUB_CRED_A": value}, tmp_path).get_secret(env("TOKENHUB_CRED_A"))
    assert not value or value not in refused.value.message


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_one_trailing_line_break_of_a_file_is_left_out(ending: str, tmp_path: Path) -> None:
    (tmp_path / "acme").write_bytes(SECRET.encode() + ending.encode())
    assert Keyring({}, tmp_path).get_secret(file("acme")) == SECRET


def test_two_trailing_line_breaks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text(f"{SECRET}\n\n")
    with pytest.raises(CredentialUnavailable) as refused:
        Keyring({}, tmp_path).get_secret(file("acme"))
    assert SECRET not in refused.value.message


@pytest.mark.parametrize("name", ["../acme", "/etc/passwd", "a/../../acme", "", ".", "a//b", "a\x00"])
def test_files_outside_the_directory_stay_closed(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "creds"
    directory.mkdir()
    (tmp_path / "acme").write_text(SECRET)
    with pytest.raises(CredentialUnavailable):
        Keyring({}, directory).get_secret(file(name))


def test_a_link_out_of_the_directory_stays_closed(tmp_path: Path) -> None:
    directory = tmp_path / "creds"
    directory.mkdir()
    (tmp_path / "acme").write_text(SECRET)
    (directory / "acme").symlink_to(tmp_path / "acme")
    with pytest.raises(CredentialUnavailable, match="leads out"):
        Keyring({}, directory).get_secret(file("acme"))


def test_a_mounted_secret_behind_links_inside_the_directory_is_followed_when_it_is_swapped(
    tmp_path: Path,
) -> None:
    for version, secret in (("v1", "first"), ("v2", "second")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "acme").write_text(secret)
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "acme").symlink_to("data/acme")
    clock = Clock()
    keyring = Keyring({}, tmp_path, recheck_seconds=2.0, clock=clock)
    assert keyring.get_secret(file("acme")) == "first"
    (tmp_path / "next").symlink_to("v2")
    os.replace(tmp_path / "next", tmp_path / "data")
    assert keyring.get_secret(file("acme")) == "first"
    clock.now += 2.0
    assert keyring.get_secret(file("acme")) == "second"


def test_a_file_that_vanished_fails_when_it_is_looked_at_again(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text(SECRET)
    clock = Clock()
    keyring = Keyring({}, tmp_path, clock=clock)
    assert keyring.get_secret(file("acme")) == SECRET
    (tmp_path / "acme").unlink()
    clock.now += 10
    with pytest.raises(CredentialUnavailable, match="acme can't be read"):
        keyring.get_secret(file("acme"))
    assert keyring.list_values() == ()


def test_a_pipe_does_not_hang_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CredentialUnavailable, match="not a regular file"):
        Keyring({}, tmp_path).get_secret(file("pipe"))


def test_its_representation_shows_no_secret(tmp_path: Path) -> None:
    keyring = Keyring({"TOKENHUB_CRED_ACME": SECRET}, tmp_path)
    keyring.get_secret(env("TOKENHUB_CRED_ACME"))
    assert repr(keyring) == "Keyring(1 opened)"
    assert keyring.list_values() == (SECRET,)
