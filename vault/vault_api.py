"""The vault in the admin API, `/admin/v1/vault`: unlock, lock, slots, rotations, and what is sealed. Control plane; write-only.

A password or key comes in and never goes out; the one thing that is shown is a new recovery key, once.
"""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSetMixin

from signin.recent import RecentSession
from tokenhub.control.api import ControlView, ControlViewSet
from tokenhub.control.permissions import StaffWithPermission
from vault import rotations, vault_actions, vault_manifest
from vault.configured_kms import get_kms
from vault.engine.slots import SlotKind
from vault.models import SealedSecret, Vault, VaultDataKey, VaultManifest, VaultSlot, VaultWorker
from vault.opened import opened_vault
from vault.slot_secrets import Given, as_slot_secrets

VIEW = ("vault.view_vault",)
UNLOCK = ("vault.unlock_vault",)
MANAGE = ("vault.manage_vault",)


class TypedField(serializers.CharField):
    """What somebody typed or pasted: taken as it is, never given back."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"trim_whitespace": False, "write_only": True, "max_length": 4096, **kwargs})


class GivenSerializer(serializers.Serializer[Any]):
    """A password (with `key` for a slot that has a key file too), or a recovery key, or a key as hex or base64."""

    password = TypedField(required=False, default="")
    recovery_key = TypedField(required=False, default="")
    key = TypedField(required=False, default="")


class InitialiseSerializer(serializers.Serializer[Any]):
    """The first password."""

    password = TypedField()


class LockSerializer(serializers.Serializer[Any]):
    """Why it is locked."""

    reason = serializers.CharField(max_length=200, required=False, default="", allow_blank=True)


class ChangePasswordSerializer(serializers.Serializer[Any]):
    """The slot's present password, with its key file's key where it has one, and the new one."""

    old_password = TypedField()
    new_password = TypedField()
    key = TypedField(required=False, default="")


class RotateRootSerializer(serializers.Serializer[Any]):
    """Secrets by slot id (`{}` for a KMS slot), and the ids of all other slots, which are dropped."""

    secrets = serializers.DictField(child=GivenSerializer(), write_only=True)
    dropping = serializers.ListField(child=serializers.CharField(max_length=32), required=False, default=list)


class SettingsSerializer(serializers.ModelSerializer[Vault]):
    """When the vault locks itself."""

    class Meta:
        model = Vault
        fields = vault_actions.SETTINGS


class SlotSerializer(serializers.ModelSerializer[VaultSlot]):
    """A way to unlock; nothing of what opens it."""

    class Meta:
        model = VaultSlot
        fields = ("slot_id", "kind", "label", "created_at", "changed_at", "opened_at")
        read_only_fields = ("slot_id", "kind", "created_at", "changed_at", "opened_at")


class NewSlotSerializer(serializers.Serializer[Any]):
    """A new slot: `password` for that kind, `key` for a key file or variable, nothing for a recovery key or a KMS."""

    kind = serializers.ChoiceField(choices=[kind.value for kind in SlotKind])
    label = serializers.CharField(max_length=100)
    password = TypedField(required=False, default="")
    key = TypedField(required=False, default="")


class SealedSecretSerializer(serializers.ModelSerializer[SealedSecret]):
    """What is known of a sealed secret without opening it."""

    class Meta:
        model = SealedSecret
        fields = (
            "id",
            "credential",
            "version",
            "origin",
            "provider_kind",
            "auth_header",
            "key_version",
            "last4",
            "fingerprint",
            "good_until",
            "created_at",
        )


class SealedSecretViewSet(ControlViewSet):
    """Sealed secrets, by credential; never their content."""

    queryset = SealedSecret.objects.defer("record")
    serializer_class = SealedSecretSerializer
    lookup_value_regex = "[0-9a-f]{1,32}"
    filterset_fields = ("credential", "credential__provider", "origin", "key_version", "fingerprint")
    ordering_fields = ("credential", "version", "created_at")


class SlotViewSet(ControlViewSet):
    """The ways to unlock the vault."""

    permission_classes = (StaffWithPermission, RecentSession)
    grave_actions = ("create", "partial_update", "destroy")
    queryset = VaultSlot.objects.all()
    serializer_class = SlotSerializer
    lookup_value_regex = "[0-9a-f]{1,32}"
    filterset_fields = ("kind",)
    ordering_fields = ("created_at", "label")
    permissions_by_action = {
        "list": VIEW,
        "retrieve": VIEW,
        "create": MANAGE,
        "partial_update": MANAGE,
        "destroy": MANAGE,
    }

    @extend_schema(request=NewSlotSerializer)
    def create(self, request: Request) -> Response:
        """A slot; 201 with it, and a new recovery key's text, this once. The vault must be open."""
        data = self.checked(request, NewSlotSerializer)
        kind, label, shown = SlotKind(data["kind"]), data["label"], {}
        if kind is SlotKind.PASSWORD:
            row = vault_actions.add_password_slot(self.actor, label, data["password"])
        elif kind is SlotKind.RECOVERY:
            row, text = vault_actions.add_recovery_slot(self.actor, label)
            shown = {"recovery_key": text}
        elif kind is SlotKind.KMS:
            row = vault_actions.add_kms_slot(self.actor, label, get_kms())
        else:
            row = vault_actions.add_key_slot(self.actor, label, kind, data["key"])
        return Response({**SlotSerializer(row).data, **shown}, status=status.HTTP_201_CREATED)

    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Another label."""
        row = self.get_object()
        data = self.checked(request, SlotSerializer, instance=row, partial=True)
        return self.shown(vault_actions.rename_slot(self.actor, row, data.get("label", row.label)).pk)

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Removes a slot; 204. `?leave_headless_only=true` for the last one that a person can use."""
        meant = request.query_params.get("leave_headless_only") == "true"
        vault_actions.remove_slot(self.actor, self.get_object(), leave_headless_only=meant)
        return Response(status=status.HTTP_204_NO_CONTENT)


