"""The forms of the vault's pages. Control plane. What is typed as a secret is never given back, not even after a refusal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django import forms
from django.forms.utils import ErrorDict
from django.urls import reverse_lazy

from tokenhub.control.display import write_ms, write_refusal
from tokenhub.core.errors import TokenhubError
from vault.engine.errors import KeyMalformed
from vault.engine.slots import SlotKind
from vault.engine.strength import MIN_CHARACTERS, PHRASE_WORDS
from vault.keyring import MAX_SECRET_BYTES
from vault.models import Vault, VaultSlot
from vault.sealing import MAX_OVERLAP
from vault.slot_secrets import Given
from vault.vault_actions import SETTINGS

TYPED_CHARACTERS = 4096
KEY_HELP = "As text: 64 hex digits or base64. “base64 vault.key” writes a file of 32 bytes that way."
RECOVERY_HELP = "60 characters in 12 groups of 5. Capitals, spaces and dashes do not matter; O and 0, I, L and 1 are the same."


class TypedInput(forms.PasswordInput):
    """A secret that is seen while it is typed, since nobody types 60 characters blindly. Never rendered with its value."""

    input_type = "text"


def _secret(label: str, *, seen: bool = False, name: str = "off", **kwargs: Any) -> forms.CharField:
    """A field for what must not come back. `name` is the browser's autocomplete token."""
    attrs: dict[str, Any] = {"autocomplete": name, "autocapitalize": "none", "spellcheck": "false"}
    if kwargs.pop("focus", False):
        attrs["autofocus"] = True
    widget = TypedInput(attrs={**attrs, "class": "th-mono"}) if seen else forms.PasswordInput(attrs=attrs)
    options = {"max_length": TYPED_CHARACTERS, "strip": False, **kwargs}
    return forms.CharField(label=label, widget=widget, **options)


def described(form: forms.Form) -> None:
    """Ties each help text to its field, so that it is read out with it."""
    for name, field in form.fields.items():
        if field.help_text:
            field.widget.attrs.setdefault("aria-describedby", f"id_{name}_helptext")


class VaultForm(forms.Form):
    """What the vault's forms have in common: a refusal of an action is said on the field that it is about."""

    refused_on: Mapping[str, str] = {}
    """Fields by what actions call the parameter, where that is another name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        described(self)

    def refuse(self, refused: TokenhubError) -> None:
        """Says what an action refused, and how long to wait where that mends it."""
        text = write_refusal(refused.message, refused.hint)
        if refused.retry_after and refused.retry_after > 1 and refused.status == 429:
            text += f" Try again in {write_ms(round(refused.retry_after * 1000))}."
        said = refused.param or ("key" if isinstance(refused, KeyMalformed) else "")
        name = self.refused_on.get(said, said)
        self.add_error(name if name in self.fields else None, text)


class NewPasswordForm(VaultForm):
    """A new password, twice. Its strength is judged by the action, and shown while it is typed."""

    refused_on: Mapping[str, str] = {"password": "new_password"}
    new_password = _secret(
        "New password",
        name="new-password",
        help_text=f"{MIN_CHARACTERS} characters or more that nobody would try first, or {PHRASE_WORDS} random words.",
    )
    again = _secret("The same once more", name="new-password")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The meter asks the server, which alone decides.
        self.fields["new_password"].widget.attrs.update(
            {
                "hx-post": str(reverse_lazy("vault:strength")),
                "hx-trigger": "input changed delay:400ms",
                "hx-target": "#strength",
                "hx-params": "new_password,csrfmiddlewaretoken",
                "hx-include": "[name=csrfmiddlewaretoken]",
                "hx-sync": "this:replace",
            }
        )

    def clean(self) -> dict[str, Any]:
        """Both are the same."""
        data = super().clean() or {}
        if data.get("new_password") and data.get("again") and data["new_password"] != data["again"]:
            self.add_error("again", "The two are not the same. Type both again.")
        return data


class InitialiseForm(NewPasswordForm):
    """The vault's first password."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["new_password"].label = "Vault password"
        self.fields["new_password"].widget.attrs["autofocus"] = True


