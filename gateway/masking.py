"""What a foreign server says, made fit to be told and stored: without our credential, without anybody's prompt. Data plane."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from providers.adapters.base import Failure
from tokenhub.core.secret_bytes import Secret, holds_secret, mask_secret
from tokenhub.core.usage import Usage

MASK = "[redacted]"


def mask_text(text: str, secret: Secret) -> str:
    """The text without the credential that was sent."""
    return mask_secret(text, secret, MASK) if text else text


def mask_failure(failure: Failure, secret: Secret) -> Failure:
    """A provider's failure as a caller may hear of it. A refused key is the credential's failure, whatever the body calls it."""
    kind = "credential" if failure.status == 401 else failure.kind
    return replace(
        failure,
        kind=kind,
        message=mask_text(failure.message, secret),
        code=mask_text(failure.code, secret),
        param=mask_text(failure.param, secret),
    )


def mask_usage(usage: Usage, secret: Secret) -> Usage:
    """The usage with its raw object's texts masked. Figures are what it is kept for; texts are a server's to choose."""
    raw = usage.raw
    if raw is None or not secret or not _holds(raw, secret):
        return usage
    return replace(
        usage, raw={mask_text(name, secret): _mask_value(item, secret) for name, item in raw.items()}
    )


def _holds(value: Any, secret: Secret) -> bool:
    """Whether a text somewhere in the value holds the secret. Mostly none does, and nothing needs to be copied."""
    if isinstance(value, str):
        return holds_secret(value, secret)
    if isinstance(value, dict):
        for name, item in value.items():
            if holds_secret(name, secret) or (type(item) is not int and _holds(item, secret)):
                return True
    elif isinstance(value, list):
        return any(_holds(item, secret) for item in value)
    return False


def _mask_value(value: Any, secret: Secret) -> Any:
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
