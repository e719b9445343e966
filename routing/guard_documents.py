"""The guards of a policy's document, read into GuardSpecs and written back. Control plane; pure.

{"name": "pii", "kind": "redact", "side": "both", "action": "mask", "patterns": ["email", "card"],
 "own": {"ticket": "TCK-[0-9]{6}"}, "restore": true}
{"name": "review", "kind": "webhook", "side": "before", "url": "https://…", "secret": "TOKENHUB_GUARD_REVIEW",
 "timeout_ms": 2000, "failure": "closed"}
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, get_args
from urllib.parse import urlsplit

from routing.engine.detection import MOST_OWN, PATTERNS, check_own
from routing.reading import Reader
from tokenhub.core.policies import GuardAction, GuardFailure, GuardKind, GuardSide, GuardSpec

MAX_GUARDS: Final = 10
MAX_TIMEOUT_MS: Final = 60_000
KINDS: Final[tuple[GuardKind, ...]] = get_args(GuardKind)
SIDES: Final[tuple[GuardSide, ...]] = get_args(GuardSide)
ACTIONS: Final[tuple[GuardAction, ...]] = get_args(GuardAction)
FAILURES: Final[tuple[GuardFailure, ...]] = get_args(GuardFailure)

_REDACT: Final = ("action", "patterns", "own", "restore")
_WEBHOOK: Final = ("url", "secret", "timeout_ms", "failure")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,38}[a-z0-9])?", re.ASCII)
_LABEL = re.compile(r"[a-z](?:[a-z0-9_-]{0,30}[a-z0-9])?", re.ASCII)
_SECRET = re.compile(r"TOKENHUB_GUARD_[A-Z0-9_]{1,100}", re.ASCII)
_LONGEST_URL = 1000


def read_guards(top: Reader) -> tuple[GuardSpec, ...]:
    """The guards of a document; what is wrong is noted in `top`, and such a guard is left out."""
    found: dict[str, GuardSpec] = {}
    for one in top.inners("guards", ("name", "kind", "side", *_REDACT, *_WEBHOOK), MAX_GUARDS):
        guard = _read_guard(one)
        if guard.name in found:
            one.wrong("name", f"{guard.name!r} stands there twice", "give each guard a name of its own")
        found.setdefault(guard.name, guard)
    return tuple(found.values())


def _read_guard(one: Reader) -> GuardSpec:
    kind = one.choice("kind", KINDS, "redact")
    name = one.get("name", "")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        one.wrong("name", f"{one.show('name')} is no name of a guard", "use small letters, digits and dashes")
        name = ""
    for foreign in _WEBHOOK if kind == "redact" else _REDACT:
        if one.has(foreign):
            one.wrong(foreign, f"a {kind} guard has none", "leave it out")
    side = one.choice("side", SIDES, "both")
    return _read_redacting(one, name, side) if kind == "redact" else _read_webhook(one, name, side)


def _read_redacting(one: Reader, name: str, side: GuardSide) -> GuardSpec:
    before = len(one.problems)
    action = one.choice("action", ACTIONS, "mask")
    patterns = one.members("patterns", tuple(PATTERNS))
    own = dict(_read_own(one))
    restore = one.truth("restore", False)
    if not patterns and not own and len(one.problems) == before:
        one.wrong(
            "patterns", "it looks for nothing", f"name some of {', '.join(PATTERNS)}, or own expressions"
        )
    if restore and (action != "mask" or side == "after"):
        one.wrong("restore", "nothing of a request is masked", "mask before, or leave it out")
    return GuardSpec(
        name, "redact", side, action, patterns=tuple(patterns), own=tuple(own.items()), restore=restore
    )


def _read_own(one: Reader) -> Iterable[tuple[str, str]]:
    for label, expression in one.mapping("own", MOST_OWN).items():
        place = f"own.{label}"
        if _LABEL.fullmatch(label) is None or label in PATTERNS:
            one.wrong(
                place, f"{label!r} is no label, or a built-in one", "use small letters, digits and dashes"
            )
        elif not isinstance(expression, str):
            one.wrong(place, "the expression is no text", "give an RE2 expression")
        elif fault := check_own(expression):
            one.wrong(
                place, f"the expression is refused: {fault}", "give an RE2 expression that matches something"
            )
        else:
            yield label, expression


def _read_webhook(one: Reader, name: str, side: GuardSide) -> GuardSpec:
    url, secret = one.get("url", ""), one.get("secret", "")
    if not isinstance(url, str) or not _is_url(url):
        one.wrong(
            "url",
            f"{one.show('url')} is no URL of a web server",
            "give one such as https://guard.example/check",
        )
        url = ""
    if not isinstance(secret, str) or (secret and _SECRET.fullmatch(secret) is None):
        one.wrong(
            "secret",
            "that is not the name of a variable for guards' secrets",
            "name one that begins with TOKENHUB_GUARD_; the secret itself never stands here",
        )
        secret = ""
    return GuardSpec(
        name,
        "webhook",
        side,
        url=url,
        secret=secret,
        timeout_ms=one.whole("timeout_ms", 2000, 10, MAX_TIMEOUT_MS, "milliseconds"),
        failure=one.choice("failure", FAILURES, "closed"),
    )


def _is_url(url: str) -> bool:
    """Whether it is an http(s) URL without a user's name and without characters that no URL has."""
    if not url.isascii() or len(url) > _LONGEST_URL or not url.isprintable() or " " in url or "\\" in url:
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and port != 0
    )


def write_guards(guards: Iterable[GuardSpec]) -> list[dict[str, Any]]:
    """The guards as a document has them."""
    return [_write_guard(guard) for guard in guards]


def _write_guard(guard: GuardSpec) -> dict[str, Any]:
    head: dict[str, Any] = {"name": guard.name, "kind": guard.kind, "side": guard.side}
    if guard.kind == "redact":
        return head | {
            "action": guard.action,
            "patterns": list(guard.patterns),
            "own": dict(guard.own),
            "restore": guard.restore,
        }
    return head | {
        "url": guard.url,
        "secret": guard.secret,
        "timeout_ms": guard.timeout_ms,
        "failure": guard.failure,
    }
