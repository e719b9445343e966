"""Teams, projects and model groups as admin pages; those of keys and tokens are in `access.key_pages`. Control plane."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse

from access import actions, group_actions
from access.cached_answers import clear_cache, read_cache
from access.key_pages import AdminTokenAdmin, ApiKeyAdmin
from access.models import GROUP_PREFIX, ModelGroup, Project, Team
from providers.models import Model
from tokenhub.control import display
from tokenhub.control.actors import Actor
from tokenhub.control.admin import ModelAdmin, action
from tokenhub.control.callers import actor_of

__all__ = ["AdminTokenAdmin", "ApiKeyAdmin", "ModelGroupAdmin", "ProjectAdmin", "TeamAdmin"]

MODELS_SHOWN = 5


@admin.register(Team)
class TeamAdmin(ModelAdmin):
    """People who share keys and a bill."""

    list_display = ("name", "slug", "enabled", "project_count", "key_count")
    list_filter = ("enabled",)
    empty_text = "A team shares keys and a bill."
    search_fields = ("name", "slug")
    fields = ("name", "slug", "enabled")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        counts = {"project_rows": Count("projects", distinct=True), "key_rows": Count("keys", distinct=True)}
        return super().get_queryset(request).annotate(**counts)

    @admin.display(description="Projects")
    def project_count(self, row: Any) -> str:
        return display.write_count(row.project_rows)

    @admin.display(description="API keys")
    def key_count(self, row: Any) -> str:
        return display.write_count(row.key_rows)

    def do_create(self, actor: Actor, data: dict[str, Any]) -> Team:
        return actions.create_team(actor, **data)

    def do_update(self, actor: Actor, row: Team, changes: dict[str, Any]) -> None:
        actions.update_team(actor, row, **changes)

    def do_delete(self, actor: Actor, row: Team) -> None:
        actions.delete_team(actor, row)

    def consequences(self, row: Team) -> list[str]:
        return ["Its usage stays in the ledger, under its short name."]

    def blockers(self, row: Team) -> list[str]:
        held = {"project": row.projects.count(), "API key": row.keys.count()}
        return [
            f"Deletion is refused while it has {display.write_number_of(number, name)}."
            for name, number in held.items()
            if number
        ]


@admin.register(Project)
class ProjectAdmin(ModelAdmin):
    """A piece of a team's work with keys of its own."""

    list_display = ("name", "slug", "team", "enabled", "key_count")
    empty_text = "A project is a piece of a team's work with keys of its own."
    list_filter = ("enabled", "team")
    list_select_related = ("team",)
    search_fields = ("name", "slug", "team__name")
    labels = {"cache_seconds": "Cache answers, s"}
    actions_detail = ["clear_cache"]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("team", *actions.PROJECT_FIELDS, *(("cache_text",) if obj is not None else ()))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        return super().get_queryset(request).annotate(key_rows=Count("keys"))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("team", "cache_text") if obj is not None else ()

    @admin.display(description="Answer cache")
    def cache_text(self, row: Project) -> str:
        found = read_cache(row)
        if not found["cache_seconds"] and not found["hits"]:
            return "off"
        tokens = display.write_count(found["input_tokens"] + found["output_tokens"])
        return (
            f"{display.write_number_of(found['answers'], 'answer')} kept; in {found['days']} days "
            f"{display.write_number_of(found['hits'], 'answer')} given again, which saved "
            f"{display.write_usd_short(found['saved_nanos'])} and {tokens} tokens"
        )

    @action(description="Clear cache", url_path="clear-cache", icon="delete_sweep", permissions=["change"])
    def clear_cache(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Drops the project's kept answers."""
        row = self.found(request, object_id)

        def write() -> str:
            dropped = clear_cache(actor_of(request), row)
            return f"{display.write_number_of(dropped, 'answer')} dropped."

        return self.confirmed(
            request,
            row,
            title="Clear cache",
            question=f"Drop the answers that are kept for {row.name}?",
            button="Drop them",
            breaks=["The next request of each kind is asked of a provider again, and costs."],
            write=write,
        )

    @admin.display(description="API keys")
    def key_count(self, row: Any) -> str:
        return display.write_count(row.key_rows)

    def do_create(self, actor: Actor, data: dict[str, Any]) -> Project:
        return actions.create_project(actor, **data)

    def do_update(self, actor: Actor, row: Project, changes: dict[str, Any]) -> None:
        actions.update_project(actor, row, **changes)

    def do_delete(self, actor: Actor, row: Project) -> None:
        actions.delete_project(actor, row)

    def consequences(self, row: Project) -> list[str]:
        return ["Its usage stays in the ledger, under its short name."]

    def blockers(self, row: Project) -> list[str]:
        keys = row.keys.count()
        return (
            [f"Deletion is refused while it has {display.write_number_of(keys, 'API key')}."] if keys else []
        )


@admin.register(ModelGroup)
class ModelGroupAdmin(ModelAdmin):
    """Models that keys are given together."""

    list_display = ("name", "listed_as", "model_names")
    search_fields = ("name",)
    fields = ("name", "models")
    filter_horizontal = ("models",)
    empty_text = "A key that lists group:NAME may use every model of the group."

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelGroup]:
        models = Model.objects.select_related("provider").order_by("provider__name", "name")
        return super().get_queryset(request).prefetch_related(Prefetch("models", queryset=models))

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Models by `provider/model`: several providers may serve one name."""
        kwargs["queryset"] = Model.objects.select_related("provider").order_by("provider__name", "name")
        field = super().formfield_for_manytomany(db_field, request, **kwargs)
        if field is not None:
            field.label_from_instance = lambda model: f"{model.provider.name}/{model.name}"
        return field

    @admin.display(description="In keys")
    def listed_as(self, row: ModelGroup) -> str:
        return f"{GROUP_PREFIX}{row.name}"

    @admin.display(description="Models")
    def model_names(self, row: ModelGroup) -> str:
        names = [f"{model.provider.name}/{model.name}" for model in row.models.all()]
        rest = len(names) - MODELS_SHOWN
        return (", ".join(names[:MODELS_SHOWN]) or "none") + (f" and {rest} more" if rest > 0 else "")

    def do_create(self, actor: Actor, data: dict[str, Any]) -> ModelGroup:
        return group_actions.create_model_group(actor, **data)

    def do_update(self, actor: Actor, row: ModelGroup, changes: dict[str, Any]) -> None:
        group_actions.update_model_group(actor, row, **changes)

    def do_delete(self, actor: Actor, row: ModelGroup) -> None:
        group_actions.delete_model_group(actor, row)

    def consequences(self, row: ModelGroup) -> list[str]:
        return ["Its models stay; keys can't list it any more."]

    def blockers(self, row: ModelGroup) -> list[str]:
        keys = group_actions.list_keys_of(row)
        more = f" and {len(keys) - 10} more" if len(keys) > 10 else ""
        return (
            [f"Deletion is refused while these API keys list it: {', '.join(keys[:10])}{more}."]
            if keys
            else []
        )
