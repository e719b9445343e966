"""What a request to the control plane brought along that no log line or error page may repeat. Control plane.

Cookies, tokens in headers, and what was typed into fields whose name says so. Read only when something is written, and only from
what the request has parsed already: looking must not read a body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from tokenhub.redaction import bringing, is_secret_name

HEADERS = ("HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_X_API_KEY", "HTTP_X_CSRFTOKEN")
TYPED = frozenset({"code", "key", "secrets"})
"""Fields of our own forms and bodies that hold a secret although other things have such names elsewhere."""
MAX_DEPTH = 8


class TypedSecretsMiddleware:
    """The outermost: says for the length of a request what must not be written of it. Serves sync and async stacks."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        # Also for lines that Django writes about the request when this is over.
        request.tokenhub_typed = partial(list_typed, request)  # type: ignore[attr-defined]
        if iscoroutinefunction(self):
            return self._answer_later(request)
        with bringing(partial(list_typed, request)):
            return self.get_response(request)

    async def _answer_later(self, request: HttpRequest) -> HttpResponseBase:
        with bringing(partial(list_typed, request)):
            response: HttpResponseBase = await self.get_response(request)
            return response


def list_typed(request: HttpRequest) -> Iterator[str]:
    """The values of the request's cookies, tokens and secret fields. Never raises for what is malformed."""
    for name in (settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME):
        if value := request.COOKIES.get(name):
            yield value
    for name in HEADERS:
        scheme, _, token = str(request.META.get(name, "")).strip().partition(" ")
        yield token.strip() or scheme
    # In the instance only once it was parsed: `request.POST` would read the body.
    form = vars(request).get("_post")
    for name, values in form.lists() if form is not None else ():
        if is_secret(name):
            yield from (value for value in values if isinstance(value, str))
    # Django REST framework parses on an object of its own, which `ControlView` leaves here.
    parsed = getattr(request, "tokenhub_parsed", None)
    if parsed is not None:
        yield from _list_leaves(vars(parsed).get("_full_data"), secret=False, depth=0)


def is_secret(name: str) -> bool:
    """Whether a form field or JSON member of this name holds what somebody typed in secret."""
    last = name.rpartition("-")[2]
    return name in TYPED or last in TYPED or is_secret_name(name)


def _list_leaves(value: Any, *, secret: bool, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if secret:
            yield value
    elif depth < MAX_DEPTH and isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _list_leaves(inner, secret=secret or is_secret(str(name)), depth=depth + 1)
    elif depth < MAX_DEPTH and isinstance(value, list | tuple):
        for inner in value:
            yield from _list_leaves(inner, secret=secret, depth=depth + 1)
