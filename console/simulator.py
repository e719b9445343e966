"""The simulator as a page: a form for a request that nobody sends, and where it would go. Control plane; changes nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from access.models import ApiKey
from console.simulation import OPERATIONS, MadeUpRequest, simulate
from routing.decision_words import describe_decision
from routing.documents import MODES
from routing.engine.asking import Wishes
from routing.models import PolicyVersion
from tokenhub.core.errors import TokenhubError
from tokenhub.core.money import nanos_from_usd
from tokenhub.core.specs import CAPABILITIES

VIEW = "routing.view_policy"
KEYS_SHOWN = 300
MOST_TOKENS = 100_000_000
_NEEDS = tuple(name for name in CAPABILITIES if name not in OPERATIONS)
_MONDAY = 4 * 1440


class SimulatorForm(forms.Form):
    """A request that nobody sends."""

    model = forms.CharField(
        max_length=200,
        initial="auto",
        help_text="A model, provider/model, an alias, or auto for whichever serves best.",
    )
    operation = forms.ChoiceField(choices=[(name, name) for name in OPERATIONS])
    key = forms.ChoiceField(
        label="API key",
        required=False,
        help_text="Whose models and conditions count. None: a key that may use all.",
    )
    project = forms.CharField(
        max_length=200, required=False, help_text="Without a key: the project that it is of."
    )
    team = forms.CharField(max_length=200, required=False, help_text="Without a key: the team that it is of.")
    input_tokens = forms.IntegerField(min_value=0, max_value=MOST_TOKENS, initial=1000)
    max_output_tokens = forms.IntegerField(
        min_value=0,
        max_value=MOST_TOKENS,
        initial=0,
        required=False,
        help_text="0 = the request sets no bound.",
    )
    needs = forms.MultipleChoiceField(
        choices=[(name, name) for name in _NEEDS],
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="What it needs besides: tools, vision and so on.",
    )
    mode = forms.ChoiceField(
        choices=[("", "as the policy says"), *((name, name) for name in tuple(MODES))], required=False
    )
    min_weight = forms.IntegerField(min_value=0, max_value=10, initial=0, required=False)
    max_cost = forms.CharField(
        label="Budget, USD", max_length=30, required=False, help_text="Such as 0.05; nothing = no bound."
    )
    max_latency_ms = forms.IntegerField(
        label="Longest latency, ms", min_value=0, max_value=86_400_000, initial=0, required=False
    )
    policy = forms.CharField(
        max_length=64, required=False, help_text="A policy that the request asks for by its name."
    )
    tags = forms.CharField(
        max_length=500, required=False, help_text="Separated by commas, such as night, tier=gold."
    )
    at = forms.DateTimeField(
        label="When, UTC",
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        help_text="For policies of certain hours; nothing = now.",
    )
    draft = forms.IntegerField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        keys = ApiKey.objects.order_by("name").values_list("key_id", "name")[:KEYS_SHOWN]
        field = self.fields["key"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [("", "none"), *((key_id, f"{name} ({key_id})") for key_id, name in keys)]

    def clean_max_cost(self) -> int:
        """The budget in nano-dollars, 0 = none."""
        text = self.cleaned_data["max_cost"].strip()
        if not text:
            return 0
        try:
            nanos = nanos_from_usd(text)
        except (TokenhubError, ValueError, ArithmeticError) as error:
            raise forms.ValidationError("This is no amount. Write it as 0.05.") from error
        if nanos <= 0:
            raise forms.ValidationError("A budget is more than nothing.")
        return nanos

    def made_up(self) -> MadeUpRequest:
        """The request of a valid form."""
        data = self.cleaned_data
        moment = data["at"].replace(tzinfo=UTC).timestamp() if data["at"] else time.time()
        return MadeUpRequest(
            model=data["model"],
            operation=data["operation"],
            key_id=data["key"],
            team=data["team"],
            project=data["project"],
            needs=frozenset(data["needs"]),
            input_tokens=data["input_tokens"] or 0,
            max_output_tokens=data["max_output_tokens"] or 0,
            tags=frozenset(tag for part in data["tags"].split(",") if (tag := part.strip())),
            minute=(int(moment // 60) - _MONDAY) % (7 * 1440),
            policy=data["policy"],
            wishes=Wishes(
                mode=data["mode"] or None,
                min_weight=data["min_weight"] or 0,
                budget_nanos=data["max_cost"],
                latency_ms=data["max_latency_ms"] or 0,
            ),
        )


def find_draft(pk: int | None) -> PolicyVersion | None:
    """The version to simulate in force; None for none. Raises Http404 for one that is not there."""
    if pk is None:
        return None
    row = PolicyVersion.objects.select_related("policy").filter(pk=pk).first()
    if row is None:
        raise Http404
    return row


def show_simulator(request: HttpRequest) -> HttpResponse:
    """The form, and below it where the request would go."""
    if not request.user.has_perm(VIEW):
        raise PermissionDenied
    asked = "model" in request.GET
    form = SimulatorForm(request.GET if asked else None, initial={"draft": request.GET.get("draft")})
    context: dict[str, Any] = {"title": "Simulator", "form": form, "draft": None, "result": None}
    if asked and form.is_valid():
        context["draft"] = draft = find_draft(form.cleaned_data["draft"])
        try:
            found = simulate(form.made_up(), draft)
        except TokenhubError as error:
            form.add_error(None, f"{error.message}. {error.hint}".strip())
        else:
            context |= {"result": found, "decision": describe_decision({**found, "error": ""})}
    elif not asked and (text := request.GET.get("draft", "")).isdigit() and len(text) < 19:
        context["draft"] = find_draft(int(text))
    context["now"] = datetime.now(UTC)
    request.current_app = admin.site.name  # type: ignore[attr-defined]
    return TemplateResponse(
        request, "console/simulator.html", {**admin.site.each_context(request), **context}
    )
