"""Forms of the policy pages: a document as fields, and back. Control plane; what they hold is checked again by the actions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from django import forms
from django.forms import BoundField

from routing.documents import MODES, OPERATIONS, STICKY, STRATEGIES, WEEKDAYS
from routing.policy_labels import CAUSE_LABELS, MODE_LABELS, STICKY_LABELS, STRATEGY_LABELS
from tokenhub.core.errors import InvalidRequest
from tokenhub.core.specs import CAPABILITIES

_SPAN = re.compile(r"([a-z, -]+?)\s+(\S+?)\s*-\s*(\S+)")

Groups = tuple[tuple[str, str, tuple[str, ...]], ...]


class LinesField(forms.CharField):
    """A list of texts, one a line."""

    def __init__(self, label: str, help_text: str = "", rows: int = 3) -> None:
        widget = forms.Textarea(attrs={"rows": rows, "spellcheck": "false"})
        super().__init__(label=label, help_text=help_text, required=False, widget=widget, max_length=100_000)

    def prepare_value(self, value: Any) -> Any:
        """The list as text."""
        return "\n".join(value) if isinstance(value, (list, tuple)) else value

    def to_python(self, value: Any) -> list[str]:
        """The text as a list."""
        return [line.strip() for line in (super().to_python(value) or "").splitlines() if line.strip()]


class HoursField(LinesField):
    """Spans of a week, one a line: `mon-fri 08:00-18:00`."""

    def prepare_value(self, value: Any) -> Any:
        """The spans as text."""
        if not isinstance(value, (list, tuple)):
            return value
        return "\n".join(f"{','.join(span['weekdays'])} {span['start']}-{span['end']}" for span in value)

    def to_python(self, value: Any) -> list[Any]:
        """The text as spans. Raises ValidationError for a line that is none."""
        return [self._read(line) for line in super().to_python(value)]

    def _read(self, line: str) -> dict[str, Any]:
        found = _SPAN.fullmatch(line.lower())
        if found is None:
            raise forms.ValidationError(f"{line[:60]!r} is no span. Write it as: mon-fri 08:00-18:00")
        days = [day for part in found[1].split(",") for day in _list_days(part.strip(), line)]
        return {"weekdays": list(dict.fromkeys(days)), "start": found[2], "end": found[3]}


def _list_days(part: str, line: str) -> Iterator[str]:
    first, _, last = (piece.strip() for piece in part.partition("-"))
    if first not in WEEKDAYS or (last and last not in WEEKDAYS):
        raise forms.ValidationError(f"{line[:60]!r} has no weekdays that are known: {', '.join(WEEKDAYS)}.")
    begin = WEEKDAYS.index(first)
    length = (WEEKDAYS.index(last) - begin) % 7 if last else 0
    yield from (WEEKDAYS[(begin + step) % 7] for step in range(length + 1))


class HeadersField(LinesField):
    """Headers with their values, one a line: `name: value`."""

    def prepare_value(self, value: Any) -> Any:
        """The headers as text."""
        return (
            "\n".join(f"{name}: {text}" for name, text in value.items()) if isinstance(value, dict) else value
        )

    def to_python(self, value: Any) -> Any:
        """The text as a mapping. Raises ValidationError for a line without a colon, and for a name that comes again."""
        found: dict[str, str] = {}
        for line in super().to_python(value):
            name, colon, text = (part.strip() for part in line.partition(":"))
            if not colon or not name:
                raise forms.ValidationError(f"{line[:60]!r} is no header. Write it as: name: value")
            if name.lower() in found:
                raise forms.ValidationError(f"{name!r} stands there twice. Name it once.")
            found[name.lower()] = text
        return found


class GuardsField(LinesField):
    """Guards as YAML."""

    def prepare_value(self, value: Any) -> Any:
        """The guards as text."""
        if not isinstance(value, (list, tuple)):
            return value
        return yaml.safe_dump(list(value), sort_keys=False, allow_unicode=True, width=1000) if value else ""

    def to_python(self, value: Any) -> Any:
        """The text as guards. Raises ValidationError for what is no YAML."""
        try:
            return yaml.safe_load(forms.CharField.to_python(self, value) or "") or []
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f" in line {mark.line + 1}" if mark is not None else ""
            raise forms.ValidationError(
                f"That is no YAML{where}: {getattr(error, 'problem', None) or error}."
            ) from error


def _choice(label: str, names: tuple[str, ...], labels: Mapping[str, str]) -> forms.ChoiceField:
    return forms.ChoiceField(label=label, choices=[(name, labels[name]) for name in names])


def _ticks(label: str, names: tuple[str, ...]) -> forms.MultipleChoiceField:
    choices = [(name, name.replace("_", " ")) for name in names]
    return forms.MultipleChoiceField(
        label=label, choices=choices, required=False, widget=forms.CheckboxSelectMultiple
    )


def _whole(label: str, help_text: str = "", low: int = 0) -> forms.IntegerField:
    return forms.IntegerField(label=label, help_text=help_text, required=False, min_value=low)


def _share(label: str, help_text: str = "") -> forms.FloatField:
    widget = forms.NumberInput(attrs={"step": "any", "min": 0, "max": 1})
    return forms.FloatField(label=label, help_text=help_text, required=False, widget=widget)


class DraftForm(forms.Form):
    """A policy's document, field by field. A field's name is its path in the document, with `__` between the parts."""

    when__models = LinesField("Models asked for", "One a line; a * at the end stands for any rest.")
    when__operations = _ticks("Operations", OPERATIONS)
    when__needs = _ticks("What the request needs, all of it", CAPABILITIES)
    when__teams = LinesField("Teams", "Short names, one a line.")
    when__projects = LinesField("Projects", "Short names, one a line.")
    when__keys = LinesField("API keys", "IDs, one a line.")
    when__tags = LinesField("Tags", "name or name=value, one a line.")
    when__headers = HeadersField(
        "Headers", "name: value, one a line; a * at the end of a value stands for any rest."
    )
    when__hours = HoursField(
        "Hours, UTC", "Such as mon-fri 08:00-18:00, one span a line. It may go past midnight."
    )
    when__min_input_tokens = _whole("Input from, tokens", "0 = no bound.")
    when__max_input_tokens = _whole("Input up to, tokens", "0 = no bound.")

    targets = LinesField(
        "Targets",
        "Models, provider/models or aliases, one a line. Empty = what the request asks for.",
        rows=5,
    )
    strategy = _choice("Strategy", STRATEGIES, STRATEGY_LABELS)
    mode = _choice("Mode", tuple(MODES), MODE_LABELS)
    own_weights = forms.BooleanField(label="Own weights in place of the mode’s", required=False)
    weights__cost = _share("Cost")
    weights__latency = _share("Latency")
    weights__failure = _share("Failures")
    weights__weight = _share("Capability")
    directives = forms.BooleanField(label="Directives in messages are obeyed", required=False)

    bounds__min_weight = _whole("Capability at least", "0 to 10, 0 = no bound.")
    bounds__max_cost_usd = forms.CharField(
        label="Cost at most, USD", required=False, max_length=40, help_text="In the worst case; 0 = no bound."
    )
    bounds__max_latency_ms = _whole("Latency at most, ms", "As expected; 0 = no bound.")
    bounds__max_retention_days = _whole("Data kept at most, days", "−1 = no bound, 0 = nothing kept.", low=-1)
    bounds__regions = LinesField("Regions", "One a line; empty = anywhere.")

    fallbacks__any = LinesField(CAUSE_LABELS["any"])
    fallbacks__context = LinesField(CAUSE_LABELS["context"])
    fallbacks__content_policy = LinesField(CAUSE_LABELS["content_policy"])
    fallbacks__rate_limit = LinesField(CAUSE_LABELS["rate_limit"])
    attempts = _whole("Attempts at most", "0 = the house's default.")

    affinity__by = _choice("What keeps its target", STICKY, STICKY_LABELS)
    affinity__seconds = _whole("For how long, seconds", "Since its last request.")
    hedge__enabled = forms.BooleanField(label="Start a second attempt beside a slow one", required=False)
    hedge__after_ms = _whole("After, ms", "0 = the target's own 95th percentile.")
    hedge__max_share = _share("For at most this share of requests", "0 to 1.")

    guards = GuardsField(
        "Guards",
        "A YAML list. Of kind redact: patterns (secret, email, iban, card, ssn, phone, ip), own (label: expression), action (mask, "
        "block, flag), restore; of kind webhook: url, secret, timeout_ms, failure (closed, open); each with a name and a side "
        "(before, after, both).",
        rows=8,
    )

    note = forms.CharField(
        label="Why",
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Kept with the version.",
    )

    GROUPS: Groups = (
        (
            "For which requests",
            "All that is given must hold, and of each list any one. Nothing given: every request.",
            (
                "when__models", "when__teams", "when__projects", "when__keys", "when__tags", "when__headers", "when__hours",
                "when__min_input_tokens", "when__max_input_tokens", "when__operations", "when__needs",
            ),
        ),
        (
            "Where they go",
            "",
            (
                "targets", "strategy", "mode", "own_weights", "weights__cost", "weights__latency", "weights__failure",
                "weights__weight", "directives",
            ),
        ),
        (
            "What every candidate must keep",
            "",
            (
                "bounds__min_weight", "bounds__max_cost_usd", "bounds__max_latency_ms", "bounds__max_retention_days",
                "bounds__regions",
            ),
        ),
        (
            "What is tried when that fails",
            "Models, provider/models or aliases, one a line, in this order.",
            ("fallbacks__any", "fallbacks__context", "fallbacks__content_policy", "fallbacks__rate_limit", "attempts"),
        ),
        (
            "Staying at one target, and hedging",
            "",
            ("affinity__by", "affinity__seconds", "hedge__enabled", "hedge__after_ms", "hedge__max_share"),
        ),
        ("What looks at texts", "Guards that redact come first, then webhooks, each in their order.", ("guards",)),
        ("For the record", "", ("note",)),
    )  # fmt: skip

    def groups(self) -> list[tuple[str, str, list[BoundField]]]:
        """The form's parts, each with its title, a sentence and its fields."""
        return [(title, text, [self[name] for name in names]) for title, text, names in self.GROUPS]

    def document(self) -> dict[str, Any]:
        """What was typed, as a document. A field that was left empty is left out, and takes its default."""
        found: dict[str, Any] = {"weights": {}} if self.cleaned_data["own_weights"] else {}
        for name, value in self.cleaned_data.items():
            if name in ("note", "own_weights") or value in (None, ""):
                continue
            part, _, inner = name.partition("__")
            if part == "weights" and not self.cleaned_data["own_weights"]:
                continue
            if inner:
                found.setdefault(part, {})[inner] = value
            else:
                found[part] = value
        return found

    def show_refusal(self, refused: InvalidRequest) -> None:
        """Puts what an action refused at the fields that it is about."""
        by_path: Mapping[str, list[str]] = refused.details.get("fields") or {
            refused.param or "": [refused.message]
        }
        for path, texts in by_path.items():
            name = find_field(path)
            for text in texts:
                self.add_error(name, _sentence(text if name else f"{path}: {text}"))


