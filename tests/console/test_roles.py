"""Least privilege: whoever has some permissions opens the pages of those and no others. Said by rule, not by observation."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from tests.console.cast import Cast, a_person, a_person_who_may, count_changes
from tests.console.routes import API_MODELS, fill
from tests.console.test_urls import DECLARED

CRUD = ("view", "add", "change", "delete")


def on(model: str, *verbs: str) -> set[str]:
    """Permissions on a model by their full names."""
    app, name = model.split(".")
    return {f"{app}.{verb}_{name}" for verb in verbs}


ROLES: dict[str, set[str]] = {
    "finance": on("usage.usagerecord", "view") | on("usage.price", "view", "add") | on("providers.model", "view"),
    "vault admin": on("vault.credential", *CRUD) | on("vault.auditentry", "view") | on("providers.provider", "view")
    | on("vault.vault", "view", "unlock", "manage"),
    "who unlocks": {"vault.unlock_vault"},
    "who looks at the vault": {"vault.view_vault"},
    "developer": on("access.apikey", *CRUD) | on("access.team", "view") | on("access.project", "view"),
    "catalogue": on("providers.model", *CRUD) | on("providers.provider", "view") | on("routing.alias", *CRUD),
    "operator of providers": on("providers.provider", *CRUD) | on("providers.endpoint", *CRUD)
    | on("snapshots.workerstatus", "view") | on("snapshots.configrevision", "view", "add"),
    "who writes policies": on("routing.policy", *CRUD) | on("access.modelgroup", *CRUD),
    "who publishes policies": on("routing.policy", "view", "publish"),
    "who approves policies": on("routing.policy", "view", "approve"),
    "user admin": on("auth.user", *CRUD) | on("auth.group", "view"),
    "nothing": set(),
}  # fmt: skip

READ_ONLY = {
    "usage.usagerecord",
    "usage.price",
    "snapshots.configrevision",
    "snapshots.workerstatus",
    "vault.auditentry",
    "routing.decisionrecord",
}
"""Nobody adds to, changes or deletes these on the pages."""

PAGES: dict[str, set[str]] = {
    "access/project/<object_id>/clear-cache/": on("access.project", "change"),
    "access/apikey/<object_id>/rotate/": on("access.apikey", "change"),
    "access/apikey/<object_id>/end-overlap/": on("access.apikey", "change"),
    "access/apikey/<object_id>/revoke/": on("access.apikey", "change"),
    "access/admintoken/<object_id>/revoke/": on("access.admintoken", "change"),
    "auth/user/<id>/password/": on("auth.user", "change"),
    "auth/user/<object_id>/remove-second-factor/": {"superusers only"},
    "providers/provider/<object_id>/models/": on("providers.provider", "view"),
    "providers/provider/<object_id>/test/": on("providers.provider", "change"),
    "providers/provider/<object_id>/discover/": on("providers.provider", "view") | on("providers.model", "add", "change"),
    "providers/model/<object_id>/price/": on("providers.model", "view") | on("usage.price", "view", "add"),
    "routing/policy/<object_id>/draft/": on("routing.policy", "view", "change"),
    "routing/policy/<object_id>/discard/": on("routing.policy", "view", "change"),
    "routing/policy/<object_id>/publish/": on("routing.policy", "view", "publish"),
    "routing/policy/<object_id>/approve/": on("routing.policy", "view", "approve"),
    "routing/policy/<object_id>/versions/<number>/roll-back/": on("routing.policy", "view", "publish"),
    "vault/credential/<object_id>/seal/": on("vault.credential", "change"),
    "vault/credential/<object_id>/delete-key/": on("vault.credential", "change"),
    "vault/credential/<object_id>/renew/": on("vault.credential", "change"),
    "vault/": on("vault.vault", "view"),
    "vault/live/": on("vault.vault", "view"),
    "vault/rotate-data-key/progress/": on("vault.vault", "view"),
    "vault/unlock/": on("vault.vault", "unlock"),
    "vault/lock/": on("vault.vault", "unlock"),
    "vault/initialise/": on("vault.vault", "manage"),
    "vault/strength/": on("vault.vault", "manage"),
    "vault/recovery-kept/": on("vault.vault", "manage"),
    "vault/settings/": on("vault.vault", "manage"),
    "vault/check/": on("vault.vault", "manage"),
    "vault/accept-rows/": on("vault.vault", "manage"),
    "vault/change-password/": on("vault.vault", "manage"),
    "vault/try-recovery-key/": on("vault.vault", "manage"),
    "vault/slots/add/": on("vault.vault", "manage"),
    "vault/slots/add/<kind>/": on("vault.vault", "manage"),
    "vault/slots/<slot_id>/rename/": on("vault.vault", "manage"),
    "vault/slots/<slot_id>/remove/": on("vault.vault", "manage"),
    "vault/rotate-data-key/": on("vault.vault", "manage"),
    "vault/rotate-root/": on("vault.vault", "manage"),
    "usage/usagerecord/request/<request_id>/": on("usage.usagerecord", "view"),
    "routing/health/": on("providers.provider", "view"),
    "routing/simulator/": on("routing.policy", "view"),
    "routing/decisionrecord/request/<request_id>/": on("routing.decisionrecord", "view"),
    "vault/auditentry/verify/": on("vault.auditentry", "view"),
    "vault/auditentry/export/csv/": on("vault.auditentry", "view", "export"),
    "vault/auditentry/export/jsonl/": on("vault.auditentry", "view", "export"),
}  # fmt: skip
"""What the models' own pages need."""

