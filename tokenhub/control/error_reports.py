"""Django's error pages and reports without secrets, whether DEBUG is on or not. Control plane.

Django's own filter hides by name only, leaves local variables as they are unless a function is marked, and does nothing at all
while DEBUG is on, when the page goes to whoever asked.
"""

from __future__ import annotations

import re
from types import FrameType
from typing import Any

from django.http import HttpRequest
from django.utils.datastructures import MultiValueDict
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from tokenhub.control.typed_secrets import is_secret, list_typed
from tokenhub.redaction import REDACTED, redact

_LONGEST = 2_000
_LOOKED_AT = 4_000
"""Of a long value only the beginning is shown; what is looked at goes on behind it, so that no secret is cut in two there."""


class _Shown:
    """A value's text, which a report prints as it is."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class SecretsFilter(SafeExceptionReporterFilter):
    """Hides by name, and takes every secret known by value out of the rest. Always."""

    cleansed_substitute = REDACTED
    hidden_settings = re.compile(
        r"API|AUTH|TOKEN|KEY|SECRET|PASS|PEPPER|SIGNATURE|SESSION|CSRF|COOKIE|DATABASE_URL|CREDENTIAL|CODE|OTP",
        re.IGNORECASE,
    )

    def is_active(self, request: HttpRequest | None) -> bool:
        """True: a page for developers has no secrets either."""
        return True

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        """Django's way, and by value."""
        cleansed = super().cleanse_setting(key, value)
        # Some settings only look like text until they are asked.
        return redact(str(cleansed)) if isinstance(cleansed, str) else cleansed

    def get_post_parameters(self, request: HttpRequest | None) -> Any:
        """The form without what its fields' names give away as secret."""
        shown: MultiValueDict[str, str] = MultiValueDict()
        for name, values in (request.POST if request is not None else MultiValueDict()).lists():
            shown.setlist(
                redact(name), [REDACTED if is_secret(name) else redact(str(value)) for value in values]
            )
        return shown

    def get_traceback_frame_variables(
        self, request: HttpRequest | None, tb_frame: FrameType
    ) -> list[tuple[str, Any]]:
        """Local variables as text: those with a secret's name gone, the others without secrets, and cut."""
        more = [] if request is None else list(list_typed(request))
        shown = []
        for name, value in super().get_traceback_frame_variables(request, tb_frame):
            hidden = is_secret(name) or self.hidden_settings.search(name) is not None
            shown.append(
                (name, _Shown(REDACTED if hidden else redact(_describe(value)[:_LOOKED_AT], more)[:_LONGEST]))
            )
        return shown


class SecretsReporter(ExceptionReporter):
    """The report as Django makes it, with a last look at the finished text."""

    def get_traceback_html(self) -> str:
        """The page."""
        return self._clean(super().get_traceback_html())

    def get_traceback_text(self) -> str:
        """The same as plain text."""
        return self._clean(super().get_traceback_text())

    def _clean(self, text: str) -> str:
        return redact(text, [] if self.request is None else list(list_typed(self.request)))


def _describe(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - anything's `repr` may fail, a report must not
        return f"<{type(value).__name__}, whose repr raises {type(error).__name__}>"
