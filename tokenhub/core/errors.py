"""The whole error tree, of both planes. Each surface renders it once, in its own shape.

TokenhubError
├── CallerError                     the caller can mend it (4xx)
│   ├── InvalidRequest              400  invalid_request
│   │   ├── InvalidJSON             400  invalid_json
│   │   └── ContextOverflow         400  context_length_exceeded
│   ├── AuthenticationFailed        401  invalid_api_key
│   ├── PermissionDenied            403  permission_denied
│   ├── GuardBlocked                403  guard_blocked
│   ├── NotFound                    404  not_found
│   │   └── ModelNotFound           404  model_not_found
│   ├── MethodNotAllowed            405  method_not_allowed
│   ├── RequestTimeout              408  request_timeout
│   ├── Conflict                    409  conflict
│   │   ├── IdempotencyConflict     409  idempotency_conflict
│   │   └── IdempotencyRunning      409  idempotency_running
│   ├── PayloadTooLarge             413  payload_too_large
│   ├── UnsupportedMediaType        415  unsupported_media_type
│   ├── NothingEligible             422  nothing_eligible
│   └── RateLimited                 429  rate_limited
├── ServiceError                    ours or the provider's (5xx)
│   ├── InternalError               500  internal_error
│   ├── AllAttemptsFailed           502  all_attempts_failed
│   ├── OutputInvalid               502  output_invalid
│   ├── NotReady                    503  not_ready
│   ├── GuardUnavailable            503  guard_unavailable
│   └── DeadlineExceeded            504  deadline_exceeded
└── ConfigurationError              an operator can mend it (start-up, publishing)
    ├── SettingInvalid
    ├── SnapshotInvalid
    └── RevisionStale
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class TokenhubError(Exception):
    """Base of every error that Tokenhub raises on purpose.

    `message` is shown to the caller and never carries a secret; `param` is a JSON path or a header's name;
    `hint` says how to mend it; `retry_after` is in seconds.
    """

    code = "internal_error"
    status = 500
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.hint = hint
        self.retry_after = retry_after
        self.details: Mapping[str, Any] = details or {}
        if code is not None:
            self.code = code


class CallerError(TokenhubError):
    """The caller can mend it."""

    code = "invalid_request"
    status = 400


class InvalidRequest(CallerError):
    """A field is missing, of the wrong type or out of bounds; `param` names it."""


class InvalidJSON(InvalidRequest):
    """The body is not one JSON object in UTF-8 with unique keys and finite numbers."""

    code = "invalid_json"


class ContextOverflow(InvalidRequest):
    """The prompt is longer than the model's context."""

    code = "context_length_exceeded"


class AuthenticationFailed(CallerError):
    """No key, a malformed one, or one that is unknown, revoked or expired."""

    code = "invalid_api_key"
    status = 401


class PermissionDenied(CallerError):
    """The key is valid but may not do this; the message names the scope or the model."""

    code = "permission_denied"
    status = 403


class GuardBlocked(CallerError):
    """A guard of the request's policy refuses the request or its answer. The message names guard and kind, never the text."""

    code = "guard_blocked"
    status = 403


class NotFound(CallerError):
    """No such path or object."""

    code = "not_found"
    status = 404


class ModelNotFound(NotFound):
    """No model or alias of that name is visible to this key; `details["near"]` lists near names."""

    code = "model_not_found"


class MethodNotAllowed(CallerError):
    """The path exists, with another method."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(CallerError):
    """The caller sent its request too slowly."""

    code = "request_timeout"
    status = 408
    retryable = True


class Conflict(CallerError):
    """The object changed meanwhile, or the name is taken."""

    code = "conflict"
    status = 409


class IdempotencyConflict(Conflict):
    """An Idempotency-Key came with another request than before, or what it stands for can't be told again."""

    code = "idempotency_conflict"


class IdempotencyRunning(Conflict):
    """The first request with this Idempotency-Key is still under way."""

    code = "idempotency_running"
    retryable = True


class PayloadTooLarge(CallerError):
    """The body is over the limit, which the message names."""

    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(CallerError):
    """A content type or encoding that is not taken."""

    code = "unsupported_media_type"
    status = 415


class NothingEligible(CallerError):
    """The model is known, but no target can serve this request; `details["candidates"]` says why for each."""

    code = "nothing_eligible"
    status = 422


class RateLimited(CallerError):
    """A limit was hit, here or at every provider."""

    code = "rate_limited"
    status = 429
    retryable = True


class ServiceError(TokenhubError):
    """Not the caller's fault."""


class InternalError(ServiceError):
    """A fault of ours; the log has it under the request id."""


class AllAttemptsFailed(ServiceError):
    """Every attempt failed; `details["attempts"]` says how each one did."""

    code = "all_attempts_failed"
    status = 502
    retryable = True


class OutputInvalid(ServiceError):
    """A model's answer, and its repair, are not what the request wants of them; both are accounted."""

    code = "output_invalid"
    status = 502


class NotReady(ServiceError):
    """Tokenhub can't serve now: no snapshot yet, shutting down, or the disk is full."""

    code = "not_ready"
    status = 503
    retryable = True


class GuardUnavailable(ServiceError):
    """A guard that must have its say can't be asked."""

    code = "guard_unavailable"
    status = 503
    retryable = True


class DeadlineExceeded(ServiceError):
    """One of the four deadlines passed; the message names it and its length."""

    code = "deadline_exceeded"
    status = 504
    retryable = True


class ConfigurationError(TokenhubError):
    """An operator can mend it."""

    code = "configuration_error"


class SettingInvalid(ConfigurationError):
    """A setting is unknown, missing or of the wrong form; the message names it, its source and the mend."""

    code = "setting_invalid"


class SnapshotInvalid(ConfigurationError):
    """A snapshot can't be decoded or does not hold together; the one before stays in force."""

    code = "snapshot_invalid"


class RevisionStale(ConfigurationError):
    """A snapshot with a revision not above the current one was offered."""

    code = "revision_stale"
