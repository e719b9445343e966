"""Log lines: JSON with the request's id, and nothing that looks like a secret."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tokenhub.core.keys import mint_key
from tokenhub.logs import ConsoleFormatter, JSONFormatter, redact, request_id

SECRETS = [
    mint_key("thk"),
    mint_key("tha"),
    "sk-proj-AbCdEf0123456789",
    "sk-ant-api03-AbCdEf0123456789",
    "Bearer abcdefgh12345678",
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0abc.sflKxwRJSMeKKF2QT4",
    "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----",
]


def record(message: str, *arguments: object, **extra: object) -> logging.LogRecord:
    """A record as a logger would make it."""
    return logging.getLogger("t").makeRecord("t", logging.INFO, "f", 1, message, arguments, None, extra=extra)


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: secret[:8])
@pytest.mark.parametrize("form", [JSONFormatter(), ConsoleFormatter()])
def test_secrets_are_removed_from_message_fields_and_exceptions(form: logging.Formatter, secret: str) -> None:
    made = record("got %s", secret, detail={"deep": [secret]})
    try:
        raise ValueError(f"bad {secret}")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = form.format(made)
    middle = secret[10:-4]
    assert middle not in line
    assert "[redacted]" in line


@pytest.mark.parametrize(
    "name", ["authorization", "x-api-key", "api_key", "password", "key_pepper", "admin_token", "Cookie"]
)
def test_fields_with_a_secrets_name_are_removed_whatever_they_hold(name: str) -> None:
    assert json.loads(JSONFormatter().format(record("x", detail={name: "plain"})))["detail"] == {
        name: "[redacted]"
    }


def test_counts_of_tokens_and_ids_stay() -> None:
    fields = {"input_tokens": 5, "max_tokens": 7, "key_id": "AbC", "path": "/v1/models"}
    line = json.loads(JSONFormatter().format(record("x", **fields)))
    assert {name: line[name] for name in fields} == fields


def test_a_password_in_a_url_is_removed() -> None:
    assert redact("at postgres://user:hunter22@host/name") == "at postgres://user:[redacted]@host/name"


def test_each_line_is_one_json_object_with_the_requests_id() -> None:
    token = request_id.set("req_1")
    try:
        line = JSONFormatter().format(record("two\nlines"))
    finally:
        request_id.reset(token)
    assert "\n" not in line
    assert json.loads(line)["request_id"] == "req_1"
    assert json.loads(line)["message"] == "two\nlines"


def test_a_message_can_not_feign_a_line_on_the_console() -> None:
    assert "\n" not in ConsoleFormatter().format(record("a\n2026-01-01T00:00:00 info x: b"))


def test_django_writes_through_the_same_redaction(repository: Path, tmp_path: Path) -> None:
    program = (
        "import django, logging; django.setup(); "
        f"logging.getLogger('django.request').error('failed with {SECRETS[0]}')"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "tokenhub.settings", "TOKENHUB_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=True
    )
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["message"] == "failed with [redacted]"


CONTENT_LOGGERS = (
    "django.db.backends",
    "django.template",
    "uvicorn.error",
    "websockets",
    "websockets.server",
)


@pytest.mark.parametrize(("level", "shown"), [("debug", "info"), ("info", "info"), ("error", "error")])
def test_loggers_that_write_content_at_debug_never_go_below_info(
    repository: Path, level: str, shown: str
) -> None:
    program = (
        "import json, logging.config; from tokenhub.logs import build_logging; "
        f"logging.config.dictConfig(build_logging({level!r}, 'json')); "
        f"names = {CONTENT_LOGGERS!r} + ('tokenhub',); "
        "print(json.dumps([logging.getLevelName(logging.getLogger(n).getEffectiveLevel()) for n in names]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True
    )
    *content, ours = json.loads(done.stdout)
    assert content[1:] == [shown.upper()] * 4
    assert content[0] == "INFO"
    assert ours == level.upper()
