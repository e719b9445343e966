"""The keyring: opens what may be opened, follows a rotated file, and tells no secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from providers.adapters.registry import get_adapter
from tokenhub.core.specs import CredentialSpec
from vault.keyring import CredentialUnavailable, Destination, Keyring

SECRET = "sk-canary-7f3a"
ACME = "https://api.acme.example:443"
ELSEWHERE = "https://api.acme.example:8443"


def to(origin: str) -> Destination:
    """An OpenAI endpoint there."""
    return Destination(origin, "openai", "authorization")


class Clock:
    """Monotonic seconds that stand still until told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def env(reference: str) -> CredentialSpec:
    return CredentialSpec("1", "main", "env", reference)


def a_file(folder: Path, name: str, secret: str = SECRET, origins: str = ACME) -> None:
    """A mounted secret and where it may go."""
    (folder / name).write_text(secret)
    (folder / f"{name}.origin").write_text(origins)


def file(reference: str) -> CredentialSpec:
    return CredentialSpec("1", "main", "file", reference)


def test_a_variable_is_opened(tmp_path: Path) -> None:
    keyring = Keyring({"TOKENHUB_CRED_ACME": SECRET, "TOKENHUB_CRED_ACME__ORIGIN": ACME}, tmp_path)
    assert keyring.get_secret(env("TOKENHUB_CRED_ACME"), to(ACME)) == SECRET


def test_no_credential_is_an_empty_secret(tmp_path: Path) -> None:
    assert Keyring({}, tmp_path).get_secret(CredentialSpec("1", "main", "none"), to(ACME)) == ""


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "TOKENHUB_KEY_PEPPER",
        "TOKENHUB_CRED_",
        "tokenhub_cred_a",
        "TOKENHUB_CRED_A__ORIGIN",
        "",
        SECRET,
    ],
)
def test_other_variables_stay_closed_and_the_reference_is_not_repeated(name: str, tmp_path: Path) -> None:
    with pytest.raises(CredentialUnavailable) as refused:
        Keyring({name: "value"}, tmp_path).get_secret(env(name), to(ACME))
    assert SECRET not in refused.value.message


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(CredentialUnavailable, match="TOKENHUB_CRED_ACME is not set"):
        Keyring({}, tmp_path).get_secret(env("TOKENHUB_CRED_ACME"), to(ACME))


@pytest.mark.parametrize("value", ["", "a\nb", "a\x00b", " padded ", "schlüssel", "x" * 20_000, "a\r\nx: y"])
def test_what_can_not_stand_in_a_header_is_refused_without_being_shown(value: str, tmp_path: Path) -> None:
    with pytest.raises(CredentialUnavailable) as refused:
        Keyring({"TOKENHUB_CRED_A": value}, tmp_path).get_secret(env("TOKENHUB_CRED_A"), to(ACME))
    assert not value or value not in refused.value.message


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_one_trailing_line_break_of_a_file_is_left_out(ending: str, tmp_path: Path) -> None:
    a_file(tmp_path, "acme")
    (tmp_path / "acme").write_bytes(SECRET.encode() + ending.encode())
    assert Keyring({}, tmp_path).get_secret(file("acme"), to(ACME)) == SECRET


def test_two_trailing_line_breaks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text(f"{SECRET}\n\n")
    with pytest.raises(CredentialUnavailable) as refused:
        Keyring({}, tmp_path).get_secret(file("acme"), to(ACME))
    assert SECRET not in refused.value.message


@pytest.mark.parametrize(
    "name", ["../acme", "/etc/passwd", "a/../../acme", "", ".", "a//b", "a\x00", "a.origin"]
)
def test_files_outside_the_directory_stay_closed(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "creds"
    directory.mkdir()
    (tmp_path / "acme").write_text(SECRET)
    with pytest.raises(CredentialUnavailable):
        Keyring({}, directory).get_secret(file(name), to(ACME))


def test_a_link_out_of_the_directory_stays_closed(tmp_path: Path) -> None:
    directory = tmp_path / "creds"
    directory.mkdir()
    (tmp_path / "acme").write_text(SECRET)
    (directory / "acme").symlink_to(tmp_path / "acme")
    with pytest.raises(CredentialUnavailable, match="leads out"):
        Keyring({}, directory).get_secret(file("acme"), to(ACME))


def test_a_mounted_secret_behind_links_inside_the_directory_is_followed_when_it_is_swapped(
    tmp_path: Path,
) -> None:
    for version, secret in (("v1", "first"), ("v2", "second")):
        (tmp_path / version).mkdir()
        a_file(tmp_path / version, "acme", secret)
    (tmp_path / "data").symlink_to("v1")
    (tmp_path / "acme").symlink_to("data/acme")
    (tmp_path / "acme.origin").symlink_to("data/acme.origin")
    clock = Clock()
    keyring = Keyring({}, tmp_path, recheck_seconds=2.0, clock=clock)
    assert keyring.get_secret(file("acme"), to(ACME)) == "first"
    (tmp_path / "next").symlink_to("v2")
    os.replace(tmp_path / "next", tmp_path / "data")
    assert keyring.get_secret(file("acme"), to(ACME)) == "first"
    clock.now += 2.0
    assert keyring.get_secret(file("acme"), to(ACME)) == "second"


def test_a_file_that_vanished_fails_when_it_is_looked_at_again(tmp_path: Path) -> None:
    a_file(tmp_path, "acme")
    clock = Clock()
    keyring = Keyring({}, tmp_path, clock=clock)
    assert keyring.get_secret(file("acme"), to(ACME)) == SECRET
    (tmp_path / "acme").unlink()
    clock.now += 10
    with pytest.raises(CredentialUnavailable, match="acme can't be read"):
        keyring.get_secret(file("acme"), to(ACME))
    assert keyring.list_values() == ()


def test_a_pipe_does_not_hang_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CredentialUnavailable, match="not a regular file"):
        Keyring({}, tmp_path).get_secret(file("pipe"), to(ACME))


