"""What every admin class builds on; the only place that imports Unfold's ModelAdmin. Control plane.

Writing goes through the apps' actions: subclasses name them in `do_create`, `do_update`, `do_delete`. What an action
refuses is shown on the form it came from. The audit trail replaces Django's own log entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied
from django.db import models, transaction
from django.forms.models import BaseInlineFormSet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode
from unfold.admin import ModelAdmin as UnfoldModelAdmin
from unfold.admin import TabularInline as UnfoldTabularInline
from unfold.decorators import action

from tokenhub.control.actors import Actor
from tokenhub.control.callers import actor_of
from tokenhub.control.display import write_refusal
from tokenhub.core.errors import TokenhubError

__all__ = ["Inline", "ModelAdmin", "ReadOnlyAdmin", "action", "error_texts"]


def error_texts(refused: TokenhubError) -> dict[str, list[str]]:
    """The refusal's messages by field; those without a field under NON_FIELD_ERRORS."""
    fields: Mapping[str, list[str]] = refused.details.get("fields") or {}
    if fields:
        return {name: list(texts) for name, texts in fields.items()}
    return {NON_FIELD_ERRORS: [write_refusal(refused.message, refused.hint)]}


def _filtered_name(list_filter: Any) -> str:
    """What a filter of a list goes by in the query: a field, or a filter's own parameter."""
    named = list_filter[0] if isinstance(list_filter, tuple) else list_filter
    return str(named if isinstance(named, str) else named.parameter_name).partition("__")[0]


class NoPopups:
    """No pop-up windows for related rows: they would need frames, which the content security policy forbids."""

    labels: dict[str, str] = {}
    """What fields are called where their own name would be wrong, or lacks its unit."""

    def formfield_for_dbfield(
        self, db_field: models.Field[Any, Any], request: HttpRequest, **kwargs: Any
    ) -> Any:
        """The field, without links that open pop-ups; its label with the unit, a time's with the zone."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]
        if field is not None and db_field.name in self.labels:
            field.label = self.labels[db_field.name]
        if isinstance(db_field, models.DateTimeField) and field is not None:
            field.label = f"{field.label}, {settings.TIME_ZONE}"
        if isinstance(db_field, (models.JSONField, models.TextField)) and field is not None:
            field.widget.attrs["rows"] = 3
        for name in ("can_add_related", "can_change_related", "can_delete_related", "can_view_related"):
            if field is not None and hasattr(field.widget, name):
                setattr(field.widget, name, False)
        return field


class Inline(NoPopups, UnfoldTabularInline):
    """Rows edited inside their parent's form. Subclasses name the actions that write them."""

    extra = 0
    show_change_link = False
    show_title = False

    def do_create(self, actor: Actor, row: Any) -> None:
        """Calls the action that creates `row` (unsaved, its parent set)."""
        raise PermissionDenied

    def do_update(self, actor: Actor, row: Any, changes: dict[str, Any]) -> None:
        """Calls the action that changes the given fields."""
        raise PermissionDenied

    def do_delete(self, actor: Actor, row: Any) -> None:
        """Calls the action that deletes `row`."""
        raise PermissionDenied