class ChangePasswordForm(NewPasswordForm):
    """The slot's present password, which says which slot it is, and the new one."""

    field_order = ["old_password", "key", "new_password", "again"]
    old_password = _secret("Present password", name="current-password", focus=True)
    key = _secret(
        "Key of its key file", required=False, help_text=f"Only for a slot that has both. {KEY_HELP}"
    )


class UnlockForm(VaultForm):
    """One of the ways in. Which of them there are, the form does not tell."""

    refused_on: Mapping[str, str] = {"password": ""}
    password = _secret("Password", name="current-password", required=False, focus=True)
    recovery_key = _secret("Recovery key", seen=True, required=False, help_text=RECOVERY_HELP)
    key = _secret(
        "Key of a key file or variable",
        required=False,
        help_text=f"Alone, or with the password of a slot that has both. {KEY_HELP}",
    )

    @property
    def opened(self) -> str:
        """Which of the folded parts stands open: the one that something is wrong with."""
        wrong: ErrorDict | dict[str, Any] = self.errors if self.is_bound else {}
        return next((name for name in ("recovery_key", "key") if name in wrong), "")

    @property
    def given(self) -> Given:
        """What was typed."""
        data = self.cleaned_data
        return Given(data["password"], data["recovery_key"], data["key"])


class TryRecoveryForm(VaultForm):
    """A recovery key, to see whether the print can be read."""

    recovery_key = _secret("Recovery key", seen=True, help_text=RECOVERY_HELP, focus=True)


class LockForm(VaultForm):
    """Why."""

    reason = forms.CharField(
        label="Why",
        max_length=200,
        required=False,
        help_text="Shown on the vault's page and kept in the audit trail.",
        widget=forms.TextInput(attrs={"autofocus": True}),
    )


class KeptForm(VaultForm):
    """The person says that the recovery key was kept."""

    slot = forms.CharField(widget=forms.HiddenInput, max_length=32)
    kept = forms.BooleanField(label="I have printed this key or written it down, and compared it")


class SettingsForm(forms.ModelForm):
    """When the vault locks itself."""

    class Meta:
        model = Vault
        fields = SETTINGS
        labels = {
            "idle_minutes": "Lock after so many minutes without use",
            "max_hours": "Lock so many hours after unlocking",
            "coast_seconds": "Seconds that a worker goes on without the database",
        }
        help_texts = {
            "idle_minutes": "0 = never.",
            "max_hours": "0 = never.",
            "coast_seconds": "Then it drops its keys: it could not hear that the vault was locked. 0 = at once.",
        }

    refuse = VaultForm.refuse
    refused_on: Mapping[str, str] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        described(self)


def _label_field(example: str) -> forms.CharField:
    return forms.CharField(
        label="Label", max_length=100, help_text=f"How people tell it apart, e.g. {example}."
    )


class RenameForm(VaultForm):
    """Another label."""

    label = _label_field("“Password of the night shift”")


class PasswordSlotForm(NewPasswordForm):
    """Another password."""

    field_order = ["label", "new_password", "again"]
    label = _label_field("“Password of the night shift”")


class RecoverySlotForm(VaultForm):
    """Another printed key."""

    label = _label_field("“Recovery key in the safe”")


class KeySlotForm(VaultForm):
    """A key file's or variable's key: one that is there already, or a new one."""

    label = _label_field("“Key file of the cluster”")
    key = _secret(
        "Key",
        required=False,
        help_text=f"Empty: a new one is made, and shown once. {KEY_HELP}",
    )


class KmsSlotForm(VaultForm):
    """The configured service; there is nothing to type but a name."""

    label = _label_field("“KMS of the production account”")


SLOT_FORMS: Mapping[SlotKind, type[VaultForm]] = {
    SlotKind.PASSWORD: PasswordSlotForm,
    SlotKind.RECOVERY: RecoverySlotForm,
    SlotKind.KEY_FILE: KeySlotForm,
    SlotKind.ENVIRONMENT: KeySlotForm,
    SlotKind.KMS: KmsSlotForm,
}


