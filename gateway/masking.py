"""What a foreign server says, made fit to be told and stored: without our credential, without anybody's prompt. Data plane."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from providers.adapters.base import Failure
from tokenhub.core.usage import Usage

MASK = "[redacted]"


def mask_text(text: str, secret: str) -> str:
    """The text without the credential that was sent."""
    return text.replace(secret, MASK) if secret else text


def mask_failure(failure: Failure, secret: str) -> Failure:
    """A provider's failure as a caller may hear of it. A refused key is the credential's failure, whatever the body calls it."""
    kind = "credential" if failure.status == 401 else failure.kind
    return replace(
        failure,
        kind=kind,
        message=mask_text(failure.message, secret),
        code=mask_text(failure.code, secret),
        param=mask_text(failure.param, secret),
    )


def mask_usage(usage: Usage, secret: str) -> Usage:
    """The usage with its raw object's texts masked. Figures are what it is kept for; texts are a server's to choose."""
    raw = usage.raw
    if raw is None or not secret or not any(isinstance(value, str | dict | list) for value in raw.values()):
        return usage
    masked = {name: _mask_value(value, secret) for name, value in raw.items()}
    return usage if masked == raw else replace(usage, raw=masked)


def _mask_value(value: Any, secret: str) -> Any:
    if isinstance(value, str):
        return mask_text(value, secret)
    if isinstance(value, dict):
        return {mask_text(name, secret): _mask_value(item, secret) for name, item in value.items()}
    if isinstance(value, list):
        return [_mask_value(item, secret) for item in value]
    return value


def storable_detail(failure: Failure) -> str:
    """What the ledger keeps of a failure: our own words, or the provider's code; its prose may quote the prompt."""
    return failure.message if failure.ours else failure.code
