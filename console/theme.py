"""What Unfold shows around every page: names, mark, and the sidebar by groups. Control plane; only entries that exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse_lazy


def _may_view(*permissions: str) -> Callable[[HttpRequest], bool]:
    def allowed(request: HttpRequest) -> bool:
        return request.user.has_perms(permissions)

    return allowed


def _entry(title: str, icon: str, model: str) -> dict[str, Any]:
    """A sidebar entry for the list of one model (`app.model`), shown to those who may view it."""
    app, name = model.split(".")
    TITLES[model] = title
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{name}_changelist"),
        "permission": _may_view(f"{app}.view_{name}"),
    }


TITLES: dict[str, str] = {}
"""What the sidebar calls the list of a model, by `app.model`: headings and breadcrumbs say the same."""

NAMES = {"auth.group": "role", "axes.accessattempt": "failed sign-in"}
"""What one of a model is called where Django's name for it is not ours."""

SIDEBAR: list[dict[str, Any]] = [
    {
        "title": "Operate",
        "items": [
            {"title": "Overview", "icon": "dashboard", "link": reverse_lazy("admin:index")},
            _entry("Requests", "receipt_long", "usage.usagerecord"),
            _entry("Decisions", "fork_right", "routing.decisionrecord"),
            {
                "title": "Health",
                "icon": "monitor_heart",
                "link": reverse_lazy("health"),
                "permission": _may_view("providers.view_provider"),
            },
            {
                "title": "Simulator",
                "icon": "science",
                "link": reverse_lazy("simulator"),
                "permission": _may_view("routing.view_policy"),
            },
            _entry("Workers", "memory", "snapshots.workerstatus"),
            _entry("Revisions", "history", "snapshots.configrevision"),
        ],
    },
    {
        "title": "Configure",
        "items": [
            _entry("Providers", "cloud", "providers.provider"),
            _entry("Models", "neurology", "providers.model"),
            _entry("Credentials", "vpn_key", "vault.credential"),
            {
                "title": "Vault",
                "icon": "encrypted",
                "link": reverse_lazy("vault:status"),
                "permission": _may_view("vault.view_vault"),
                # The lists of credentials and of the audit trail lie below its address, and are none of its pages.
                "active": lambda request: getattr(request.resolver_match, "app_name", "") == "vault",
            },
            _entry("Aliases", "alt_route", "routing.alias"),
            _entry("Policies", "rule_settings", "routing.policy"),
        ],
    },
    {
        "title": "Govern",
        "items": [
            _entry("Teams", "groups", "access.team"),
            _entry("Projects", "folder_open", "access.project"),
            _entry("API keys", "key", "access.apikey"),
            _entry("Model groups", "workspaces", "access.modelgroup"),
            _entry("Admin tokens", "shield_person", "access.admintoken"),
            _entry("Users", "person", "auth.user"),
            _entry("Roles", "badge", "auth.group"),
            _entry("Failed sign-ins", "lock_clock", "axes.accessattempt"),
            _entry("Audit", "policy", "vault.auditentry"),
            {"title": "API reference", "icon": "api", "link": reverse_lazy("control:docs")},
        ],
    },
    {
        "title": "Finance",
        "items": [_entry("Price book", "sell", "usage.price")],
    },
]

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "Tokenhub",
    "SITE_HEADER": "Tokenhub",
    "SITE_SUBHEADER": "LLM gateway",
    "SITE_URL": None,
    "SITE_ICON": lambda request: static("console/img/mark.svg"),
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("console/img/mark.svg")}
    ],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "console.overview.dashboard",
    "SCRIPTS": [
        lambda request: static("console/js/pages.js"),
        lambda request: static("console/js/keyboard.js"),
    ],
    "ACCOUNT": {
        "navigation": [
            {"title": "Change password", "link": reverse_lazy("admin:password_change")},
            {"title": "Second factor", "link": reverse_lazy("signin:second_factor")},
        ]
    },
    "COMMAND": {"search_models": False, "show_history": False},
    "SIDEBAR": {"show_search": True, "show_all_applications": False, "navigation": SIDEBAR},
}
