"""Log lines: JSON or for a console, with the request's id, and with secrets removed. Both planes; no Django.

Redaction (`tokenhub.redaction`) is the last net, not the plan: no code hands a secret or a body to a logger on purpose.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from contextlib import nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from tokenhub.redaction import bringing, redact, redact_value

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request being served, set by whoever serves it; each line of that request carries it."""

_LONGEST = 16_384

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def _describe(record: logging.LogRecord) -> dict[str, Any]:
    # Django's lines about a request that is over carry the request.
    find = getattr(getattr(record, "request", None), "tokenhub_typed", None)
    with bringing(find) if find is not None else nullcontext():
        return _describe_redacted(record)


def _describe_redacted(record: logging.LogRecord) -> dict[str, Any]:
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
            line[name] = redact_value(name, value, longest=_LONGEST)
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


class LogHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes lines. One that can't be formatted is told by its logger only: logging's own way prints its arguments."""

    def handleError(self, record: logging.LogRecord) -> None:
        """One line, without arguments."""
        error = sys.exc_info()[0]
        sys.stderr.write(f"a line of {record.name} could not be written: {getattr(error, '__name__', '')}\n")


def guard_tracebacks() -> None:
    """What nobody caught is printed through redaction too: in this process's main thread, other threads, destructors."""
    sys.excepthook = _print_uncaught
    threading.excepthook = lambda uncaught: _print_uncaught(
        uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback
    )
    sys.unraisablehook = lambda unraised: _print_uncaught(
        unraised.exc_type, unraised.exc_value, unraised.exc_traceback
    )


def _print_uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    if issubclass(kind, SystemExit):
        return
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def build_logging(level: str, form: str) -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig`: everything to standard error, in one form."""
    formatter = f"{__name__}.{'JSONFormatter' if form == 'json' else 'ConsoleFormatter'}"
    # Below info these loggers write what passes through them: frames, forms, the values in a template.
    discreet = "INFO" if level.upper() == "DEBUG" else level.upper()
    handler = {"class": f"{__name__}.LogHandler", "formatter": "line", "stream": "ext://sys.stderr"}
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
