"""Takes secrets out of text that is about to be written: by value, by name, and by look. Both planes; standard library only.

Nothing is done before something is written: whoever holds live secrets is asked for them then.

    by value   what `remember` was told (for good: settings), and what each of `watch`'s maskers knows at that moment
    by name    fields and headers whose name says so: `is_secret_name`, `name=value` in text
    by look    our own keys, vendors' keys, bearer tokens, private keys, passwords in URLs
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"
SHORTEST = 8
"""Characters that a secret has at least. Shorter ones would take ordinary words out of everything."""

Masker = Callable[[str], str]
"""A text without the secrets that somebody holds right now. Must not raise, and must not keep what it is given."""

typed: ContextVar[Callable[[], Iterable[str]] | None] = ContextVar("typed", default=None)
"""Gives what the request being served brought along: cookies, tokens, passwords in a form. Asked only when something is written."""

_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_\-.])(?:authorization|api[_-]?key|x-api-key|cookie|set-cookie|csrf\w*|pass(?:wd|word|phrase)\d?|pepper|"
    r"(?:private|recovery|secret|signing)[_-]?key|secret|session(?:id|[_-]key)?|otp|totp|"
    r"(?:access|admin|auth|bearer|metrics|refresh)[_-]?token|token)$"
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
    # A printed recovery key of the vault: twelve groups of five.
    re.compile(r"\b[0-9A-Za-z]{5}([- ])[0-9A-Za-z]{5}(?:\1[0-9A-Za-z]{5}){10,11}\b"),
    re.compile(r"(?i)\botpauth://\S+"),
)
# The scheme is bounded: without that a long text of words with dashes took the square of its length.
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://[^\s:/@]*:)[^\s@/]+@", re.IGNORECASE)
_NAMED = re.compile(
    r"(?i)((?:authorization|api[_-]?key|cookie|csrf\w*token|password\d?|passphrase|pepper|recovery[_-]key|sessionid|"
    r"secret(?:[_-]?key)?|(?:access|admin|auth|metrics|refresh)[_-]?token)[\"']?\s*[:=]\s*[\"']?)([^\s\"',;&}]+)"
)

_remembered: tuple[str, ...] = ()
_maskers: list[Masker] = []


def remember(values: Iterable[str | bytes]) -> None:
    """Takes these out of everything from now on, in every form of `list_forms`. For what lives as long as the process."""
    # One set for the process, replaced as a whole, so that no reader sees half of it.
    global _remembered
    told = (value if isinstance(value, str) else _as_text(value) for value in values)
    forms = {*_remembered, *(form for value in told for form in list_forms(value))}
    _remembered = tuple(sorted(forms, key=len, reverse=True))


def watch(masker: Masker) -> None:
    """Asks `masker` whenever something is written, until `unwatch`."""
    if masker not in _maskers:
        _maskers.append(masker)


def unwatch(masker: Masker) -> None:
    """Ends a `watch`; an unknown one is ignored."""
    if masker in _maskers:
        _maskers.remove(masker)


@contextmanager
def bringing(find: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Around work for somebody who brought secrets along; `find` lists them when something is written."""
    token = typed.set(find)
    try:
        yield
    finally:
        typed.reset(token)


def redact(text: str, more: Iterable[str] = ()) -> str:
    """The text without any secret that is known by value, by name or by look; `more` are values known to the caller."""
    for masker in tuple(_maskers):
        text = masker(text)
    brought = typed.get()
    text = mask_values(text, (*more, *(brought() if brought is not None else ())))
    # One search each is many times faster than one pattern of all.
    for form in _remembered:
        if form in text:
            text = text.replace(form, REDACTED)
    for pattern in _PATTERNS:
        text = pattern.sub(REDACTED, text)
    text = _USERINFO.sub(rf"\1{REDACTED}@", text)
    return _NAMED.sub(rf"\1{REDACTED}", text)


def mask_values(text: str, values: Iterable[str]) -> str:
    """The text without these values, in every form of `list_forms`."""
    for value in values:
        for form in list_forms(value):
            if form in text:
                text = text.replace(form, REDACTED)
    return text


def is_secret_name(name: str) -> bool:
    """Whether a field, header or variable of this name holds a secret, whatever is in it."""
    return _SECRET_NAME.search(name) is not None and name not in _NOT_SECRET


def redact_value(name: str, value: Any, *, longest: int) -> Any:
    """A field's value for a log line: gone if the name is a secret's, else plain data with its text redacted and cut."""
    if is_secret_name(name):
        return REDACTED
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {
            redact(str(key)): redact_value(str(key), item, longest=longest) for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_value(name, item, longest=longest) for item in value]
    return redact(str(value))[:longest]


def list_forms(value: str) -> tuple[str, ...]:
    """A secret as it may stand in text, longest first: as it is, quoted for URLs, JSON, HTML and Python, in hex and base64.

    Base64 in each of the three ways in which it may lie in something longer. Nothing for what is shorter than SHORTEST.
    """
    if len(value) < SHORTEST:
        return ()
    data = value.encode("utf-8", "surrogatepass")
    forms = {
        value,
        quote(value, safe="", errors="replace"),
        quote_plus(value, errors="replace"),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        html.escape(value),
        repr(value)[1:-1],
        data.hex(),
        data.hex().upper(),
    }
    for shift, first in enumerate((0, 2, 3)):
        # Of the characters at both ends some bits are of what stands beside the secret.
        encoded = base64.b64encode(bytes(shift) + data + bytes(2))
        inner = encoded[first : (shift + len(data)) * 8 // 6].decode()
        if len(inner) >= SHORTEST:
            forms |= {inner, inner.translate(_URL_SAFE)}
    return tuple(sorted(forms, key=len, reverse=True))


_URL_SAFE = str.maketrans("+/", "-_")


def _as_text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
