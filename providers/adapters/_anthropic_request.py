"""Chooses headers, path and API version of a request to Anthropic's API. Data plane; pure, no I/O.

`anthropic-version` 2026-10-21 refuses sampling parameters, documents in assistant messages and citations on a
user's text (platform.claude.com, "Migration to 2026-10-21"); 2023-06-01 takes them. So the caller's version
goes on unless the body holds one.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from providers.adapters.base import Headers, Inbound, Target, auth_value
from tokenhub.core.errors import SettingInvalid
from tokenhub.core.secret_bytes import SecretBytes

LEGACY_VERSION: Final = b"2023-06-01"
"""Also what goes out where the caller named no version: every server knows it."""

_VERSION: Final = re.compile(rb"\d{4}-\d{2}-\d{2}")
_CONTENT: Final = (b'"document"', b'"citations"')


class _Sampling(msgspec.Struct):
    temperature: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    top_p: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    top_k: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw


class _Block(msgspec.Struct):
    type: str = ""
    citations: list[msgspec.Raw] | None = None


_sampling_decoder = msgspec.json.Decoder(_Sampling)
_messages_decoder = msgspec.json.Decoder(list[_Message])
_blocks_decoder = msgspec.json.Decoder(list[_Block])


def choose_version(pinned: str, wanted: bytes, body: bytes) -> bytes:
    """The API version to send: the profile's, else the caller's where the body allows it, else 2023-06-01."""
    if pinned:
        return pinned.encode("ascii", "replace")
    if not _VERSION.fullmatch(wanted) or wanted == LEGACY_VERSION:
        return LEGACY_VERSION
    return LEGACY_VERSION if _needs_legacy(body) else wanted


def build_headers(target: Target, version: bytes, inbound: Inbound | None, *, stream: bool) -> Headers:
    """Content headers, version, betas and the provider's own credential. Of the caller's headers only
    `anthropic-beta` goes on.

    `anthropic-dangerous-direct-browser-access` stays behind: it is a browser's plea to the server that it
    speaks to, and that is this gateway. The caller's `authorization`, `x-api-key` and telemetry
    (`x-stainless-*`) never leave it.
    """
    headers: dict[bytes, bytes | SecretBytes] = {
        b"content-type": b"application/json",
        b"accept": b"text/event-stream" if stream else b"application/json",
        b"anthropic-version": version,
    }
    headers.update(_credential(target))
    betas = [inbound.headers.get(b"anthropic-beta", b"")] if inbound is not None else []
    for name, value in target.provider.headers:
        wire_name, wire_value = name.lower().encode("ascii"), value.encode("latin-1")
        if wire_name == b"anthropic-beta":
            betas.append(wire_value)
        else:
            headers[wire_name] = wire_value
    if joined := b",".join(beta for beta in betas if beta):
        headers[b"anthropic-beta"] = joined
    return tuple(headers.items())


def build_path(target: Target, path: str, query: bytes) -> bytes:
    """The path with the endpoint's prefix; of the query only `beta=true` goes on, as SDKs' beta routes send
    it."""
    full = (target.endpoint.base_path + path).encode("ascii")
    pairs = parse_qsl(query.decode("latin-1"), max_num_fields=64) if len(query) <= 4_096 else []
    return full + b"?beta=true" if ("beta", "true") in pairs else full


def _credential(target: Target) -> Headers:
    secret = target.secret
    if not secret:
        return ()
    # What is sealed was checked when it was.
    if isinstance(secret, str) and not (secret.isascii() and secret.isprintable()):
        raise SettingInvalid(
            f"the credential of provider {target.provider.name} holds characters that no header can carry"
        )
    if target.provider.profile.get("auth", "x-api-key") == "bearer":
        return ((b"authorization", auth_value("Bearer", secret)),)
    return ((b"x-api-key", auth_value("", secret)),)


def _needs_legacy(body: bytes) -> bool:
    """Whether the body holds what only 2023-06-01 takes. Messages without either word are not read."""
    try:
        outline = _sampling_decoder.decode(body)
        if any(value is not msgspec.UNSET for value in (outline.temperature, outline.top_p, outline.top_k)):
            return True
        messages = b"" if outline.messages is msgspec.UNSET else bytes(outline.messages)
        if not any(word in messages for word in _CONTENT):
            return False
        return any(_holds_legacy(message) for message in _messages_decoder.decode(messages))
    except ValueError:
        # A body of another form is the provider's to refuse.
        return False


def _holds_legacy(message: _Message) -> bool:
    if bytes(message.content)[:1] != b"[":
        return False
    for block in _blocks_decoder.decode(message.content):
        if block.type == "document" and message.role == "assistant":
            return True
        if block.type == "text" and message.role == "user" and block.citations:
            return True
    return False
