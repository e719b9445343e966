"""What a foreign server says, made fit to be told and stored: without our credential, without anybody's prompt. Data plane."""

from __future__ import annotations

from dataclasses import replace

from providers.adapters.base import Failure

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


def storable_detail(failure: Failure) -> str:
    """What the ledger keeps of a failure: our own words, or the provider's code; its prose may quote the prompt."""
    return failure.message if failure.ours else failure.code
