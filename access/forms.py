"""Forms of the key pages. Control plane; what they hold is checked again by the actions."""

from __future__ import annotations

from typing import Any

from django import forms

from access.models import AdminToken, ApiKey
from tokenhub.control.actors import ADMIN_SCOPES
from tokenhub.control.fields import NO_LINES, LinesField, NamesField
from tokenhub.core.specs import SCOPES

OVERLAPS = (
    (0, "None: the old secret ends at once"),
    (3600, "1 hour"),
    (86_400, "1 day"),
    (7 * 86_400, "7 days"),
    (30 * 86_400, "30 days"),
)
"""Seconds for which both secrets of a rotated key are good."""


class ApiKeyForm(forms.ModelForm):
    """A key, with its scopes as tick boxes and its models one a line."""

    scopes = NamesField(SCOPES, help_text="Nothing ticked = the key may do nothing.")
    allowed_models = LinesField(
        help_text="Names of models, provider/models, aliases or group:NAMEs, one a line. "
        f"Empty = every model; {NO_LINES} = none.",
    )

    class Meta:
        model = ApiKey
        exclude = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is None and "scopes" in self.fields:
            self.fields["scopes"].initial = list(SCOPES)


class AdminTokenForm(forms.ModelForm):
    """A token for the admin API."""

    scopes = NamesField(
        ADMIN_SCOPES, help_text="read = look at everything its owner may see; write = change it too."
    )

    class Meta:
        model = AdminToken
        exclude = ()


class RotateForm(forms.Form):
    """How long the old secret stays good beside the new one."""

    overlap_seconds = forms.TypedChoiceField(
        label="The old secret stays good for", choices=OVERLAPS, coerce=int, initial=86_400
    )
