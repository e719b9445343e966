"""Teams and projects as admin pages; those of keys and tokens are in `access.key_pages`. Control plane."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from access import actions
from access.key_pages import AdminTokenAdmin, ApiKeyAdmin
from access.models import Project, Team
from tokenhub.control import display
from tokenhub.control.actors import Actor
from tokenhub.control.admin import ModelAdmin

__all__ = ["AdminTokenAdmin", "ApiKeyAdmin", "ProjectAdmin", "TeamAdmin"]


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
    fields = ("team", "name", "slug", "enabled")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Project]:
        return super().get_queryset(request).annotate(key_rows=Count("keys"))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return ("team",) if obj is not None else ()

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
