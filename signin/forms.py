"""The forms of the door. Control plane."""

from __future__ import annotations

from django import forms

CODE_LENGTH = 64


class CodeForm(forms.Form):
    """A code of the authenticator, or a recovery code."""

    code = forms.CharField(
        label="Code",
        max_length=CODE_LENGTH,
        help_text="Six digits from your authenticator, or one of your recovery codes.",
        widget=forms.TextInput(
            attrs={
                "autocomplete": "one-time-code",
                "autocapitalize": "none",
                "autofocus": True,
                "spellcheck": "false",
                "aria-describedby": "id_code_helptext",
            }
        ),
    )


class EnrolForm(CodeForm):
    """The first code of an authenticator that has just been set up."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.fields["code"].help_text = "The six digits that the authenticator shows now."
        self.fields["code"].widget.attrs["inputmode"] = "numeric"


class ConfirmForm(CodeForm):
    """Who it is, once more: the password, and a code where there is a second factor."""

    field_order = ["password", "code"]
    password = forms.CharField(
        label="Password",
        max_length=4096,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "autofocus": True}),
    )

    def __init__(self, *args: object, with_code: bool, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        if with_code:
            del self.fields["code"].widget.attrs["autofocus"]
        else:
            del self.fields["code"]
