"""Users and roles as admin pages. Control plane."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from console.accounts import write_account
from tokenhub.control import display
from tokenhub.control.admin import ModelAdmin
from tokenhub.control.callers import actor_of

admin.site.unregister(User)
admin.site.unregister(Group)

POWERS = ("is_staff", "is_superuser", "groups", "user_permissions")
"""What makes someone an operator: only superusers give it, or nobody could be kept from giving it to himself."""


def _nothing() -> None:
    """The password is saved already."""


class AccountAdmin(ModelAdmin):
    """Saves with Django's own forms, in one audited transaction."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Saves the row with its many-to-many fields."""

        def write() -> None:
            obj.save()
            form.save_m2m()

        write_account(actor_of(request), "update" if change else "create", obj, write)

    def save_related(self, request: HttpRequest, form: Any, formsets: list[Any], change: bool) -> None:
        """Nothing: `save_model` has written all of it."""

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Deletes, audited."""
        write_account(actor_of(request), "delete", obj, obj.delete)

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """Deletes row by row, each audited; all of them or none."""
        with transaction.atomic():
            for row in queryset:
                self.delete_model(request, row)


@admin.register(User)
class UserPages(AccountAdmin, UserAdmin):
    """People who sign in. Only superusers hand out powers; nobody touches those who have powers that he lacks."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "state", "power", "last_seen")
    add_fieldsets = ((None, {"fields": ("username", "password1", "password2")}),)
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Powers", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Times", {"fields": ("last_seen", "joined")}),
    )
    labels = {"is_staff": "Staff", "is_superuser": "Superuser", "groups": "Roles", "email": "E-mail address"}

    @admin.display(description="State", ordering="is_active")
    def state(self, row: User) -> SafeString:
        return display.badge("active", "good") if row.is_active else display.badge("disabled", "warn")

    @admin.display(description="Powers")
    def power(self, row: User) -> str:
        if row.is_superuser:
            return "superuser"
        return "staff" if row.is_staff else "none: may not sign in here"

    @admin.display(description="Last sign-in", ordering="last_login")
    def last_seen(self, row: User) -> SafeString | str:
        return display.write_time_tag(row.last_login) if row.last_login else "never"

    @admin.display(description="Joined", ordering="date_joined")
    def joined(self, row: User) -> SafeString | str:
        return display.write_time_tag(row.date_joined)

    def consequences(self, row: User) -> list[str]:
        return [
            "This person can't sign in any more, and admin tokens of this user go too.",
            "To keep both for the record, disable the user instead.",
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Powers are read-only for all but superusers."""
        given = super().get_readonly_fields(request, obj)
        times = ("last_seen", "joined")
        return (*given, *times) if request.user.is_superuser else (*given, *times, *POWERS)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes those above him: a new password would be a way to become one of them."""
        return super().has_change_permission(request, obj) and not self._above(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes those above him."""
        return super().has_delete_permission(request, obj) and not self._above(request, obj)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None:
        """Django's password page saves by itself: this call is where it can be recorded. Other changes are already."""
        if getattr(request.resolver_match, "url_name", "") == "auth_user_password_change":
            write_account(actor_of(request), "set_password", obj, _nothing)

    def _above(self, request: HttpRequest, obj: Any) -> bool:
        """Whether an account has a power that who asks lacks; one that is switched off counts with all it would have."""
        if obj is None or request.user.is_superuser:
            return False
        held = Permission.objects.filter(Q(user=obj) | Q(group__user=obj))
        names = held.values_list("content_type__app_label", "codename")
        return obj.is_superuser or not request.user.has_perms([f"{app}.{name}" for app, name in names])

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        """Deletes row by row. Raises PermissionDenied if one of them is above who asks."""
        if any(self._above(request, row) for row in queryset):
            raise PermissionDenied
        super().delete_queryset(request, queryset)


@admin.register(Group)
class RolePages(AccountAdmin, GroupAdmin):
    """Roles: named sets of permissions. Superusers only write them: a role is as good as its permissions."""

    list_display = ("name", "member_count", "permission_count")
    empty_text = "A role is a named set of permissions, given to users."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        counts = {"members": Count("user", distinct=True), "grants": Count("permissions", distinct=True)}
        return super().get_queryset(request).annotate(**counts)

    @admin.display(description="Users")
    def member_count(self, row: Any) -> str:
        return display.write_count(row.members)

    @admin.display(description="Permissions")
    def permission_count(self, row: Any) -> str:
        return display.write_count(row.grants)

    def consequences(self, row: Group) -> list[str]:
        users = row.user_set.count()
        lose = display.write_number_of(users, "user loses", "users lose")
        return [f"{lose} the permissions that this role gave." if users else "No user has this role."]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Superusers."""
        return bool(request.user.is_superuser)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Superusers."""
        return bool(request.user.is_superuser)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Superusers."""
        return bool(request.user.is_superuser)
