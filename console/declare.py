"""Brings the database in line with config.yaml: providers, models, aliases, teams, projects, keys. Control plane.

Policies and model groups are in `console.declare_policies`.

What the file names is created or changed through the apps' actions; what it does not name stays as it is, except that the
endpoints, credentials and targets of a named object become exactly those listed. Applying a file twice changes nothing.
"""

from __future__ import annotations

import hmac
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from django.db import transaction
from django.utils import timezone

from access import actions as access
from access.models import ApiKey, Project, Team
from access.pepper import get_peppers
from console.declaration import Declaration, Entry, without
from console.declare_policies import declare_model_groups, declare_policies
from providers import actions as providers
from providers.models import Model, Provider
from providers.rules import normalise_url
from routing import actions as routing
from routing.models import Alias
from tokenhub.configfile import ConfigFile, KeyPath
from tokenhub.control.actors import Actor
from tokenhub.core.keys import digest_key, find_key_parts
from tokenhub.core.money import PRICED_NAMES, nanos_from_usd
from tokenhub.core.specs import CredentialSpec
from tokenhub.core.usage import COUNTED
from usage.actions import set_price
from usage.models import Price
from usage.prices import list_current_prices
from vault import actions as vault
from vault.keyring import Keyring


def apply_declaration(
    config: ConfigFile, actor: Actor, keyring: Keyring, *, dry_run: bool = False, now: datetime | None = None
) -> list[str]:
    """Applies the file, all of it or nothing; returns the difference, a line each (`+` created, `~` changed, `-` removed).

    `dry_run` works out the difference and leaves everything as it was. Raises SettingInvalid naming file and line.
    """
    declaration = Declaration(config, actor, keyring, now or timezone.now())
    with transaction.atomic():
        for declare in (
            _providers,
            _models,
            _aliases,
            declare_model_groups,
            _teams,
            _projects,
            _keys,
            declare_policies,
        ):
            declare(declaration)
        if dry_run:
            transaction.set_rollback(True)
    return declaration.difference


def _providers(run: Declaration) -> None:
    for place, entry in run.entries("providers", ("name", "kind")):
        with run.at(place):
            label = f"provider {entry['name']}"
            row = Provider.objects.filter(name=entry["name"]).first()
            fields = without(entry, "endpoints", "credentials")
            row = run.put(label, row, fields, providers.create_provider, providers.update_provider)
            if "endpoints" in entry:
                _endpoints(run, (*place, "endpoints"), row, entry["endpoints"])
            if "credentials" in entry:
                _credentials(run, (*place, "credentials"), row, entry["credentials"])


def _endpoints(run: Declaration, at: KeyPath, provider: Provider, listed: Any) -> None:
    if isinstance(listed, list):
        listed = [{"url": item} if isinstance(item, str) else item for item in listed]
    kept = set()
    for place, entry in run.items(listed, at, ("url",)):
        with run.at(place):
            wanted = {**entry, "url": normalise_url(str(entry["url"]))}
            row = provider.endpoints.filter(url=wanted["url"]).first()

            def create(actor: Actor, **fields: Any) -> Any:
                return providers.create_endpoint(actor, provider=provider, **fields)

            run.put(
                f"endpoint {provider.name} {wanted['url']}", row, wanted, create, providers.update_endpoint
            )
            kept.add(wanted["url"])
    for row in provider.endpoints.exclude(url__in=kept):
        run.difference.append(f"- endpoint {provider.name} {row.url}")
        providers.delete_endpoint(run.actor, row)


def _credentials(run: Declaration, at: KeyPath, provider: Provider, listed: Any) -> None:
    kept = set()
    for place, entry in run.items(listed, at, ("name",)):
        with run.at(place):
            row = provider.credentials.filter(name=entry["name"]).first()

            def create(actor: Actor, **fields: Any) -> Any:
                return vault.create_credential(actor, provider=provider, **fields)

            label = f"credential {provider.name} {entry['name']}"
            run.put(label, row, entry, create, vault.update_credential)
            kept.add(entry["name"])
    for row in provider.credentials.exclude(name__in=kept):
        run.difference.append(f"- credential {provider.name} {row.name}")
        vault.delete_credential(run.actor, row)


