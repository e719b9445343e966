"""Teams, projects, API keys and admin tokens. Control plane; only keyed digests of secrets are stored."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxLengthValidator, MaxValueValidator
from django.db import models

from providers.models import Model
from providers.rules import check_slug
from tokenhub.control.actors import ADMIN_SCOPES
from tokenhub.core.specs import SCOPES

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,299}", re.ASCII)
MAX_ALLOWED_MODELS = 1000
LONGEST_CACHE_SECONDS = 30 * 86_400
GROUP_PREFIX = "group:"
"""What a key's list of models calls a group by: `group:NAME`."""


def default_scopes() -> list[str]:
    """What a new API key may do unless someone says otherwise: everything."""
    return list(SCOPES)


def default_admin_scopes() -> list[str]:
    """What a new admin token may do unless someone says otherwise: read."""
    return ["read"]


def check_scopes(value: Any) -> None:
    """Raises ValidationError unless `value` is a list of different names out of SCOPES."""
    _check_names(value, SCOPES)


def check_admin_scopes(value: Any) -> None:
    """Raises ValidationError unless `value` is a list of different names out of ADMIN_SCOPES."""
    _check_names(value, ADMIN_SCOPES)


def _check_names(value: Any, known: tuple[str, ...]) -> None:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValidationError(f"Give a list of names out of {', '.join(known)}.")
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise ValidationError(f"Unknown: {', '.join(unknown)}. Known are {', '.join(known)}.")
    if len(set(value)) < len(value):
        raise ValidationError("Name each scope once.")


def check_allowed_models(value: Any) -> None:
    """Raises ValidationError unless `value` is a list of names: of models, `provider/model`s, aliases or `group:NAME`s."""
    if not isinstance(value, list) or len(value) > MAX_ALLOWED_MODELS:
        raise ValidationError(
            f"Give a list of at most {MAX_ALLOWED_MODELS} names, or nothing for every model."
        )
    for item in value:
        if not isinstance(item, str) or _MODEL_NAME.fullmatch(item) is None:
            raise ValidationError(
                "Each name is a model's, a provider/model, an alias's or group:NAME; patterns are not known."
            )


class ModelGroup(models.Model):
    """Models that keys are given together: a key that lists `group:NAME` may use each of them."""

    name = models.CharField(
        max_length=64, unique=True, validators=[check_slug], help_text="Keys list it as group:NAME."
    )
    models = models.ManyToManyField(Model, blank=True, related_name="groups")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def audit_related(self) -> dict[str, Any]:
        """The models, for the audit trail."""
        rows = self.models.order_by("provider__name", "name").values_list("provider__name", "name")
        return {"models": [f"{provider}/{name}" for provider, name in rows]}


class Team(models.Model):
    """People who share keys and a bill. Disabling a team disables its keys."""

    name = models.CharField(max_length=200)
    slug = models.CharField(max_length=64, unique=True, validators=[check_slug])
    enabled = models.BooleanField(default=True)

    class Meta:
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.name


class Project(models.Model):
    """A piece of a team's work with keys of its own. Disabling a project disables its keys."""

    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="projects")
    name = models.CharField(max_length=200)
    slug = models.CharField(max_length=64, validators=[check_slug], help_text="Unique in its team.")
    enabled = models.BooleanField(default=True)
    cache_seconds = models.PositiveIntegerField(
        default=0,
        validators=[MaxValueValidator(LONGEST_CACHE_SECONDS)],
        help_text="For how many seconds a request that is exactly the same gets the same answer, at no cost. 0 = never.",
    )

    class Meta:
        ordering = ["team_id", "slug"]
        constraints = [models.UniqueConstraint(fields=["team", "slug"], name="access_project_unique_slug")]

    def __str__(self) -> str:
        return self.name


