"""Users and roles as admin pages. Control plane."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from console.accounts import write_account
from signin.actions import remove_second_factor
from signin.backends import find_sign_in
from signin.recent import ask_again, recently_confirmed
from tokenhub.control import display
from tokenhub.control.admin import ModelAdmin, action
from tokenhub.control.callers import actor_of
from tokenhub.core.errors import TokenhubError

admin.site.unregister(User)
admin.site.unregister(Group)

POWERS = ("is_staff", "is_superuser", "groups", "user_permissions")
"""What makes someone an operator: only superusers give it, or nobody could be kept from giving it to himself."""


def _nothing() -> None:
    """The password is saved already."""


class AccountAdmin(ModelAdmin):
    """Saves with Django's own forms, in one audited transaction. Whoever may change an account confirms first that it is he."""

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """The form; looking at it is free for those who can't change it."""
        may = self.has_add_permission(request) if object_id is None else self.has_change_permission(request)
        again = ask_again(request) if may else None
        return again or super().changeform_view(request, object_id, form_url, extra_context)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """Asks again, then asks whether."""
        again = ask_again(request) if self.has_delete_permission(request) else None
        return again or super().delete_view(request, object_id, extra_context)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """The list is free; what is done to chosen rows is not."""
        again = ask_again(request) if request.method == "POST" else None
        return again or super().changelist_view(request, extra_context)

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
    list_display = ("username", "email", "state", "power", "second_factor", "last_seen")
    list_select_related = ("sign_in",)
    actions_detail = ("reset_second_factor",)
    add_fieldsets = ((None, {"fields": ("username", "password1", "password2")}),)
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Powers", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Times", {"fields": ("second_factor", "last_seen", "joined")}),
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

    @admin.display(description="Second factor")
    def second_factor(self, row: User) -> SafeString:
        door = find_sign_in(row)
        return display.badge("on", "good") if door and door.is_enrolled else display.badge("off")

    def has_reset_second_factor_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Superusers: whoever takes it away needs only the password to become that person."""
        return bool(request.user.is_superuser)

    @action(
        description="Remove second factor",
        url_path="remove-second-factor",
        icon="phonelink_erase",
        permissions=["reset_second_factor"],
    )
    @recently_confirmed
    def reset_second_factor(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """For those who have lost their authenticator and their recovery codes."""
        row = self.found(request, object_id)
        back = self.url_for("change", row.pk)
        if request.method == "POST":
            try:
                remove_second_factor(actor_of(request), row, timezone.now())
                messages.success(request, f"{row} has no second factor any more.")
            except TokenhubError as refused:
                self.say_refused(request, refused)
            return HttpResponseRedirect(back)
        return self.page(
            request,
            "console/confirm.html",
            "Remove second factor",
            question=f"Remove the second factor of {row}?",
            consequences=[
                "The password alone is enough to sign in until another one is set up.",
                "All sessions of this user end. Make sure that it is this person who asks.",
            ],
            button="Remove it",
            danger=True,
            subject=row,
            back_url=back,
        )

    @recently_confirmed
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponseBase:
        """Another's password is a way to become him."""
        return super().user_change_password(request, id, form_url)

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
        times = ("second_factor", "last_seen", "joined")
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