def _models(run: Declaration) -> None:
    prices = list_current_prices(run.now)
    for place, entry in run.entries("models", ("provider", "name")):
        with run.at(place):
            provider = Provider.objects.filter(name=entry["provider"]).first()
            if provider is None:
                raise run.wrong((*place, "provider"), f"there is no provider {entry['provider']!r}")
            row = provider.models.filter(name=entry["name"]).first()
            label = f"model {provider.name}/{entry['name']}"

            def create(actor: Actor, *, provider: Provider = provider, **fields: Any) -> Model:
                return providers.create_model(actor, provider=provider, **fields)

            fields = without(entry, "provider", "price")
            row = run.put(label, row, fields, create, providers.update_model)
            if "price" in entry:
                rates = _read_rates(run, (*place, "price"), entry["price"])
                current = prices.get(row.pk)
                if current is None or dict(current.rates) != rates:
                    run.difference.append(f"{'+' if current is None else '~'} price of {label}")
                    set_price(actor=run.actor, model=row, rates=rates, source=Price.Source.DECLARED.value)


def _read_rates(run: Declaration, at: KeyPath, price: Any) -> dict[str, int]:
    """USD per million tokens (per piece for counted things) as nano-dollars."""
    if not isinstance(price, dict) or not price:
        raise run.wrong(
            at, "price must be a mapping of USD per million tokens, such as {input: '0.25', output: '2'}"
        )
    rates = {}
    for name, usd in price.items():
        if name not in PRICED_NAMES:
            raise run.wrong(
                (*at, name), f"there is no price of {name!r}; there are {', '.join(PRICED_NAMES)}"
            )
        try:
            # By way of its text: 0.1 as a binary fraction is no whole number of nano-dollars.
            rates[name] = nanos_from_usd(Decimal(str(usd)))
        except (InvalidOperation, ValueError, OverflowError):
            unit = "piece" if name in COUNTED else "million tokens"
            raise run.wrong(
                (*at, name), f"{name} must be an amount of USD per {unit}, to the nano-dollar"
            ) from None
    return rates


def _aliases(run: Declaration) -> None:
    for place, entry in run.entries("aliases", ("name", "targets")):
        with run.at(place):
            unknown = sorted(set(entry) - {"name", "targets", "sticky_by"})
            if unknown:
                raise run.wrong(
                    (*place, unknown[0]),
                    f"an alias has no {unknown[0]!r}; it has name, targets and sticky_by",
                )
            drafts = _read_targets(run, (*place, "targets"), entry["targets"])
            alias = Alias.objects.filter(name=entry["name"]).first()
            if alias is None:
                run.difference.append(f"+ alias {entry['name']}")
                sticky_by = entry.get("sticky_by", "request")
                routing.create_alias(run.actor, name=entry["name"], targets=drafts, sticky_by=sticky_by)
                continue
            if entry.get("sticky_by", alias.sticky_by) != alias.sticky_by:
                run.difference.append(
                    f"~ alias {alias.name}: sticky_by: {alias.sticky_by!r} → {entry['sticky_by']!r}"
                )
                routing.update_alias(run.actor, alias, sticky_by=entry["sticky_by"])
            rows = alias.targets.select_related("model").order_by("priority", "id")
            now = sorted((row.priority, row.weight, row.model.pk) for row in rows)
            if now != sorted((draft.priority, draft.weight, draft.model.pk) for draft in drafts):
                run.difference.append(f"~ alias {alias.name}: targets")
                routing.update_alias(run.actor, alias, targets=drafts)


def _read_targets(run: Declaration, at: KeyPath, listed: Any) -> list[routing.TargetDraft]:
    """Targets as `provider/model`, tried in the order of the list, or as mappings with their own priority and weight."""
    if isinstance(listed, list):
        listed = [
            {"model": item, "priority": index} if isinstance(item, str) else item
            for index, item in enumerate(listed)
        ]
    drafts = []
    for place, entry in run.items(listed, at, ("model",)):
        provider, _, name = str(entry["model"]).partition("/")
        model = Model.objects.filter(provider__name=provider, name=name).first()
        if model is None:
            raise run.wrong(place, f"there is no model {entry['model']!r}; name it as provider/model")
        unknown = sorted(set(entry) - {"model", "priority", "weight"})
        if unknown:
            raise run.wrong(place, f"a target has no {unknown[0]!r}; it has model, priority and weight")
        numbers = {name: entry[name] for name in ("priority", "weight") if name in entry}
        if not all(isinstance(number, int) for number in numbers.values()):
            raise run.wrong(place, "priority and weight of a target are whole numbers")
        drafts.append(routing.TargetDraft(model=model, **numbers))
    return drafts


