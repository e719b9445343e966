"""`manage.py vault status` and `vault destroy`: looks at the vault, and ends one that nobody can open any more. Control plane."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder

from tokenhub.control.actors import Actor
from tokenhub.core.errors import TokenhubError
from vault.destruction import describe_loss, destroy_vault
from vault.models import SealedSecret, VaultSlot
from vault.vault_api import describe_vault


class Command(BaseCommand):
    """Reads the vault's state, or destroys it."""

    help = (
        "status: what there is and what is wrong; changes nothing. "
        "destroy: says what would be lost, and with --yes-lose-secrets N deletes the vault, so that a new one can be made."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Adds the two subcommands."""
        commands = parser.add_subparsers(dest="what", required=True)
        status = commands.add_parser("status", help="what there is and what is wrong")
        status.add_argument("--json", action="store_true", help="print it as one JSON object")
        destroy = commands.add_parser("destroy", help="end a vault whose every slot is lost")
        destroy.add_argument(
            "--yes-lose-secrets",
            type=int,
            metavar="N",
            dest="losing",
            help="do it; N is the number of sealed secrets that are lost with it",
        )

    def handle(self, *args: Any, what: str, **options: Any) -> None:
        """Raises CommandError (exit 1) for what is refused."""
        try:
            if what == "status":
                self.status(options["json"])
            else:
                self.destroy(options["losing"])
        except TokenhubError as error:
            raise CommandError(f"{error.message}{f'; {error.hint}' if error.hint else ''}") from error

    def status(self, as_json: bool) -> None:
        """Prints the state."""
        state = describe_vault()
        slots = [
            {"kind": slot.kind, "label": slot.label, "opened_at": slot.opened_at}
            for slot in VaultSlot.objects.defer("document")
        ]
        found = {**state, "slots": slots, "sealed_secrets": SealedSecret.objects.count()}
        # A command holds no keys; whether the vault is open is told by the workers.
        del found["unlocked"]
        if as_json:
            self.stdout.write(json.dumps(found, cls=DjangoJSONEncoder))
        else:
            self.stdout.write("\n".join(_lines(found)))

    def destroy(self, losing: int | None) -> None:
        """Tells what would be lost, or destroys."""
        if losing is None:
            loss = describe_loss()
            for line in loss.secrets:
                self.stdout.write(f"lost: {line}")
            self.stdout.write(f"with these slots: {', '.join(loss.slots) or 'none'}")
            raise CommandError(
                f"nothing was done; to lose these {len(loss.secrets)} secrets for good, add "
                f"--yes-lose-secrets {len(loss.secrets)}"
            )
        loss = destroy_vault(Actor.command("vault destroy"), losing=losing)
        self.stdout.write(
            f"the vault is gone, and {len(loss.secrets)} sealed secrets with it; make a new one under Vault and enter the "
            "providers' keys again"
        )


def _lines(found: dict[str, Any]) -> list[str]:
    if not found["exists"]:
        return ["there is no vault"]
    workers, manifest = found["workers"], found["manifest"] or {}
    lines = [
        f"workers unlocked: {found['workers_unlocked']} of {len(workers)}",
        f"root {found['root_version']}, data keys {', '.join(map(str, found['data_keys']))}"
        f" (active {found['active_key']}), {found['sealed_secrets']} sealed secrets, manifest {manifest.get('counter', 0)}",
    ]
    if found["locked_at"] and not found["unlocked_at"]:
        lines.append(f"locked at {found['locked_at']}: {found['locked_because'] or 'no reason given'}")
    lines += [
        f"slot: {slot['label']} ({slot['kind']}), last opened {slot['opened_at'] or 'never'}"
        for slot in found["slots"]
    ]
    if not found["slots"]:
        lines.append("PROBLEM: no slot is left; once no worker has it unlocked, it never opens again")
    if manifest.get("differs_since"):
        lines.append(
            f"PROBLEM: {len(manifest['differences'])} sealed rows were changed by other hands "
            f"(since {manifest['differs_since']})"
        )
    if manifest.get("unopenable"):
        lines.append(f"PROBLEM: {len(manifest['unopenable'])} sealed secrets do not open")
    return lines + [
        f"PROBLEM: {worker['instance']}: {worker['problem']}" for worker in workers if worker["problem"]
    ]
