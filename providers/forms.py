"""Forms of the provider pages. Control plane; what they hold is checked again by the actions."""

from __future__ import annotations

from typing import Any

from django import forms

from providers.models import Model, Provider
from tokenhub.control.fields import NamesField
from tokenhub.core.money import PRICED_NAMES
from tokenhub.core.specs import CAPABILITIES
from tokenhub.core.usage import COUNTED
from usage.rates import LABELS, rates_from_usd


class ProviderForm(forms.ModelForm):
    """A provider; empty profile and headers mean none."""

    class Meta:
        model = Provider
        exclude = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is None and "kind" in self.fields:
            # Whichever comes first in the alphabet is nobody's choice.
            self.fields["kind"].choices = [("", "Choose a kind"), *self.fields["kind"].choices]

    def clean_profile(self) -> Any:
        """Nothing written = no settings."""
        return self.cleaned_data["profile"] or {}

    def clean_headers(self) -> Any:
        """Nothing written = no headers."""
        return self.cleaned_data["headers"] or []


class ModelForm(forms.ModelForm):
    """A model, with its capabilities as tick boxes."""

    capabilities = NamesField(CAPABILITIES)

    class Meta:
        model = Model
        exclude = ()


class PriceForm(forms.Form):
    """A new price of one model: USD per million tokens by bucket, USD a piece for counted things."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in PRICED_NAMES:
            unit = "USD each" if name in COUNTED else "USD per million tokens"
            self.fields[name] = forms.DecimalField(
                label=f"{LABELS[name].capitalize()}, {unit}",
                required=False,
                min_value=0,
                max_digits=15,
                decimal_places=9,
            )
        self.fields["effective_from"] = forms.DateTimeField(
            label="In force from, UTC",
            required=False,
            help_text="Empty = now. A later time is possible; so is an earlier one, which changes no ledger row.",
            widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
        )
        self.fields["note"] = forms.CharField(label="Note", required=False, max_length=500)

    def clean(self) -> dict[str, Any]:
        """Adds `rates`, nano-dollars by bucket."""
        data = super().clean() or {}
        if not self.errors:
            data["rates"] = rates_from_usd({name: data.get(name) for name in PRICED_NAMES})
            if not data["rates"]:
                raise forms.ValidationError("Give at least one rate. A model that is free has rates of 0.")
        return data