def _teams(run: Declaration) -> None:
    for place, entry in run.entries("teams", ("slug",)):
        with run.at(place):
            row = Team.objects.filter(slug=entry["slug"]).first()
            wanted = {"name": entry["slug"], **entry}
            run.put(f"team {entry['slug']}", row, wanted, access.create_team, access.update_team)


def _projects(run: Declaration) -> None:
    for place, entry in run.entries("projects", ("team", "slug")):
        with run.at(place):
            team = _get_team(run, place, entry["team"])
            row = team.projects.filter(slug=entry["slug"]).first()

            def create(actor: Actor, *, team: Team = team, **fields: Any) -> Project:
                return access.create_project(actor, team=team, **fields)

            wanted = {"name": entry["slug"], **without(entry, "team")}
            run.put(f"project {team.slug}/{entry['slug']}", row, wanted, create, access.update_project)


def _get_team(run: Declaration, place: KeyPath, slug: Any) -> Team:
    team: Team | None = Team.objects.filter(slug=slug).first()
    if team is None:
        raise run.wrong((*place, "team"), f"there is no team {slug!r}")
    return team


def _keys(run: Declaration) -> None:
    for place, entry in run.entries("keys", ("name", "source", "reference")):
        with run.at(place):
            plaintext = _open_key(run, place, entry)
            parts = find_key_parts(plaintext)
            if parts is None:
                raise run.wrong(place, f"what {entry['reference']!r} holds is no well-formed API key")
            fields = without(entry, "source", "reference", "team", "project")
            fields |= _read_owner(run, place, entry)
            if isinstance(fields.get("expires_at"), datetime) and timezone.is_naive(fields["expires_at"]):
                raise run.wrong(
                    (*place, "expires_at"), "expires_at needs a time zone, such as 2030-01-31T00:00:00Z"
                )

            def create(actor: Actor, *, secret: str = plaintext, **wanted: Any) -> ApiKey:
                return access.create_api_key(actor, plaintext=secret, **wanted)[0]

            row = ApiKey.objects.filter(key_id=parts.key_id).first()
            if row is not None and not _is_secret_of(row, plaintext):
                raise run.wrong(
                    place,
                    f"key {parts.key_id} exists with another secret; rotate it instead of declaring it anew",
                )
            run.put(f"key {entry['name']} ({parts.key_id})", row, fields, create, access.update_api_key)


def _is_secret_of(key: ApiKey, plaintext: str) -> bool:
    peppers = get_peppers()
    stored = key.secrets.filter(pepper_version__in=peppers).values_list("digest", "pepper_version")
    return any(
        hmac.compare_digest(digest_key(plaintext, peppers[version]).hex(), digest)
        for digest, version in stored
    )


def _read_owner(run: Declaration, place: KeyPath, entry: Entry) -> dict[str, Any]:
    if "team" not in entry:
        if "project" in entry:
            raise run.wrong((*place, "project"), "name the project's team too")
        return {}
    team = _get_team(run, place, entry["team"])
    if "project" not in entry:
        return {"team": team}
    project = team.projects.filter(slug=entry["project"]).first()
    if project is None:
        raise run.wrong((*place, "project"), f"team {team.slug} has no project {entry['project']!r}")
    return {"team": team, "project": project}


def _open_key(run: Declaration, place: KeyPath, entry: Entry) -> str:
    """The key's text, by reference only: a key in the file itself would be in backups and version control."""
    if entry["source"] not in ("env", "file"):
        raise run.wrong(
            (*place, "source"),
            "source is env (a variable's name) or file (a path below the credentials folder)",
        )
    reference = CredentialSpec("declared", entry["name"], entry["source"], str(entry["reference"]))
    return run.keyring.get_unbound(reference)
