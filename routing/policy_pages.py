"""Routing policies as admin pages: state and versions, the draft's form, what changes, publishing, going back. Control plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.html import format_html
from django.utils.safestring import SafeString

from routing import policy_actions as actions
from routing.catalogue import read_catalogue
from routing.differences import NOTHING, list_changes, list_settings
from routing.documents import show_document
from routing.models import Policy, PolicyVersion
from routing.policy_forms import CompareForm, DraftForm, PublishForm, RollBackForm, initial_of
from routing.policy_words import label_of, write_changes, write_problems
from routing.problems import find_open, find_policy_problems, find_published, find_version_problems
from tokenhub.control import display
from tokenhub.control.actors import Actor
from tokenhub.control.admin import ModelAdmin
from tokenhub.control.callers import actor_of
from tokenhub.core.errors import InvalidRequest, TokenhubError

VERSIONS_SHOWN = 50
NAMES_SHOWN = 300
PUBLISH, APPROVE = "routing.publish_policy", "routing.approve_policy"
TONES = {"draft": "plain", "waiting": "warn", "published": "good", "retired": "plain"}

State = PolicyVersion.State


@admin.register(Policy)
class PolicyAdmin(ModelAdmin):
    """Which requests are routed how."""

    list_display = ("name", "state", "in_force", "open_version", "priority", "trouble")
    list_filter = ("enabled", "needs_approval")
    search_fields = ("name",)
    goes_with = (PolicyVersion,)
    empty_text = "A policy says which requests are routed how. Without one, requests go to what they ask for."
    fieldsets = ((None, {"fields": (("name", "priority"), "enabled", "needs_approval")}),)
    change_form_outer_before_template = "console/policy_state.html"
    own_pages = (
        ("<path:object_id>/draft/", "draft_page"),
        ("<path:object_id>/discard/", "discard_page"),
        ("<path:object_id>/publish/", "publish_page"),
        ("<path:object_id>/approve/", "approve_page"),
        ("<path:object_id>/compare/", "compare_page"),
        ("<path:object_id>/versions/<int:number>/", "version_page"),
        ("<path:object_id>/versions/<int:number>/roll-back/", "roll_back_page"),
    )

    # --- the list ------------------------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[Policy]:
        live = PolicyVersion.objects.exclude(state=State.RETIRED)
        return super().get_queryset(request).prefetch_related(Prefetch("versions", queryset=live))

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The list, its rows with their problems: the catalogue is read once for all of them."""
        found = super().get_changelist_instance(request)
        catalogue = read_catalogue()
        for row in found.result_list:
            row.problems = find_policy_problems(row, catalogue)
        return found

    @admin.display(description="State", ordering="enabled")
    def state(self, row: Policy) -> SafeString:
        if find_published(row) is None:
            return display.badge("not published", "warn")
        if not row.enabled:
            return display.badge("disabled", "bad")
        troubled = bool(getattr(row, "problems", ()))
        return display.badge("in force, troubled", "bad") if troubled else display.badge("in force", "good")

    @admin.display(description="In force")
    def in_force(self, row: Policy) -> SafeString | str:
        version = find_published(row)
        if version is None:
            return display.NOTHING
        return display.two_lines(f"version {version.number}", display.write_time_tag(version.published_at))

    @admin.display(description="Draft")
    def open_version(self, row: Policy) -> SafeString | str:
        version = find_open(row)
        if version is None:
            return display.NOTHING
        return display.badge(version.get_state_display(), TONES[version.state])

    @admin.display(description="Problems")
    def trouble(self, row: Any) -> SafeString | str:
        if not row.problems:
            return display.NOTHING
        rest = len(row.problems) - 1
        more = f"; {rest} more" if rest else ""
        reason = write_problems(row.problems[:1], mend=False)[0]
        return format_html('<span class="th-reason">{}: {}{}</span>', reason["label"], reason["text"], more)

    # --- the policy itself ---------------------------------------------------------------------------------------------

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Only those who may approve say whether it is needed."""
        return () if request.user.has_perm(APPROVE) else ("needs_approval",)

    def do_create(self, actor: Actor, data: dict[str, Any]) -> Policy:
        return actions.create_policy(actor, **data)

    def do_update(self, actor: Actor, row: Policy, changes: dict[str, Any]) -> None:
        actions.update_policy(actor, row, **changes)

    def do_delete(self, actor: Actor, row: Policy) -> None:
        actions.delete_policy(actor, row)

    def consequences(self, row: Policy) -> list[str]:
        version = find_published(row)
        if version is None or not row.enabled:
            return ["It routes no requests now. All of its versions go with it."]
        return [
            "Requests that it routes now are routed by the next policy that holds for them, or go to what they ask for.",
            "Requests that ask for it by name are refused. All of its versions go with it.",
        ]

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """A new policy says nothing yet: its draft comes next."""
        if not request.user.has_perm("routing.change_policy"):
            return super().response_add(request, obj, post_url_continue)
        return HttpResponseRedirect(self.url_for("draft_page", obj.pk))

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The form, with the policy's state and versions above it."""
        context = dict(extra_context or {})
        row = self.get_object(request, object_id) if object_id else None
        if row is None:
            context.update(show_save_and_add_another=False, show_save_and_continue=False)
        elif self.has_view_or_change_permission(request):
            context.update(self._describe(request, row))
        return super().changeform_view(request, object_id, form_url, context)

    def _describe(self, request: HttpRequest, row: Policy) -> dict[str, Any]:
        """State, problems and versions."""
        catalogue = read_catalogue()
        versions = list(PolicyVersion.objects.filter(policy=row).defer("document")[: VERSIONS_SHOWN + 1])
        published, draft = find_published(row), find_open(row)
        return {
            "policy": row,
            "published": published,
            "draft": draft,
            "problems": write_problems(find_policy_problems(row, catalogue)),
            "draft_problems": find_version_problems(draft, catalogue) if draft else [],
            "settings": write_changes(list_settings(published.document)) if published else [],
            "versions": [
                {
                    "row": version,
                    "tone": TONES[version.state],
                    "url": self.url_for("version_page", row.pk, version.number),
                    "roll_back_url": self.url_for("roll_back_page", row.pk, version.number)
                    if version.state == State.RETIRED
                    else "",
                }
                for version in versions[:VERSIONS_SHOWN]
            ],
            "more_versions": len(versions) > VERSIONS_SHOWN,
            "may_change": self.has_change_permission(request, row),
            "may_publish": request.user.has_perm(PUBLISH),
            "may_approve": request.user.has_perm(APPROVE),
            "urls": {
                name: self.url_for(f"{name}_page", row.pk)
                for name in ("draft", "discard", "publish", "approve", "compare")
            },
        }

    # --- own pages -----------------------------------------------------------------------------------------------------

    def _policy(self, request: HttpRequest, object_id: str, permission: str) -> Policy:
        """The policy. Raises PermissionDenied without the permission to see it and this one, Http404 for none."""
        if not request.user.has_perms(("routing.view_policy", permission)):
            raise PermissionDenied
        row: Policy = self.found(request, object_id)
        return row

    def _version(self, policy: Policy, number: int) -> PolicyVersion:
        version = PolicyVersion.objects.filter(policy=policy, number=number).first()
        if version is None:
            raise Http404
        return version

    def _back(
        self, request: HttpRequest, policy: Policy, text: str = "", *, good: bool = False
    ) -> HttpResponse:
        if text:
            (messages.success if good else messages.info)(request, text)
        return HttpResponseRedirect(self.url_for("change", policy.pk))

    def draft_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """The draft's form. It begins with the version in force, or with the defaults."""
        policy = self._policy(request, object_id, "routing.change_policy")
        draft, published = find_open(policy), find_published(policy)
        if draft is not None and draft.state == State.WAITING:
            return self._back(
                request, policy, f"Version {draft.number} waits for approval: discard it to write another."
            )
        base = draft or published
        document = show_document(base.document if base else NOTHING)
        form = DraftForm(
            request.POST if request.method == "POST" else None,
            initial=initial_of(document, draft.note if draft else ""),
            label_suffix="",
        )
        if request.method == "POST" and form.is_valid():
            try:
                version = actions.save_draft(
                    actor_of(request), policy, document=form.document(), note=form.cleaned_data["note"]
                )
            except InvalidRequest as refused:
                form.show_refusal(refused)
            except TokenhubError as refused:
                form.add_error(None, display.write_refusal(refused.message, refused.hint))
            else:
                messages.success(request, f"Draft of {policy} saved as version {version.number}.")
                onward = "publish_page" if "publish" in request.POST else "change"
                return HttpResponseRedirect(self.url_for(onward, policy.pk))
        catalogue = read_catalogue()
        names = sorted(catalogue.served_by_name)
        return self.page(
            request,
            "console/policy_draft.html",
            "Draft",
            subject=policy,
            policy=policy,
            form=form,
            base=base,
            document=document,
            problems=write_problems(
                find_version_problems(draft, catalogue) if draft and not form.is_bound else []
            ),
            names=names[:NAMES_SHOWN],
            more_names=max(0, len(names) - NAMES_SHOWN),
            may_publish=request.user.has_perm(PUBLISH),
            back_url=self.url_for("change", policy.pk),
        )

    def discard_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Asks, then throws the open version away."""
        policy = self._policy(request, object_id, "routing.change_policy")
        version = find_open(policy)
        if version is None:
            return self._back(request, policy, f"{policy} has no draft.")
        return self._asked(
            request,
            policy,
            title="Discard draft",
            question=f"Discard version {version.number} of {policy}?",
            consequences=["What was written in it is gone. What is in force stays as it is."],
            button="Discard it",
            write=lambda form: actions.discard_draft(actor_of(request), policy),
            done="The draft is gone.",
        )

    def publish_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """What publishing the draft changes, and what keeps it back; then does it."""
        policy = self._policy(request, object_id, PUBLISH)
        version = find_open(policy)
        if version is None or version.state != State.DRAFT:
            return self._back(request, policy, f"{policy} has no draft to publish.")
        form = PublishForm(request.POST or None, initial={"note": version.note})
        if request.method == "POST" and form.is_valid():
            try:
                made = actions.publish(
                    actor_of(request),
                    policy,
                    note=form.cleaned_data["note"],
                    seen=request.POST.get("seen", ""),
                )
            except TokenhubError as refused:
                self.say_refused(request, refused)
                return HttpResponseRedirect(request.path)
            done = "waits for approval" if made.state == State.WAITING else "is in force"
            return self._back(request, policy, f"Version {made.number} of {policy} {done}.", good=True)
        sentence = (
            "Another person must approve it; until then what is in force stays."
            if policy.needs_approval
            else "Every worker routes by it within seconds."
        )
        return self._weighed(request, policy, version, form, title="Publish", sentence=sentence)

    def approve_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """What approving changes; then does it."""
        policy = self._policy(request, object_id, APPROVE)
        version = find_open(policy)
        if version is None or version.state != State.WAITING:
            return self._back(request, policy, f"Nothing of {policy} waits for approval.")
        if request.method == "POST":
            try:
                made = actions.approve(actor_of(request), policy, seen=request.POST.get("seen", ""))
            except TokenhubError as refused:
                self.say_refused(request, refused)
                return HttpResponseRedirect(request.path)
            return self._back(request, policy, f"Version {made.number} of {policy} is in force.", good=True)
        sentence = f"{version.author} asks for it. Every worker routes by it within seconds of your approval."
        return self._weighed(request, policy, version, None, title="Approve", sentence=sentence)

    def _weighed(
        self,
        request: HttpRequest,
        policy: Policy,
        version: PolicyVersion,
        form: Any,
        *,
        title: str,
        sentence: str,
    ) -> HttpResponse:
        """The page on which a version is published or approved."""
        published = find_published(policy)
        problems = find_version_problems(version, read_catalogue())
        own = actions.person_of(actor_of(request).name) == actions.person_of(version.author)
        return self.page(
            request,
            "console/policy_publish.html",
            title,
            subject=policy,
            policy=policy,
            version=version,
            published=published,
            before="In force" if published else "By default",
            changes=write_changes(list_changes(published.document if published else None, version.document)),
            grave=write_problems(one for one in problems if one.grave),
            warnings=write_problems(one for one in problems if not one.grave),
            form=form,
            sentence=sentence,
            own_work=title == "Approve" and own,
            button=title if title == "Approve" or not policy.needs_approval else "Ask for approval",
            seen=actions.digest_of(version.document),
            draft_url=self.url_for("draft_page", policy.pk),
            back_url=self.url_for("change", policy.pk),
        )

    def compare_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Two versions, field by field; unless they are chosen, what is open against what is in force."""
        policy = self._policy(request, object_id, "routing.view_policy")
        rows = PolicyVersion.objects.filter(policy=policy).order_by("-number")
        versions = list(rows.values_list("number", "state")[:200])
        if not versions:
            return self._back(request, policy, f"{policy} has no version yet.")
        choices = [(number, f"version {number}, {State(state).label}") for number, state in versions]
        in_force = next((number for number, state in versions if state == State.PUBLISHED), 0)
        newest = versions[0][0]
        older = next((number for number, _ in versions if number < newest), 0)
        initial = {"before": in_force if in_force != newest else older, "after": newest}
        chosen = {name: request.GET.get(name, str(value)) for name, value in initial.items()}
        form = CompareForm(chosen, choices=choices, label_suffix="")
        changes: list[dict[str, str]] = []
        if form.is_valid():
            before, after = form.cleaned_data["before"], form.cleaned_data["after"]
            first = self._version(policy, before).document if before else None
            changes = write_changes(list_changes(first, self._version(policy, after).document))
        return self.page(
            request,
            "console/policy_compare.html",
            "Compare versions",
            subject=policy,
            policy=policy,
            form=form,
            changes=changes,
            back_url=self.url_for("change", policy.pk),
        )

    def version_page(self, request: HttpRequest, object_id: str, number: int) -> HttpResponse:
        """One version: who, when, why, and what it says."""
        policy = self._policy(request, object_id, "routing.view_policy")
        version = self._version(policy, number)
        return self.page(
            request,
            "console/policy_version.html",
            f"Version {number}",
            subject=policy,
            policy=policy,
            version=version,
            tone=TONES[version.state],
            settings=write_changes(list_settings(version.document)),
            document=show_document(version.document),
            problems=write_problems(find_version_problems(version, read_catalogue())),
            may_roll_back=version.state == State.RETIRED and request.user.has_perm(PUBLISH),
            roll_back_url=self.url_for("roll_back_page", policy.pk, number),
            compare_url=f"{self.url_for('compare_page', policy.pk)}?after={number}",
            back_url=self.url_for("change", policy.pk),
        )

    def roll_back_page(self, request: HttpRequest, object_id: str, number: int) -> HttpResponse:
        """Asks, then goes back to an earlier version."""
        policy = self._policy(request, object_id, PUBLISH)
        version = self._version(policy, number)
        if version.state != State.RETIRED:
            return self._back(request, policy, f"Version {number} is none to go back to: it is not retired.")
        published = find_published(policy)
        changes = list_changes(published.document if published else None, version.document)
        shown = ", ".join(label_of(one.path).lower() for one in changes[:8]) + (
            " and more" if len(changes) > 8 else ""
        )
        consequences = [f"It changes: {shown}." if changes else "It says the same as what is in force."]
        problems = find_version_problems(version, read_catalogue())
        consequences += [f"Problem, {one['label']}: {one['text']}" for one in write_problems(problems[:5])]
        waits = policy.needs_approval and not version.approver
        consequences.append(
            "Nobody approved that version: going back waits for another person's approval."
            if waits
            else "A new version with the old content is in force on every worker within seconds."
        )
        return self._asked(
            request,
            policy,
            title="Roll back",
            question=f"Go back to version {number} of {policy}?",
            consequences=consequences,
            button="Roll back",
            form=RollBackForm(request.POST or None, label_suffix=""),
            write=lambda form: actions.roll_back(
                actor_of(request), policy, number=number, note=form.cleaned_data["note"]
            ),
            done=f"{policy} goes back to version {number}{', once that is approved' if waits else ''}.",
        )

    def _asked(
        self,
        request: HttpRequest,
        policy: Policy,
        *,
        title: str,
        question: str,
        consequences: list[str],
        button: str,
        write: Callable[[Any], Any],
        done: str,
        form: Any = None,
    ) -> HttpResponse:
        """A question before a change; what is refused is said on the policy's page."""
        if request.method == "POST" and (form is None or form.is_valid()):
            try:
                write(form)
            except TokenhubError as refused:
                self.say_refused(request, refused)
                return self._back(request, policy)
            return self._back(request, policy, done, good=True)
        return self.page(
            request,
            "console/confirm.html",
            title,
            question=question,
            consequences=consequences,
            button=button,
            form=form,
            danger=True,
            subject=policy,
            back_url=self.url_for("change", policy.pk),
        )
