"""Redaction: by value in every form, by name, and of what a request brought along, wherever it is written."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenhub.environment import list_secrets, load_settings
from tokenhub.logs import JSONFormatter, LogHandler
from tokenhub.redaction import (
    REDACTED,
    SHORTEST,
    bringing,
    is_secret_name,
    list_forms,
    mask_values,
    redact,
    unwatch,
    watch,
)
from vault.engine.buffers import SecretBuffer
from vault.keyring import Destination, Keyring
from vault.live import mask_buffers, masker_of

VALUE = 'canary "é/+&<\\ 7c3f'
FORMS = {
    "plain": VALUE,
    "url": quote(VALUE, safe=""),
    "json": json.dumps(VALUE)[1:-1],
    "hex": VALUE.encode().hex(),
    "base64": base64.b64encode(VALUE.encode()).decode()[4:-8],
    "inside base64": base64.b64encode(b"someone:" + VALUE.encode() + b"!").decode()[12:-8],
    "html": "canary &quot;é/+&amp;&lt;\\ 7c3f",
    "repr": repr(VALUE)[1:-1],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_value_goes_in_every_form(form: str) -> None:
    around = base64.b64encode(b"someone:" + VALUE.encode() + b"!").decode()
    text = {"base64": base64.b64encode(VALUE.encode()).decode(), "inside base64": around}.get(
        form, FORMS[form]
    )
    assert FORMS[form] in text
    assert FORMS[form] not in mask_values(f"it said {text} twice {text}", [VALUE])


@given(
    st.text(st.characters(codec="utf-8"), min_size=12, max_size=40),
    st.binary(max_size=4),
    st.binary(max_size=4),
)
def test_base64_is_found_wherever_it_lies_in_something_longer(
    value: str, before: bytes, after: bytes
) -> None:
    text = base64.b64encode(before + value.encode() + after).decode()
    assert any(form in text for form in list_forms(value))


def test_short_values_and_ordinary_text_stay() -> None:
    assert list_forms("a" * (SHORTEST - 1)) == ()
    text = "GET /v1/models took 12 ms for 3 tokens, key_id=Ab, max_tokens=5"
    assert redact(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "new_password1", "old_password", "recovery_key", "recovery-key", "sessionid", "session_key", "csrftoken",
        "csrfmiddlewaretoken", "proxy-authorization", "x-goog-api-key", "totp", "cluster_secret", "signing_key", "passwd",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["max_tokens", "key_id", "fingerprint", "path", "session_age", "tokens"])
def test_names_of_other_things(name: str) -> None:
    assert not is_secret_name(name)


def test_a_recovery_key_and_an_enrolment_go_by_their_look() -> None:
    key = "04002-0G30G-2GC1R-81450-P30D1-R7H04-8J2CA-1A5GQ-30CHM-6RW3M-F1ZH5-2G5CG"
    assert redact(f"typed {key}") == f"typed {REDACTED}"
    assert "JBSWY3DP" not in redact("otpauth://totp/T:a@h?secret=JBSWY3DPEHPK3PXP&issuer=T")


@pytest.mark.parametrize(
    "unit",
    [
        "a-",
        "a.b+",
        "a://b:",
        "AAAAA-",
        "password=",
        "eyJaaaaaaaa.",
        "-----BEGIN ",
        "bearer ",
        "thk_live_",
        "token:",
    ],
)
def test_a_hostile_text_does_not_take_the_square_of_its_length(unit: str) -> None:
    """Callers choose paths, and paths are logged. A second is a hundred times what it takes."""
    text = unit * (100_000 // len(unit))
    begun = time.process_time()
    redact(text)
    assert time.process_time() - begun < 1.0


def test_what_a_keyring_holds_goes_while_it_holds_it(tmp_path: Path) -> None:
    environ = {"TOKENHUB_CRED_A": "canary-of-a-variable", "TOKENHUB_CRED_A__ORIGIN": "https://a.example"}
    keyring = Keyring(environ, tmp_path)
    masker = masker_of(keyring)
    watch(masker)
    try:
        assert "canary-of-a-variable" in redact("said canary-of-a-variable")
        keyring.get_secret(a_reference(), Destination("https://a.example:443", "openai", "authorization"))
        assert redact("said canary-of-a-variable") == f"said {REDACTED}"
    finally:
        unwatch(masker)
    assert "canary-of-a-variable" in redact("said canary-of-a-variable")


def a_reference() -> object:
    """A credential that names the variable."""
    from tokenhub.core.specs import CredentialSpec  # noqa: PLC0415

    return CredentialSpec(id="1", name="a", source="env", reference="TOKENHUB_CRED_A")


def test_opened_buffers_are_searched_for_and_wiped_ones_passed_over() -> None:
    held, wiped = SecretBuffer.copy_of(b"canary-held-open"), SecretBuffer.copy_of(b"canary-wiped-away")
    wiped.wipe()
    text = "é canary-held-open, canary-wiped-away"
    assert mask_buffers(text, [wiped, held]) == f"é {REDACTED}, canary-wiped-away"


def test_what_a_request_brought_goes_for_its_length_only() -> None:
    asked: list[int] = []

    def find() -> Iterator[str]:
        asked.append(1)
        yield "typed-canary-1"

    with bringing(find):
        assert asked == [], "nobody is asked before something is written"
        assert redact("typed-canary-1") == REDACTED
    assert redact("typed-canary-1") == "typed-canary-1"


def test_a_lines_request_is_asked_after_it_is_over() -> None:
    class Request:
        tokenhub_typed = staticmethod(lambda: ["typed-canary-2"])

    made = logging.getLogger("django.request").makeRecord(
        "django.request", logging.WARNING, "f", 1, "Not Found: %s", ("/typed-canary-2",), None,
        extra={"request": Request()},
    )  # fmt: skip
    assert "typed-canary-2" not in JSONFormatter().format(made)


def test_settings_name_all_their_secrets() -> None:
    given = {
        "TOKENHUB_CONFIG": "/dev/null",
        "TOKENHUB_DATABASE_URL": "postgres://hub:p%40ss-canary@db/hub",
        "TOKENHUB_SECRET_KEY": "s" * 32,
        "TOKENHUB_KEY_PEPPER": "p" * 32,
        "TOKENHUB_PREVIOUS_KEY_PEPPERS": "q" * 32,
        "TOKENHUB_ADMIN_PASSWORD": "a" * 8,
        "TOKENHUB_ADMIN_TOKEN": "t" * 24,
        "TOKENHUB_CLUSTER_SECRET": "c" * 32,
        "TOKENHUB_METRICS_TOKEN": "m" * 16,
    }
    found = set(list_secrets(load_settings(given)))
    wanted: set[str | bytes] = {"p%40ss-canary", "p@ss-canary", "s" * 32, b"p" * 32, b"q" * 32, "a" * 8}
    assert found == wanted | {"t" * 24, "c" * 32, "m" * 16}


def test_a_line_that_can_not_be_formatted_tells_no_argument(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError("canary-in-an-argument")

    handler = LogHandler(sys.stderr)
    handler.setFormatter(JSONFormatter())
    handler.handle(logging.getLogger("t").makeRecord("t", 20, "f", 1, "%s", (Broken(),), None))
    written = capsys.readouterr().err
    assert "canary" not in written
    assert "a line of t could not be written" in written


def test_what_nobody_caught_is_redacted_too(repository: Path) -> None:
    program = (
        "import threading; from tokenhub.logs import guard_tracebacks; guard_tracebacks(); "
        "thread = threading.Thread(target=int, args=('Bearer canary-uncaught-2',)); thread.start(); thread.join(); "
        "raise ValueError('password=canary-uncaught-1')"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\nValueError: ") == 2
    assert "canary" not in done.stderr