class ApiKey(models.Model):
    """A key for /v1. Its secrets are rows of their own: two of them live during a rotation's overlap."""

    key_id = models.CharField(max_length=12, unique=True, editable=False)
    name = models.CharField(max_length=200)
    team = models.ForeignKey(Team, null=True, blank=True, on_delete=models.PROTECT, related_name="keys")
    project = models.ForeignKey(Project, null=True, blank=True, on_delete=models.PROTECT, related_name="keys")
    scopes = models.JSONField(default=default_scopes, blank=True, validators=[check_scopes])
    allowed_models = models.JSONField(
        null=True,
        blank=True,
        default=None,
        validators=[check_allowed_models],
        help_text="Names of models, provider/models, aliases and group:NAMEs. Empty (null) = every model; [] = none.",
    )
    expires_at = models.DateTimeField(null=True, blank=True)
    enabled = models.BooleanField(default=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=200, editable=False)
    note = models.TextField(blank=True, validators=[MaxLengthValidator(2000)])

    audit_ignored = ("created_at",)

    class Meta:
        ordering = ["-id"]
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.key_id})"

    def clean(self) -> None:
        """Takes the team over from the project. Raises ValidationError where the project is another team's."""
        if self.project is None:
            return
        if self.team is None:
            self.team = self.project.team
        elif self.team != self.project.team:
            raise ValidationError(
                {"project": "This project belongs to another team. Choose one of the key's team."}
            )

    def is_live(self, now: datetime) -> bool:
        """Whether the key admits requests at `now`, as far as it alone, its team and its project say."""
        return (
            self.enabled
            and self.revoked_at is None
            and (self.expires_at is None or self.expires_at > now)
            and (self.team is None or self.team.enabled)
            and (self.project is None or (self.project.enabled and self.project.team.enabled))
        )

    def audit_related(self) -> dict[str, Any]:
        """The key's secrets as fingerprint-free facts, for the audit trail."""
        rows = self.secrets.order_by("id").values("last4", "pepper_version", "expires_at", "revoked_at")
        return {"secrets": [{name: _plain(value) for name, value in row.items()} for row in rows]}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


class ApiKeySecret(models.Model):
    """One secret of a key, as a keyed digest; its last four characters are kept so that people can tell them apart."""

    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="secrets")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    pepper_version = models.PositiveIntegerField(default=1, editable=False)
    last4 = models.CharField(max_length=4, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    audit_secret = ("digest",)
    audit_ignored = ("created_at",)

    class Meta:
        verbose_name = "API key secret"
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"…{self.last4}"


class AdminToken(models.Model):
    """A `tha_` token for the admin API: a user's or a service's."""

    key_id = models.CharField(max_length=12, unique=True, editable=False)
    name = models.CharField(max_length=200)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.CASCADE, related_name="admin_tokens"
    )
    service = models.CharField(
        max_length=100, blank=True, help_text="The service's name, where no user owns it."
    )
    scopes = models.JSONField(default=default_admin_scopes, blank=True, validators=[check_admin_scopes])
    digest = models.CharField(max_length=64, unique=True, editable=False)
    pepper_version = models.PositiveIntegerField(default=1, editable=False)
    last4 = models.CharField(max_length=4, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=200, editable=False)

    audit_secret = ("digest",)
    audit_ignored = ("created_at",)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.name} ({self.key_id})"

    def clean(self) -> None:
        """Raises ValidationError unless exactly one of user and service owns the token."""
        if (self.user_id is None) == (self.service == ""):
            raise ValidationError({"service": "Name either a user or a service."})

    @property
    def owner(self) -> str:
        """The user's or the service's name."""
        return self.user.get_username() if self.user is not None else self.service

    def is_live(self, now: datetime) -> bool:
        """Whether the token is good at `now`: not revoked, not expired, its user still active."""
        alive = self.revoked_at is None and (self.expires_at is None or self.expires_at > now)
        return alive and (self.user is None or self.user.is_active)


class IdempotentAnswer(models.Model):
    """A claim on an idempotency key, and the answer that the first request with it got. Digests and sealed bytes only."""

    name = models.CharField(max_length=64, primary_key=True)
    fingerprint = models.CharField(max_length=64)
    owner = models.CharField(max_length=64)
    done = models.BooleanField(default=False)
    lease_until = models.DateTimeField()
    expires_at = models.DateTimeField(db_index=True)
    sealed = models.BinaryField(default=bytes)

    def __str__(self) -> str:
        return self.name[:8]


class CachedAnswer(models.Model):
    """An answer that the same request gets again. Digests and sealed bytes only; `tenant` is `KeySpec.tenant`."""

    name = models.CharField(max_length=64, primary_key=True)
    tenant = models.CharField(max_length=200, db_index=True)
    sealed = models.BinaryField()
    model_id = models.CharField(max_length=64)
    cost_nanos = models.BigIntegerField(null=True)
    input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    created_at = models.DateTimeField(db_index=True)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.name[:8]


class CacheSaving(models.Model):
    """What a tenant's kept answers saved on one day (UTC): answers given again, and what they had cost."""

    tenant = models.CharField(max_length=200)
    day = models.DateField()
    hits = models.BigIntegerField(default=0)
    saved_nanos = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "day"], name="access_cache_saving_unique")]

    def __str__(self) -> str:
        return f"{self.tenant} {self.day}"
