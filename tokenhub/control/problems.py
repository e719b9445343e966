"""Every error of the admin API as `application/problem+json` (RFC 9457). Control plane.

Body: `type`, `title`, `status`, `detail`, `code`, `request_id`, and where known `hint`, `param`, `details` and
`errors` (one `{path, code, message}` a field; the path is a JSON path such as `endpoints[0].host`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import (
    NON_FIELD_ERRORS,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
    ValidationError,
)
from django.db.models import ProtectedError, RestrictedError
from django.http import Http404, HttpRequest
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.views import set_rollback

from tokenhub.control.callers import request_id_of
from tokenhub.core import errors

MEDIA_TYPE = "application/problem+json"
REQUEST_ID_HEADER = "x-tokenhub-request-id"
CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    409: "conflict",
    415: "unsupported_media_type",
    429: "rate_limited",
}
log = logging.getLogger(__name__)

Problem = dict[str, Any]


def problem(status: int, code: str, detail: str, **extra: Any) -> Problem:
    """The members that every problem has, and those of `extra` that are neither None nor empty."""
    body: Problem = {
        "type": f"urn:tokenhub:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    body.update({name: value for name, value in extra.items() if value})
    return body


def problem_response(
    request: HttpRequest, body: Problem, headers: Mapping[str, str] | None = None
) -> Response:
    """A problem as DRF's response, with the request's id in body and header."""
    body["request_id"] = request_id_of(request)
    stamped = {**(headers or {}), REQUEST_ID_HEADER: body["request_id"]}
    return Response(body, status=body["status"], content_type=MEDIA_TYPE, headers=stamped)


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response:
    """DRF's EXCEPTION_HANDLER. What nobody expected is logged under the request id and told to nobody."""
    set_rollback()
    request: HttpRequest = context["request"]._request
    body = describe(exc)
    headers: dict[str, str] = {}
    if body["status"] == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("admin API %s %s failed", request.method, request_id_of(request), exc_info=exc)
    if challenge := getattr(exc, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if retry_after := getattr(exc, "retry_after", None) or getattr(exc, "wait", None):
        headers["Retry-After"] = str(max(1, round(retry_after)))
    return problem_response(request, body, headers)


def describe(exc: Exception) -> Problem:
    """The problem that stands for an exception of ours, of Django's or of DRF's."""
    match exc:
        case errors.TokenhubError():
            return _ours(exc)
        case exceptions.ValidationError():
            return _invalid(list(_flatten(exc.get_full_details())))
        case ValidationError():
            return _invalid(list(_django_fields(exc)))
        case Http404():
            return problem(404, "not_found", "No such object or path.")
        case PermissionDenied():
            return problem(403, "permission_denied", str(exc) or "You may not do this.")
        case RequestDataTooBig():
            limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
            return problem(413, errors.PayloadTooLarge.code, f"The body is longer than {limit} bytes.")
        case SuspiciousOperation():
            return problem(
                400, "invalid_request", "This request is not one that a well-meaning client sends."
            )
        case ProtectedError() | RestrictedError():
            return _in_use(exc)
        case exceptions.APIException():
            code = CODES.get(exc.status_code, str(exc.default_code))
            return problem(exc.status_code, code, str(exc.detail))
    return problem(500, "internal_error", "A fault of ours; the log has it under the request id.")


def _ours(exc: errors.TokenhubError) -> Problem:
    details = dict(exc.details)
    by_field = details.pop("fields", None) or ({exc.param: [exc.message]} if exc.param else {})
    fields = [
        {"path": "" if name == NON_FIELD_ERRORS else name, "code": exc.code, "message": text}
        for name, texts in by_field.items()
        for text in texts
    ]
    return problem(
        exc.status, exc.code, exc.message, hint=exc.hint, param=exc.param, details=details, errors=fields
    )


def _invalid(fields: list[dict[str, str]]) -> Problem:
    first = fields[0] if fields else {"path": "", "message": "Invalid."}
    detail = f"{first['path']}: {first['message']}" if first["path"] else first["message"]
    return problem(400, "invalid_request", detail, errors=fields)


def _in_use(exc: ProtectedError | RestrictedError) -> Problem:
    objects = exc.protected_objects if isinstance(exc, ProtectedError) else exc.restricted_objects
    users = sorted(f"{item._meta.verbose_name} {item}" for item in objects)
    detail = f"Still used by {len(users)}: " + ", ".join(users[:10]) + ("." if len(users) <= 10 else ", …")
    return problem(409, "conflict", detail, details={"used_by": users[:100]})


def _flatten(details: Any, path: str = "") -> Iterator[dict[str, str]]:
    """DRF's nested `{message, code}` tree as flat fields with JSON paths."""
    if isinstance(details, Mapping):
        if set(details) == {"message", "code"} and not isinstance(details["message"], (Mapping, list)):
            yield {"path": path, "code": str(details["code"]), "message": str(details["message"])}
            return
        for name, inner in details.items():
            if name == api_settings.NON_FIELD_ERRORS_KEY:
                yield from _flatten(inner, path)
            elif isinstance(name, int):
                yield from _flatten(inner, f"{path}[{name}]")
            else:
                yield from _flatten(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(details, list):
        leaves = all(isinstance(item, Mapping) and set(item) == {"message", "code"} for item in details)
        for index, item in enumerate(details):
            yield from _flatten(item, path if leaves else f"{path}[{index}]")


def _django_fields(exc: ValidationError) -> Iterator[dict[str, str]]:
    """Django's validation error as flat fields."""
    by_field = exc.error_dict if hasattr(exc, "error_dict") else {NON_FIELD_ERRORS: exc.error_list}
    for name, found in by_field.items():
        for error in found:
            for message in error.messages:
                path = "" if name == NON_FIELD_ERRORS else name
                yield {"path": path, "code": str(error.code or "invalid"), "message": str(message)}