API: dict[str, set[str]] = {
    "requests/<request_id>": on("usage.usagerecord", "view"),
    "audit/export/csv": on("vault.auditentry", "view", "export"),
    "audit/export/jsonl": on("vault.auditentry", "view", "export"),
    "health": on("providers.provider", "view"),
    "routing/simulate": on("routing.policy", "view"),
    "snapshot/publish": on("snapshots.configrevision", "add"),
    "revisions": on("snapshots.configrevision", "view"),
    "revisions/<revision>": on("snapshots.configrevision", "view"),
    "endpoints/<pk>/consequences": on("providers.endpoint", "view") | on("vault.credential", "view"),
    "vault": on("vault.vault", "view"),
    "vault/rotate-data-key": on("vault.vault", "view"),
    "vault/slots": on("vault.vault", "view"),
    "vault/slots/<pk>": on("vault.vault", "view"),
    "vault/secrets": on("vault.sealedsecret", "view"),
    "vault/secrets/<pk>": on("vault.sealedsecret", "view"),
    "models/<pk>/prices": on("providers.model", "view") | on("usage.price", "view"),
}
"""What a GET in the API needs where it is not just to view the model."""


def needed_for(route: str) -> set[str] | None:
    """The permissions that a GET needs; None: any staff. A set with an unknown name: nobody but a superuser."""
    parts = route.split("/")
    if route == "admin/vault/":
        return PAGES["vault/"]
    if route.startswith("admin/v1/"):
        rest = route.removeprefix("admin/v1/")
        return API.get(rest) or (on(API_MODELS[parts[2]], "view") if parts[2] in API_MODELS else None)
    if len(parts) < 4 or parts[1] not in {name.split(".")[0] for name in {*API_MODELS.values(), "auth.user"}}:
        return None
    model, page = f"{parts[1]}.{parts[2]}", "/".join(parts[3:])
    if page == "<object_id>/":
        return None  # only leads on to the change page
    own = PAGES.get(route.removeprefix("admin/"))
    if own is not None:
        return own
    verb = {"": "view", "add/": "add", "<object_id>/delete/": "delete"}.get(page, "view")
    if verb != "view" and (model in READ_ONLY or model == "auth.group"):
        return {"superusers.only"}
    return on(model, verb)


@pytest.fixture
def browsers(ids: dict[str, str]) -> dict[str, Client]:
    """A browser for each role."""
    made = {}
    for role, held in ROLES.items():
        made[role] = Client(raise_request_exception=False)
        made[role].force_login(a_person_who_may(*held, username=role.replace(" ", "-")))
    return made


@pytest.mark.once
@pytest.mark.parametrize("role", ROLES)
def test_a_role_opens_the_pages_of_its_permissions_and_no_others(
    role: str, browsers: dict[str, Client], ids: dict[str, str]
) -> None:
    held = ROLES[role]
    ids["auth.user"] = str(User.objects.create_user("someone without powers").pk)
    wrong = {}
    for route in DECLARED:
        needed = needed_for(route)
        if needed is None:
            continue
        status = browsers[role].get(fill(route, ids)).status_code
        if (status == 403) is (needed <= held):
            wrong[route] = (status, needed - held)
    assert wrong == {}


@pytest.mark.once
@pytest.mark.parametrize("role", ROLES)
def test_a_role_writes_nothing_outside_its_permissions(
    role: str, browsers: dict[str, Client], ids: dict[str, str]
) -> None:
    verbs = {"post": "add", "patch": "change", "put": "change", "delete": "delete"}
    written = count_changes()
    for name, model in API_MODELS.items():
        for method, verb in verbs.items():
            if on(model, verb) <= ROLES[role]:
                continue
            for route in (f"admin/v1/{name}", f"admin/v1/{name}/<pk>"):
                answer = getattr(browsers[role], method)(
                    fill(route, ids), {}, content_type="application/json"
                )
                assert answer.status_code in (403, 405), (route, method, answer.status_code)
    assert count_changes() == written