def initial_of(document: Mapping[str, Any], note: str = "") -> dict[str, Any]:
    """What a DraftForm begins with; `document` as people are shown it."""
    found: dict[str, Any] = {"note": note, "own_weights": document.get("weights") is not None}
    for part, value in document.items():
        if isinstance(value, Mapping):
            found.update({f"{part}__{name}": inner for name, inner in value.items()})
        else:
            found[part] = value
    return found


def find_field(path: str) -> str | None:
    """The form's field for a path in a document, as `when.keys[3]` or `when.hours[0].end`; None if there is none."""
    parts = re.sub(r"\[[^\]]*\]", "", path).split(".")
    candidates = ("__".join(parts[:2]), parts[0])
    named = {"weights": "own_weights", "bounds": "bounds__min_weight"}
    return next((name for name in candidates if name in DraftForm.base_fields), named.get(parts[0]))


class PublishForm(forms.Form):
    """Why; and which document was looked at."""

    note = forms.CharField(
        label="Why",
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Kept with the version, for whoever asks later.",
    )


class RollBackForm(PublishForm):
    """Why somebody goes back."""


class CompareForm(forms.Form):
    """Two versions to compare."""

    before = forms.TypedChoiceField(label="From", coerce=int)
    after = forms.TypedChoiceField(label="To", coerce=int)

    def __init__(self, *args: Any, choices: list[tuple[int, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["before"].choices = [(0, "the defaults"), *choices]
        self.fields["after"].choices = choices


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
