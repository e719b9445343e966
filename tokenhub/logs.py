"""Log lines: JSON or for a console, with the request's id, and with secrets removed. Both planes; no Django.

Redaction is the last net, not the plan: no code hands a secret or a body to a logger on purpose.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request being served, set by whoever serves it; each line of that request carries it."""

REDACTED = "[redacted]"
_LONGEST = 16_384

_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_\-.])(?:authorization|api[_-]?key|x-api-key|cookie|set-cookie|csrf\w*|pass(?:word|phrase)|pepper|"
    r"private[_-]?key|secret(?:[_-]?key)?|session(?:id)?|(?:access|admin|auth|bearer|metrics|refresh)[_-]?token|token)$"
)
_NOT_SECRET = frozenset({"max_token", "token_count"})
_PATTERNS = (
    re.compile(r"\bth[ka]_(?:live|test)_[0-9A-Za-z_]{4,}"),
    re.compile(r"\bsk-[0-9A-Za-z_-]{8,}"),
    re.compile(r"(?i)\b(?:bearer|basic)\s+[0-9A-Za-z._~+/=-]{8,}"),
    re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"\bAIza[0-9A-Za-z_-]{30,}"),
    re.compile(r"\beyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]*"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL),
)
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@/]+@", re.IGNORECASE)
_NAMED = re.compile(
    r"(?i)((?:authorization|api[_-]?key|cookie|password|passphrase|pepper|secret(?:[_-]?key)?|"
    r"(?:access|admin|auth|metrics|refresh)[_-]?token)[\"']?\s*[:=]\s*[\"']?)([^\s\"',;&}]+)"
)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def redact(text: str) -> str:
    """The text without anything that looks like a key, a token, a private key or a URL's password."""
    for pattern in _PATTERNS:
        text = pattern.sub(REDACTED, text)
    text = _USERINFO.sub(rf"\1{REDACTED}@", text)
    return _NAMED.sub(rf"\1{REDACTED}", text)


def redact_value(name: str, value: Any) -> Any:
    """A field's value for a log line: gone if the name is a secret's, else plain data with its text redacted."""
    if _SECRET_NAME.search(name) and name not in _NOT_SECRET:
        return REDACTED
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {redact(str(key)): redact_value(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_value(name, item) for item in value]
    return redact(str(value))[:_LONGEST]


def _describe(record: logging.LogRecord) -> dict[str, Any]:
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": redact(record.getMessage())[:_LONGEST],
    }
    identity = getattr(record, "request_id", "") or request_id.get()
    if identity:
        line["request_id"] = str(identity)
    for name, value in vars(record).items():
        # Django adds the request object itself; its text holds nothing but the path, which may hold a key.
        if name not in _STANDARD and name not in line and not name.startswith("_"):
            line[name] = redact_value(name, value)
    if record.exc_info and record.exc_info[0] is not None:
        line["exception"] = redact("".join(traceback.format_exception(*record.exc_info)))[-_LONGEST:]
    elif record.exc_text:
        line["exception"] = redact(record.exc_text)[-_LONGEST:]
    if record.stack_info:
        line["stack"] = redact(record.stack_info)[-_LONGEST:]
    return line


class JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON, redacted."""
        return json.dumps(_describe(record), ensure_ascii=False, default=str)


class ConsoleFormatter(logging.Formatter):
    """One line to read: time, level, logger, message, then the other fields; an exception below."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, redacted; line breaks in the message are escaped, so that it can't feign a line."""
        line = _describe(record)
        head = f"{line.pop('time')} {line.pop('level'):7} {line.pop('logger')}: "
        message = str(line.pop("message")).replace("\r", "\\r").replace("\n", "\\n")
        below = [str(line.pop(name)) for name in ("exception", "stack") if name in line]
        fields = "".join(f" {name}={value!r}" for name, value in line.items())
        return "\n".join([head + message + fields, *below])


def build_logging(level: str, form: str) -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig`: everything to standard error, in one form."""
    formatter = f"{__name__}.{'JSONFormatter' if form == 'json' else 'ConsoleFormatter'}"
    # Below info these loggers write what passes through them: frames, forms, the values in a template.
    discreet = "INFO" if level.upper() == "DEBUG" else level.upper()
    handler = {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": handler},
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": {
            # Django's own handlers would print each line a second time, without redaction.
            "django": {"handlers": [], "level": level.upper(), "propagate": True},
            "django.server": {"handlers": [], "level": level.upper(), "propagate": True},
            "django.template": {"level": discreet},
            "django.db.backends": {"level": "INFO"},  # at debug it logs each query with its values
            "uvicorn": {"handlers": [], "level": level.upper(), "propagate": True},
            "uvicorn.error": {"level": discreet},
            "websockets": {"level": discreet},
            # Named so that configuring "uvicorn" above does not switch it on again.
            "uvicorn.access": {"handlers": [], "level": "CRITICAL", "propagate": False},
            "tokenhub.audit": {"level": "INFO"},  # it is shipped from here: no level takes it away
            "asyncio": {"level": "WARNING"},
            "httpx": {"level": "WARNING"},  # at info it logs each URL
            "httpcore": {"level": "WARNING"},
        },
    }