class VaultViewSet(ViewSetMixin, ControlView):
    """The vault itself."""

    permission_classes = (StaffWithPermission, RecentSession)
    # As on the pages: locking is done in a hurry, and checking changes nothing.
    grave_actions = (
        "initialise",
        "unlock",
        "change_password",
        "change_settings",
        "rotate_data_key",
        "rotate_root",
        "accept_rows",
    )
    permissions_by_action = {
        "list": VIEW,
        "progress": VIEW,
        "unlock": UNLOCK,
        "lock": UNLOCK,
        "initialise": MANAGE,
        "change_password": MANAGE,
        "change_settings": MANAGE,
        "rotate_data_key": MANAGE,
        "rotate_root": MANAGE,
        "check": MANAGE,
        "accept_rows": MANAGE,
    }

    @extend_schema(responses=OpenApiTypes.OBJECT)
    def list(self, request: Request) -> Response:
        """Whether there is a vault, whether it is open here and in which workers, and what is wrong with it."""
        return Response(describe_vault())

    @extend_schema(request=InitialiseSerializer, responses=OpenApiTypes.OBJECT)
    @action(detail=False, methods=["post"])
    def initialise(self, request: Request) -> Response:
        """Makes the vault; 201 with the recovery key, which is shown this once."""
        text = vault_actions.initialise(self.actor, self.body(InitialiseSerializer)["password"])
        return Response({**describe_vault(), "recovery_key": text}, status=status.HTTP_201_CREATED)

    @extend_schema(request=GivenSerializer, responses=OpenApiTypes.OBJECT)
    @action(detail=False, methods=["post"])
    def unlock(self, request: Request) -> Response:
        """Unlocks this worker, which hands it on to the others."""
        vault_actions.unlock(self.actor, Given(**self.body(GivenSerializer)))
        return Response(describe_vault())

    @extend_schema(request=LockSerializer, responses=OpenApiTypes.OBJECT)
    @action(detail=False, methods=["post"])
    def lock(self, request: Request) -> Response:
        """Locks every worker."""
        vault_actions.lock(self.actor, self.body(LockSerializer)["reason"])
        return Response(describe_vault())

    @extend_schema(request=ChangePasswordSerializer, responses=OpenApiTypes.OBJECT)
    @action(detail=False, methods=["post"], url_path="change-password")
    def change_password(self, request: Request) -> Response:
        """Another password for the slot that the old one opens."""
        data = self.body(ChangePasswordSerializer)
        old = Given(password=data["old_password"], key=data["key"])
        return Response(
            SlotSerializer(vault_actions.change_password(self.actor, old, data["new_password"])).data
        )

    @extend_schema(request=SettingsSerializer, responses=OpenApiTypes.OBJECT)
    @action(detail=False, methods=["patch"], url_path="settings", url_name="settings")
    def change_settings(self, request: Request) -> Response:
        """When the vault locks itself."""
        vault_actions.update_settings(self.actor, **self.body(SettingsSerializer, partial=True))
        return Response(describe_vault())

    @extend_schema(request=None, responses=OpenApiTypes.OBJECT)
    @action(detail=False, methods=["post"], url_path="rotate-data-key")
    def rotate_data_key(self, request: Request) -> Response:
        """A new data key; the records follow by themselves."""
        rotations.rotate_data_key(self.actor)
        return Response(describe_progress())

    @extend_schema(request=None, responses=OpenApiTypes.OBJECT)
    @rotate_data_key.mapping.get
    def progress(self, request: Request) -> Response:
        """How far the records are."""
        return Response(describe_progress())

    @extend_schema(request=RotateRootSerializer, responses=OpenApiTypes.OBJECT)
    @action(detail=False, methods=["post"], url_path="rotate-root")
    def rotate_root(self, request: Request) -> Response:
        """A new ROOT for the slots whose secrets are given; the others must be named as dropped."""
        data = self.body(RotateRootSerializer)
        given = {slot_id: Given(**one) for slot_id, one in data["secrets"].items()}
        with as_slot_secrets(given, get_kms) as secrets:
            rotations.rotate_root(self.actor, secrets, dropping=data["dropping"])
        return Response(describe_vault())

    @extend_schema(request=None, responses=OpenApiTypes.OBJECT)
    @action(detail=False, methods=["post"])
    def check(self, request: Request) -> Response:
        """Compares the sealed secrets with what was signed, now."""
        vault_manifest.check_manifest()
        return Response(describe_vault())

    @extend_schema(request=None, responses=OpenApiTypes.OBJECT)
    @action(detail=False, methods=["post"], url_path="accept-rows")
    def accept_rows(self, request: Request) -> Response:
        """Signs the sealed secrets as they are, after somebody looked at the differences."""
        vault_manifest.accept_rows(self.actor)
        return Response(describe_vault())

    def body(self, serializer: type[serializers.Serializer[Any]], **kwargs: Any) -> dict[str, Any]:
        """The request's body as `serializer` validates it."""
        found = serializer(data=self.request.data, **kwargs)
        found.is_valid(raise_exception=True)
        return dict(found.validated_data)


