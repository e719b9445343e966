"""What a caller is told when no attempt gave an answer. Data plane."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.exchange import Exchange, Headers, header_value
from gateway.targets import Choice
from gateway.upstream.seam import AddressDenied
from providers.adapters.base import Failure
from tokenhub.core.errors import (
    AllAttemptsFailed,
    ContextOverflow,
    DeadlineExceeded,
    InvalidRequest,
    NotReady,
    RateLimited,
    TokenhubError,
)
from vault.engine.errors import VaultLocked

Failures = Sequence[tuple[Choice, Failure]]
Refusals = Sequence[tuple[Choice, InvalidRequest]]

Unusable = Sequence[tuple[str, TokenhubError]]

CALLERS_FAULT = range(400, 500)


async def refuse(exchange: Exchange, failures: Failures, unusable: Unusable, refusals: Refusals) -> None:
    """Answers with the provider's own refusal where it is the caller's to mend; raises a TokenhubError for all else.

    Where nothing was sent because no target can carry the request, that is the caller's to mend too.
    """
    last = failures[-1][1] if failures else None
    if last is not None and last.kind in ("fatal", "content_filter") and last.status in CALLERS_FAULT:
        await _pass_on(exchange, last)
        return
    if not failures and any(isinstance(error, VaultLocked) for _, error in unusable):
        raise VaultLocked
    if not failures and refusals:
        raise refusals[0][1]
    raise summarise(failures, unusable, refusals)


async def _pass_on(exchange: Exchange, failure: Failure) -> None:
    """The provider's message and status class, in the caller's own format."""
    body = exchange.wire.failure_body(failure, exchange.request_id)
    if exchange.sent_anything:
        error = AllAttemptsFailed(failure.message, code=failure.code or None)
        await exchange.write(exchange.wire.error_event(error, exchange.request_id), more=False)
        return
    headers: Headers = [
        (b"content-type", exchange.wire.error_type),
        *exchange.identity(),
        (b"x-tokenhub-attempts", b"%d" % exchange.attempts),
        (b"x-tokenhub-revision", b"%d" % exchange.snapshot.revision),
        # The official clients retry on their own; they need not where the request itself is wrong.
        (b"x-should-retry", b"false"),
    ]
    if exchange.losses:
        headers.append((b"x-tokenhub-translation", header_value(", ".join(exchange.losses))[:4000]))
    await exchange.answer(failure.status, headers, body)


def summarise(failures: Failures, unusable: Unusable, refusals: Refusals) -> TokenhubError:
    """The one error that stands for all attempts; `details["attempts"]` has each."""
    told = [_tell(number, choice, failure) for number, (choice, failure) in enumerate(failures, 1)]
    told += [
        {"provider": provider, "kind": "credential", "message": error.message} for provider, error in unusable
    ]
    told += [
        {
            "provider": choice.candidate.provider.name,
            "model": choice.candidate.model.name,
            "kind": "untranslatable",
            "message": error.message[:500],
        }
        for choice, error in refusals
    ]
    details = {"attempts": told}
    if not failures:
        why = "; ".join(error.message for _, error in unusable) or "every target was tried or rests"
        return NotReady(f"no target can be called: {why}", retry_after=5, details=details)
    kinds = {failure.kind for _, failure in failures}
    waits = [failure.retry_after for _, failure in failures if failure.retry_after]
    if kinds == {"rate_limited"}:
        return RateLimited(
            "every target is rate limited by its provider",
            retry_after=min(waits) if waits else 1.0,
            details=details,
        )
    if kinds == {"context_overflow"}:
        return ContextOverflow(failures[-1][1].message, details=details)
    if all(failure.status == 504 for _, failure in failures):
        code = failures[-1][1].code or None
        return DeadlineExceeded(f"no answer in time: {failures[-1][1].message}", code=code, details=details)
    denied = all(failure.code == AddressDenied.code for _, failure in failures)
    summary = "; ".join(
        f"{item['provider']}/{item['model']}: {item['message']}" for item in told if "model" in item
    )
    return AllAttemptsFailed(
        f"all {len(failures)} attempt{'s' if len(failures) > 1 else ''} failed: {summary}",
        code=AddressDenied.code if denied else None,
        retry_after=min(waits) if waits else None,
        details=details,
    )


def _tell(number: int, choice: Choice, failure: Failure) -> dict[str, object]:
    # What a provider says of our own credential can quote parts of it.
    message = (
        "the provider refused the gateway's credential" if failure.kind == "credential" else failure.message
    )
    return {
        "number": number,
        "provider": choice.candidate.provider.name,
        "model": choice.candidate.model.name,
        "kind": failure.kind,
        "upstream_status": failure.status,
        "message": message[:500],
    }