def test_its_representation_shows_no_secret(tmp_path: Path) -> None:
    keyring = Keyring({"TOKENHUB_CRED_ACME": SECRET, "TOKENHUB_CRED_ACME__ORIGIN": ACME}, tmp_path)
    keyring.get_secret(env("TOKENHUB_CRED_ACME"), to(ACME))
    assert repr(keyring) == "Keyring(1 opened)"
    assert keyring.list_values() == (SECRET,)


@pytest.mark.parametrize("said", [ACME, "https://API.acme.example", f"http://other:1, {ACME}", f"{ACME}/v1"])
def test_a_secret_goes_where_its_origin_says_however_it_is_spelled(said: str, tmp_path: Path) -> None:
    a_file(tmp_path, "acme", origins=f"{said}\n")
    keyring = Keyring({"TOKENHUB_CRED_A": SECRET, "TOKENHUB_CRED_A__ORIGIN": said}, tmp_path)
    assert keyring.get_secret(env("TOKENHUB_CRED_A"), to(ACME)) == SECRET
    assert keyring.get_secret(file("acme"), to(ACME)) == SECRET


@pytest.mark.parametrize(
    "said", ["", "https://evil.example", "http://api.acme.example:443", "https://acme.example"]
)
@pytest.mark.parametrize("opened_before", [False, True])
def test_a_secret_goes_nowhere_else_and_the_refusal_names_what_to_set(
    said: str, opened_before: bool, tmp_path: Path
) -> None:
    a_file(tmp_path, "acme", origins=said)
    keyring = Keyring({"TOKENHUB_CRED_A": SECRET, "TOKENHUB_CRED_A__ORIGIN": said}, tmp_path)
    if opened_before and said:
        keyring.get_secret(env("TOKENHUB_CRED_A"), to(said))
        keyring.get_secret(file("acme"), to(said))
    for credential, named in (
        (env("TOKENHUB_CRED_A"), "TOKENHUB_CRED_A__ORIGIN"),
        (file("acme"), "acme.origin"),
    ):
        with pytest.raises(CredentialUnavailable, match=named) as refused:
            keyring.get_secret(credential, to(ACME))
        assert ACME not in refused.value.message
        assert ACME in (refused.value.hint or "")
        assert SECRET not in refused.value.message + (refused.value.hint or "")


def test_a_file_without_an_origin_beside_it_goes_nowhere(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text(SECRET)
    with pytest.raises(CredentialUnavailable, match=r"acme\.origin is missing"):
        Keyring({}, tmp_path).get_secret(file("acme"), to(ACME))


@pytest.mark.parametrize(
    "said", ["api.acme.example", "ftp://acme", "https://user@acme.example", "https://a:0"]
)
def test_what_is_no_origin_is_refused(said: str, tmp_path: Path) -> None:
    keyring = Keyring({"TOKENHUB_CRED_A": SECRET, "TOKENHUB_CRED_A__ORIGIN": f"{ACME},{said}"}, tmp_path)
    with pytest.raises(
        CredentialUnavailable, match="TOKENHUB_CRED_A__ORIGIN holds something that is no origin"
    ):
        keyring.get_secret(env("TOKENHUB_CRED_A"), to(ACME))


@pytest.mark.parametrize("kind", ["openai", "anthropic", "vllm"])
def test_a_vendor_s_own_variable_goes_to_the_vendor_unless_told_otherwise(kind: str, tmp_path: Path) -> None:
    name, vendor = f"{kind.upper()}_API_KEY", get_adapter(kind).default_origin
    assert Keyring({name: SECRET}, tmp_path).get_secret(env(name), to(vendor)) == SECRET
    with pytest.raises(CredentialUnavailable, match=f"{name}__ORIGIN does not name"):
        Keyring({name: SECRET}, tmp_path).get_secret(env(name), to(ACME))
    told = Keyring({name: SECRET, f"{name}__ORIGIN": ACME}, tmp_path)
    assert told.get_secret(env(name), to(ACME)) == SECRET
    with pytest.raises(CredentialUnavailable):
        told.get_secret(env(name), to(vendor))


def test_the_key_of_a_vllm_server_goes_to_its_base_url(tmp_path: Path) -> None:
    keyring = Keyring({"VLLM_API_KEY": SECRET, "VLLM_BASE_URL": "http://gpu.example:9000/v1/"}, tmp_path)
    assert keyring.get_secret(env("VLLM_API_KEY"), to("http://gpu.example:9000")) == SECRET
    with pytest.raises(CredentialUnavailable):
        keyring.get_secret(env("VLLM_API_KEY"), to("http://localhost:8000"))


def test_what_is_sent_nowhere_needs_no_origin(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text(SECRET)
    keyring = Keyring({"TOKENHUB_CRED_A": SECRET}, tmp_path)
    assert keyring.get_unbound(env("TOKENHUB_CRED_A")) == keyring.get_unbound(file("acme")) == SECRET