def describe_vault() -> dict[str, Any]:
    """The vault's state without anything secret; `{"exists": False}` where there is none."""
    vault = Vault.objects.filter(pk=Vault.ID).first()
    if vault is None:
        return {"exists": False, "unlocked": False}
    workers = list(VaultWorker.objects.filter(seen_at__gt=timezone.now() - rotations.LIVE))
    manifest = VaultManifest.objects.defer("lines").filter(pk=VaultManifest.ID).first()
    return {
        "exists": True,
        "unlocked": opened_vault.epoch == vault.lock_epoch,
        "lock_epoch": vault.lock_epoch,
        "locked_at": vault.locked_at,
        "locked_because": vault.locked_because,
        "unlocked_at": vault.unlocked_at,
        "root_version": vault.root_version,
        "active_key": vault.active_key,
        "data_keys": list(VaultDataKey.objects.values_list("version", flat=True)),
        "settings": {name: getattr(vault, name) for name in vault_actions.SETTINGS},
        "headless": vault_actions.has_headless_slot(),
        "workers": [
            {
                "instance": worker.instance,
                "state": worker.state,
                "seen_at": worker.seen_at,
                "problem": worker.problem,
            }
            for worker in workers
        ],
        # A worker that has not looked since a lock still says that it is unlocked.
        "workers_unlocked": sum(
            (worker.state, worker.lock_epoch) == (VaultWorker.State.UNLOCKED, vault.lock_epoch)
            for worker in workers
        ),
        "manifest": None
        if manifest is None
        else {
            name: getattr(manifest, name)
            for name in ("counter", "rows", "checked_at", "differs_since", "differences", "unopenable")
        },
    }


def describe_progress() -> dict[str, Any]:
    """How far a data key's rotation is. Raises NoVault."""
    found = rotations.read_progress()
    return {
        "active_key": found.active_key,
        "done": found.done,
        "left": found.left,
        "unopenable": found.unopenable,
        "waiting_for": found.waiting_for,
        "old_keys": found.old_keys,
        "finished": found.finished,
    }