class ModelAdmin(NoPopups, UnfoldModelAdmin):
    """The base of every admin class."""

    list_per_page = 50
    list_max_show_all = 200
    list_filter_submit = True
    warn_unsaved_form = True
    compressed_fields = True
    show_facets = admin.ShowFacets.NEVER
    delete_confirmation_template = "console/delete_confirmation.html"
    delete_selected_confirmation_template = "console/delete_selected.html"
    empty_text = ""
    """What a list without rows says: what would be here, or how it comes about."""
    has_trail = True
    """Whether changes of these rows are in the audit trail."""

    # --- writing, by actions ---------------------------------------------------------------------------------------

    def do_create(self, actor: Actor, data: dict[str, Any]) -> models.Model:
        """Calls the app's action that creates a row out of the form's cleaned data."""
        raise PermissionDenied

    def do_update(self, actor: Actor, row: Any, changes: dict[str, Any]) -> None:
        """Calls the app's action that changes the given fields of `row`."""
        raise PermissionDenied

    def do_delete(self, actor: Actor, row: Any) -> None:
        """Calls the app's action that deletes `row`."""
        raise PermissionDenied

    goes_with: tuple[type[models.Model], ...] = ()
    """Models nobody deletes by themselves, whose rows go with a row of this one."""

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """What goes along; rows of `goes_with` need no permission of their own."""
        deleted, counts, lacking, protected = super().get_deleted_objects(objs, request)
        return deleted, counts, lacking - {model._meta.verbose_name for model in self.goes_with}, protected

    def consequences(self, row: Any) -> list[str]:
        """What deleting `row` breaks, one sentence each."""
        return []

    def blockers(self, row: Any) -> list[str]:
        """Why deleting `row` would be refused, one sentence each. The action decides; this saves asking it."""
        return []

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Creates or changes by the app's action, then gives `obj` the stored row's values."""
        actor = actor_of(request)
        if change:
            changes = {
                name: form.cleaned_data[name] for name in form.changed_data if name in form.cleaned_data
            }
            if changes:
                self.do_update(actor, obj, changes)
            return
        row = self.do_create(actor, dict(form.cleaned_data))
        obj.__dict__.update(row.__dict__)

    def save_related(self, request: HttpRequest, form: Any, formsets: list[Any], change: bool) -> None:
        """Writes the inlines only: no model here has many-to-many fields."""
        for formset in formsets:
            self.save_formset(request, form, formset, change)

    def save_formset(
        self, request: HttpRequest, form: Any, formset: BaseInlineFormSet[Any, Any, Any], change: bool
    ) -> None:
        """Writes the rows of one inline by its actions: deleted ones first, so that names are free again."""
        actor = actor_of(request)
        inline = next(one for one in self.get_inline_instances(request) if one.model is formset.model)
        formset.save(commit=False)
        for row in formset.deleted_objects:
            inline.do_delete(actor, row)
        changed = {id(row): names for row, names in formset.changed_objects}
        for row_form in formset.initial_forms:
            if id(row_form.instance) in changed:
                changes = {name: row_form.cleaned_data[name] for name in changed[id(row_form.instance)]}
                inline.do_update(actor, row_form.instance, changes)
        for row in formset.new_objects:
            inline.do_create(actor, row)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Deletes by the app's action."""
        self.do_delete(actor_of(request), obj)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """Deletes row by row, each by the app's action; all of them or, if one is refused, none."""
        with transaction.atomic():
            for row in queryset:
                self.do_delete(actor_of(request), row)

    # --- looking ---------------------------------------------------------------------------------------------------

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Lists are filtered by what they offer. By any other column they would tell it, guessed letter by letter."""
        name = lookup.partition("__")[0]
        columns = {field.name for field in self.opts.get_fields()} | {
            column.attname for column in self.opts.concrete_fields
        }
        offered = {_filtered_name(one) for one in self.get_list_filter(request)}
        return name in offered | ({name} - columns) and super().lookup_allowed(lookup, value, request)

    # --- refusals --------------------------------------------------------------------------------------------------

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """The form; if an action has just refused this very request, one that says so on its fields."""
        form = super().get_form(request, obj, change=change, **kwargs)
        refused: TokenhubError | None = getattr(request, "refused", None)
        if refused is None:
            return form

        class RefusedForm(form):  # type: ignore[misc, valid-type]
            def _post_clean(self) -> None:
                super()._post_clean()
                for name, texts in error_texts(refused).items():
                    self.add_error(name if name in self.fields else None, texts)

        return RefusedForm

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The form. What an action refuses has been rolled back; the form comes again with the reasons."""
        context = {"show_history": self.has_trail, **(extra_context or {})}
        try:
            return super().changeform_view(request, object_id, form_url, dict(context))
        except TokenhubError as refused:
            request.refused = refused  # type: ignore[attr-defined]
            return super().changeform_view(request, object_id, form_url, dict(context))

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The list. What an action over chosen rows refuses is said above it."""
        try:
            return super().changelist_view(request, extra_context)
        except TokenhubError as refused:
            self.say_refused(request, refused)
            return HttpResponseRedirect(request.get_full_path())

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Asks first, and says what will break."""
        row = self.get_object(request, object_id)
        context = {**(extra_context or {}), "own_title": "Delete", "subject": row}
        if row is not None:
            context.update(consequences=self.consequences(row), blockers=self.blockers(row))
            context["back_url"] = self.url_for("change", object_id)
        try:
            return super().delete_view(request, object_id, context)
        except TokenhubError as refused:
            self.say_refused(request, refused)
            return HttpResponseRedirect(self.url_for("change", object_id))

    def found(self, request: HttpRequest, object_id: str) -> Any:
        """The row with this id. Raises Http404 for none, and for an id that can't be one."""
        row = self.get_object(request, object_id)
        if row is None:
            raise Http404
        return row

    def confirmed(
        self,
        request: HttpRequest,
        row: Any,
        *,
        title: str,
        question: str,
        button: str,
        breaks: list[str],
        write: Callable[[], str],
    ) -> HttpResponse:
        """Asks on GET, saying what will break; writes on POST and says what was done."""
        if request.method == "POST":
            try:
                messages.success(request, write())
            except TokenhubError as refused:
                self.say_refused(request, refused)
            return HttpResponseRedirect(self.url_for("change", row.pk))
        return self.page(
            request,
            "console/confirm.html",
            title,
            question=question,
            consequences=breaks,
            button=button,
            danger=True,
            subject=row,
            back_url=self.url_for("change", row.pk),
        )

    def say_refused(self, request: HttpRequest, refused: TokenhubError) -> None:
        """Shows a refusal as messages."""
        for texts in error_texts(refused).values():
            for text in texts:
                messages.error(request, text)

    # --- the audit trail in place of Django's log ---------------------------------------------------------------------

    def log_addition(self, *args: Any) -> None:
        """Nothing: the action has written the audit trail."""

    def log_change(self, *args: Any) -> None:
        """Nothing: the action has written the audit trail."""

    def log_deletions(self, *args: Any) -> None:
        """Nothing: the action has written the audit trail."""

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Leads to the audit trail of this object."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        query = urlencode({"object_type": self.opts.label_lower, "object_id": object_id})
        return HttpResponseRedirect(
            f"{reverse(f'{self.admin_site.name}:vault_auditentry_changelist')}?{query}"
        )

    # --- own pages -------------------------------------------------------------------------------------------------

    own_pages: tuple[tuple[str, str], ...] = ()
    """Pages of this admin class: (route below the model's, name of the method that answers it)."""

    def get_urls(self) -> list[URLPattern]:
        """Own pages first: the change form's route would take them for ids."""
        pages = [
            path(route, self.admin_site.admin_view(getattr(self, name)), name=self.url_name(name))
            for route, name in self.own_pages
        ]
        return [*pages, *super().get_urls()]

    def url_name(self, page: str) -> str:
        """The name of one of this model's URLs, without the site's."""
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def url_for(self, page: str, *args: Any) -> str:
        """The URL of one of this model's pages."""
        return reverse(f"{self.admin_site.name}:{self.url_name(page)}", args=args)

    def page(self, request: HttpRequest, template: str, title: str, **context: Any) -> TemplateResponse:
        """An own page inside the console's frame. `subject` is the row that it is about, if it is about one."""
        request.current_app = self.admin_site.name  # type: ignore[attr-defined]
        frame = {**self.admin_site.each_context(request), "title": title, "model_admin": self}
        return TemplateResponse(request, template, {**frame, **context})


class ReadOnlyAdmin(ModelAdmin):
    """Rows that people look at and never write."""

    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes."""
        return False