class SealForm(VaultForm):
    """A provider's key, and for how long the one before stays good."""

    refused_on: Mapping[str, str] = {"overlap_seconds": "overlap_minutes"}
    secret = _secret(
        "Key",
        max_length=MAX_SECRET_BYTES,
        help_text="It goes in and never comes out: afterwards its last four characters and a fingerprint are shown.",
        focus=True,
    )
    overlap_minutes = forms.IntegerField(
        label="Minutes for which the key before stays good",
        min_value=0,
        max_value=int(MAX_OVERLAP.total_seconds() // 60),
        help_text="Both are kept meanwhile; the new one is used at once. 0 = the old one is deleted now.",
    )

    def __init__(self, *args: Any, replaces: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not replaces:
            del self.fields["overlap_minutes"]


@dataclass(frozen=True, slots=True)
class SlotFields:
    """A slot's part of the form for a new root key: the fields to render."""

    slot: VaultSlot
    fields: tuple[Any, ...]


class RotateRootForm(VaultForm):
    """Each slot's secret, or that the slot is dropped. Which one was wrong, no answer tells. A KMS has none to type."""

    def __init__(self, *args: Any, slots: Iterable[VaultSlot], **kwargs: Any) -> None:
        self.slots = list(slots)
        super().__init__(*args, **kwargs)
        for slot in self.slots:
            for name, field in _fields_of(slot):
                self.fields[f"{name}_{slot.slot_id}"] = field
            self.fields[f"drop_{slot.slot_id}"] = forms.BooleanField(
                label=f"Drop this slot: {slot.label} opens nothing any more", required=False
            )
        described(self)

    def by_slot(self) -> list[SlotFields]:
        """The fields, slot by slot."""
        return [
            SlotFields(slot, tuple(self[name] for name in self.fields if name.endswith(f"_{slot.slot_id}")))
            for slot in self.slots
        ]

    def clean(self) -> dict[str, Any]:
        """Each slot is either kept by its secret or dropped."""
        data = super().clean() or {}
        for slot in self.slots:
            given, dropped = self._typed(data, slot), data.get(f"drop_{slot.slot_id}")
            if slot.kind == SlotKind.KMS:
                continue
            if dropped and given:
                self.add_error(f"drop_{slot.slot_id}", "Give its secret or drop it, not both.")
            elif not dropped and not given:
                self.add_error(f"drop_{slot.slot_id}", "Give its secret, or say that it is dropped.")
        if not self.errors and all(data[f"drop_{slot.slot_id}"] for slot in self.slots):
            self.add_error(None, "At least one slot has to stay: without one the vault never opens again.")
        return data

    @property
    def given(self) -> dict[str, Given]:
        """What was typed, by slot id."""
        typed = {slot.slot_id: self._typed(self.cleaned_data, slot) for slot in self.slots}
        kept = {
            slot.slot_id
            for slot in self.slots
            if slot.kind == SlotKind.KMS and not self.cleaned_data[f"drop_{slot.slot_id}"]
        }
        return {slot_id: Given(**parts) for slot_id, parts in typed.items() if parts or slot_id in kept}

    @property
    def dropping(self) -> list[str]:
        """The ids of the slots to drop."""
        return [slot.slot_id for slot in self.slots if self.cleaned_data[f"drop_{slot.slot_id}"]]

    @staticmethod
    def _typed(data: Mapping[str, Any], slot: VaultSlot) -> dict[str, str]:
        names = ("password", "recovery_key", "key")
        return {name: text for name in names if (text := data.get(f"{name}_{slot.slot_id}"))}


def _fields_of(slot: VaultSlot) -> list[tuple[str, forms.Field]]:
    if slot.kind == SlotKind.RECOVERY:
        return [("recovery_key", _secret("Recovery key", seen=True, required=False, help_text=RECOVERY_HELP))]
    if slot.kind in (SlotKind.KEY_FILE, SlotKind.ENVIRONMENT):
        return [("key", _secret("Key", required=False, help_text=KEY_HELP))]
    if slot.kind != SlotKind.PASSWORD:
        return []
    fields: list[tuple[str, forms.Field]] = [("password", _secret("Password", required=False))]
    if slot.document.get("peppered"):
        fields.append(("key", _secret("Key of its key file", required=False, help_text=KEY_HELP)))
    return fields