def test_a_provider_is_not_deleted_over_the_heads_of_those_who_own_its_credentials(
    cast: Cast,
) -> None:
    cast.alias.delete()
    parts = ("providers.delete_provider", "providers.delete_model", "vault.delete_credential")
    api, page = (
        f"/admin/v1/providers/{cast.provider.pk}",
        f"/admin/providers/provider/{cast.provider.pk}/delete/",
    )
    for missing in parts:
        person = Client(raise_request_exception=False)
        rest = [name for name in parts if name != missing]
        person.force_login(a_person_who_may("providers.view_provider", *rest, username=missing))
        assert person.delete(api).status_code == 403
        assert person.post(page, {"post": "yes"}).status_code == 403
    person.force_login(a_person_who_may("providers.view_provider", *parts))
    assert person.delete(api).status_code == 204


def test_the_targets_of_an_alias_need_the_alias_s_permissions_on_pages_and_in_the_api(cast: Cast) -> None:
    browser = Client()
    browser.force_login(
        a_person_who_may("routing.change_alias", "routing.view_alias", "providers.view_model")
    )
    target = cast.alias.targets.get()
    form = {
        "name": cast.alias.name,
        "sticky_by": "request",
        "targets-TOTAL_FORMS": "1",
        "targets-INITIAL_FORMS": "1",
        "targets-0-id": target.pk,
        "targets-0-alias": cast.alias.pk,
        "targets-0-model": cast.model.pk,
        "targets-0-priority": "7",
        "targets-0-weight": "1",
    }
    assert browser.post(f"/admin/routing/alias/{cast.alias.pk}/change/", form).status_code == 302
    target.refresh_from_db()
    assert target.priority == 7
    body = {"targets": [{"model": cast.model.pk, "priority": 3}]}
    changed = browser.patch(f"/admin/v1/aliases/{cast.alias.pk}", body, content_type="application/json")
    assert changed.status_code == 200
    assert cast.alias.targets.get().priority == 3


@pytest.mark.parametrize("through", ["own", "role", "switched off"])
def test_who_keeps_users_takes_over_nobody_with_powers_that_he_lacks(through: str, cast: Cast) -> None:
    victim = User.objects.create_user("keeper", password="the old pass phrase", is_staff=True)
    power = Permission.objects.get(codename="change_credential")
    if through == "role":
        group = Group.objects.create(name="vault")
        group.permissions.add(power)
        victim.groups.add(group)
    else:
        victim.user_permissions.add(power)
    victim.is_active = through != "switched off"
    victim.save()
    browser = Client(raise_request_exception=False)
    browser.force_login(a_person_who_may(*ROLES["user admin"]))
    url = f"/admin/auth/user/{victim.pk}"
    form = {"password1": "the new pass phrase", "password2": "the new pass phrase", "usable_password": "true"}
    assert browser.post(f"{url}/password/", form).status_code == 403
    assert browser.post(f"{url}/change/", {"username": "keeper", "is_active": "on"}).status_code == 403
    assert browser.post(f"{url}/delete/", {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [victim.pk], "post": "yes"}
    assert browser.post("/admin/auth/user/", chosen).status_code == 403
    victim.refresh_from_db()
    assert victim.check_password("the old pass phrase")
    peer = User.objects.create_user("peer", password="the old pass phrase", is_staff=True)
    assert browser.post(f"/admin/auth/user/{peer.pk}/password/", form).status_code == 302


@pytest.mark.parametrize(
    "query",
    [
        "access/admintoken/?digest__startswith={digest}",
        "access/admintoken/?last4__gt=0",
        "access/admintoken/?user_id__gt=0",
        "access/admintoken/?user__password__startswith=p",
        "access/apikey/?secrets__digest__startswith=a",
        "auth/user/?password__startswith=p",
        "auth/user/?email__startswith=a",
        "vault/auditentry/?before__contains=a",
    ],
)
def test_a_list_is_no_oracle_for_columns_that_it_does_not_offer(query: str, cast: Cast) -> None:
    viewer = Client(raise_request_exception=False)
    viewer.force_login(a_person("viewer"))
    answer = viewer.get(f"/admin/{query.format(digest=cast.token.digest[:5])}")
    assert answer.status_code == 400


def test_what_a_list_offers_still_filters(cast: Cast) -> None:
    viewer = Client()
    viewer.force_login(a_person("viewer"))
    for query in (
        f"providers/model/?provider__id__exact={cast.provider.pk}",
        "providers/model/?enabled__exact=1",
        f"access/apikey/?team__id__exact={cast.team.pk}",
        "auth/user/?is_staff__exact=1",
        "vault/auditentry/?object_type=providers.provider&object_id=1&at_from_0=",
        "vault/auditentry/?actor_kind__exact=command",
        "usage/usagerecord/?model=acme-large&outcome__exact=completed&started_at_to_0=",
    ):
        assert viewer.get(f"/admin/{query}").status_code == 200, query
