"""Form fields for what models keep as JSON lists: names to tick, lines to write. Control plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminTextareaWidget

NO_LINES = "(none)"


class NamesField(forms.MultipleChoiceField):
    """A list of known names as tick boxes. Order carries no meaning."""

    widget = UnfoldAdminCheckboxSelectMultipleWidget

    def __init__(self, names: Sequence[str], **kwargs: Any) -> None:
        super().__init__(choices=[(name, name) for name in names], required=False, **kwargs)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compares as sets."""
        return set(initial or []) != set(data or [])


class LinesField(forms.CharField):
    """A list of names, one a line. Nothing written = None (every name); `(none)` = an empty list."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, widget=UnfoldAdminTextareaWidget(attrs={"rows": 4}), **kwargs)

    def prepare_value(self, value: Any) -> Any:
        """The list as text."""
        if isinstance(value, (list, tuple)):
            return "\n".join(value) if value else NO_LINES
        return value

    def to_python(self, value: Any) -> Any:
        """The text as a list, or None."""
        text = (super().to_python(value) or "").strip()
        if text == NO_LINES:
            return []
        return [line.strip() for line in text.splitlines() if line.strip()] or None

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Compares what the text means."""
        return bool(self.to_python(data) != initial)
