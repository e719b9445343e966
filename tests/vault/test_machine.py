"""Anything that may happen to a vault, in any order, against a model: what must open opens, to the right secret; the rest not.

Real rows, actions, agents and keyrings of several workers; a process may be killed at any of its statements. A longer run:
`VAULT_MACHINE_MINUTES=10 pytest -s tests/vault/test_machine.py`.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from providers.actions import create_endpoint, create_provider, update_endpoint, update_provider
from providers.models import Endpoint, Provider
from snapshots.publish import publish
from tests.vault.machine_cast import (
    CHEAP,
    Way,
)
from tests.vault.machine_world import World, counted
from tests.vault.vaults import ADMIN
from tokenhub.core.errors import Conflict
from vault.actions import create_credential, delete_credential
from vault.agent import Headless
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import VaultLocked
from vault.engine.slots import SlotKind
from vault.models import Credential, SealedSecret, Vault, VaultManifest, VaultSlot
from vault.rotations import reseal_some, retire_data_keys, rotate_data_key, rotate_root
from vault.sealing import delete_secrets, seal_secret
from vault.tries import Clock as TryClock
from vault.tries import UnlockRefused
from vault.vault_actions import (
    add_key_slot,
    add_password_slot,
    add_recovery_slot,
    change_password,
    initialise,
    lock,
    remove_slot,
    unlock,
    update_settings,
)
from vault.vault_manifest import accept_rows, check_manifest

NO_WAITING = TryClock(sleep=lambda seconds: None)
MOST_PROCESSES, MOST_CREDENTIALS, MOST_SLOTS = 4, 3, 6
COASTS = (0, 20, 180)
ROUNDS = 3
PHASES = [Phase.generate, Phase.shrink]
SECOND = timedelta(seconds=1)
IN_ORDER = ("credential_id", "version", "origin")
"""Not by their ids, which are random: a life must go the same way when it is told again."""

kills = st.none() | st.none() | st.integers(0, 45)
pick = st.integers(0, 1000)


class VaultMachine(World):
    """What may happen to a vault."""

    def at_last(self) -> None:
        """Everything is killed, and one person comes with one of the ways that are left."""
        if self.undo is not None:
            self.somebody_undoes_it()
        if self.ways:
            self.everything_dies_and_is_opened_again(0)

    # Rules: the life of a vault

    @initialize(count=st.integers(1, 3), bare=st.integers(0, 9))
    def start(self, count: int, bare: int) -> None:
        for _ in range(count):
            self.join()
        if bare:
            self.somebody_makes_a_vault(0, None)
            for number in range(min(bare, 2)):
                self.somebody_enters_a_secret(0, number, 0, None)

    @rule(which=pick, kill=kills)
    def somebody_makes_a_vault(self, which: int, kill: int | None) -> None:
        if self.away.now:
            return
        password, existed = self.text("password"), Vault.objects.exists()
        outcome = self.act(self.process(which), kill, lambda: initialise(ADMIN, password, parameters=CHEAP))
        if existed:
            assert not self.must_be(outcome, Conflict)
            return
        self.must_be(outcome)
        for slot in VaultSlot.objects.all():
            if slot.kind == "password":
                self.ways[slot.slot_id] = Way(SlotKind.PASSWORD, password)
            elif outcome[0] == "done":
                self.ways[slot.slot_id] = Way(SlotKind.RECOVERY, outcome[1])
        self.may_be_open = bool(self.ways)

    def here(self) -> bool:
        return not self.away.now and bool(self.ways)

    @precondition(here)
    @rule(which=pick, way=pick, kill=kills)
    def somebody_unlocks(self, which: int, way: int, kill: int | None) -> None:
        ways = list(self.ways.values())
        given = ways[way % len(ways)].given
        process = self.process(which)
        done = self.must_be(self.act(process, kill, lambda: unlock(ADMIN, given, clock=NO_WAITING)))
        assert not done or self.current(process)
        self.may_be_open |= Vault.objects.get().unlocked_at is not None

    @precondition(here)
    @rule(which=pick, old=pick, made_up=st.sampled_from(["", " ", "x", "other"]))
    def somebody_tries_what_is_wrong(self, which: int, old: int, made_up: str) -> None:
        live = list(self.ways.values())
        tried = [way for way in self.gone_ways if way not in live]
        process = self.process(which)
        held = process.held
        for way in [tried[old % len(tried)]] if tried else []:
            assert not self.must_be(
                self.act(process, None, lambda way=way: unlock(ADMIN, way.given, clock=NO_WAITING)),
                UnlockRefused,
            )
        for way in [replace(one, text=one.text + made_up) for one in live if one.kind is SlotKind.PASSWORD]:
            if made_up:
                refused = self.act(process, None, lambda way=way: unlock(ADMIN, way.given, clock=NO_WAITING))
                assert not self.must_be(refused, UnlockRefused)
        assert process.held is held

    @precondition(here)
    @rule(which=pick, kill=kills)
    def somebody_locks(self, which: int, kill: int | None) -> None:
        epoch = Vault.objects.get().lock_epoch
        process = self.process(which)
        done = self.must_be(self.act(process, kill, lambda: lock(ADMIN, "the end of the day")))
        assert not done or process.held is None
        if Vault.objects.get().lock_epoch != epoch:
            self.may_be_open = False

    @precondition(here)
    @rule(which=pick, way=pick, kill=kills, right=st.booleans())
    def somebody_changes_a_password(self, which: int, way: int, kill: int | None, right: bool) -> None:
        slots = [slot_id for slot_id, one in self.ways.items() if one.kind is SlotKind.PASSWORD]
        if not slots:
            return
        slot_id = slots[way % len(slots)]
        old, new = self.ways[slot_id], Way(SlotKind.PASSWORD, self.text("password"))
        row = VaultSlot.objects.filter(pk=slot_id).values().get()
        given = old.given if right else replace(old, text=old.text + "x").given
        outcome = self.act(
            self.process(which),
            kill,
            lambda: change_password(ADMIN, given, new.text, parameters=CHEAP, clock=NO_WAITING),
        )
        assert self.must_be(outcome, *(() if right else (UnlockRefused,))) <= right
        if VaultSlot.objects.get(pk=slot_id).document != row["document"]:
            assert right
            self.old_slot = (row, old, Vault.objects.get().root_version)
            self.gone_ways.append(old)
            self.ways[slot_id] = new
        else:
            assert outcome[0] != "done"

    @precondition(here)
    @rule(which=pick, kind=st.sampled_from(["password", "recovery", "key_file"]), kill=kills)
    def somebody_adds_a_slot(self, which: int, kind: str, kill: int | None) -> None:
        if len(self.ways) >= MOST_SLOTS:
            return
        process, before = self.process(which), set(VaultSlot.objects.values_list("slot_id", flat=True))
        allowed = () if self.current(process) else (VaultLocked,)
        if kind == "password":
            way = Way(SlotKind.PASSWORD, self.text("password"))
            outcome = self.act(
                process, kill, lambda: add_password_slot(ADMIN, "more", way.text, parameters=CHEAP)
            )
        elif kind == "recovery":
            outcome = self.act(process, kill, lambda: add_recovery_slot(ADMIN, "printed"))
            way = Way(SlotKind.RECOVERY, outcome[1][1]) if outcome[0] == "done" else None
        else:
            way = Way(SlotKind.KEY_FILE, SecretBuffer.random().reveal_bytes().hex())
            outcome = self.act(
                process, kill, lambda: add_key_slot(ADMIN, "file", SlotKind.KEY_FILE, way.text)
            )
        self.must_be(outcome, *allowed)
        self.note_slot(outcome, way, before)

    @precondition(here)
    @rule(which=pick, way=pick, kill=kills)
    def somebody_removes_a_slot(self, which: int, way: int, kill: int | None) -> None:
        slot_id = list(self.ways)[way % len(self.ways)]
        slot = VaultSlot.objects.get(pk=slot_id)
        self.must_be(self.act(self.process(which), kill, lambda: remove_slot(ADMIN, slot)), Conflict)
        if not VaultSlot.objects.filter(pk=slot_id).exists():
            self.gone_ways.append(self.ways.pop(slot_id))
        assert VaultSlot.objects.exists()

    @precondition(here)
    @rule(which=pick, kept=st.integers(1, 63), kill=kills)
    def somebody_rotates_the_root(self, which: int, kept: int, kill: int | None) -> None:
        process, version = self.process(which), Vault.objects.get().root_version
        chosen = [slot_id for at, slot_id in enumerate(self.ways) if kept >> at & 1]
        if not chosen:
            return
        dropping = set(VaultSlot.objects.values_list("slot_id", flat=True)) - set(chosen)
        secrets = {slot_id: self.ways[slot_id].secret() for slot_id in chosen}
        outcome = self.act(
            process, kill, lambda: rotate_root(ADMIN, secrets, dropping=sorted(dropping), clock=NO_WAITING)
        )
        # A holder of the root before is refused by its secrets, which are another root's.
        self.must_be(outcome, *self.why_locked(process), *(() if self.current(process) else (UnlockRefused,)))
        if Vault.objects.get().root_version != version:
            assert self.undo is None, "nothing is signed over rows that somebody changed"
            self.gone_ways += [self.ways.pop(slot_id) for slot_id in dropping if slot_id in self.ways]
        assert set(VaultSlot.objects.values_list("slot_id", flat=True)) >= set(self.ways)

    @precondition(here)
    @rule(which=pick, kill=kills)
    def somebody_rotates_the_data_key(self, which: int, kill: int | None) -> None:
        process = self.process(which)
        outcome = self.act(process, kill, lambda: rotate_data_key(ADMIN))
        self.must_be(outcome, Conflict, *(() if self.current(process) else (VaultLocked,)))

    @precondition(here)
    @rule(which=pick, limit=st.integers(1, 4), kill=kills)
    def a_worker_looks_after_the_rows(self, which: int, limit: int, kill: int | None) -> None:
        process = self.process(which)
        allowed = self.why_locked(process)
        self.must_be(self.act(process, kill, lambda: reseal_some(limit)), *allowed)
        if process in self.processes:
            allowed = self.why_locked(process)
            self.must_be(self.act(process, kill, retire_data_keys), *allowed)

    @precondition(here)
    @rule(which=pick, coast=st.sampled_from(COASTS))
    def somebody_changes_the_settings(self, which: int, coast: int) -> None:
        self.must_be(self.act(self.process(which), None, lambda: update_settings(ADMIN, coast_seconds=coast)))

    # Rules: secrets

    @precondition(here)
    @rule(which=pick, credential=pick, overlap=st.sampled_from([0, 300]), kill=kills)
    def somebody_enters_a_secret(self, which: int, credential: int, overlap: int, kill: int | None) -> None:
        process = self.process(which)
        row = self.a_credential(credential)
        secret = self.text("sk")
        self.truth.entered[row.pk, row.version + 1] = secret
        done = self.must_be(
            self.act(process, kill, lambda: seal_secret(ADMIN, row, secret, overlap=overlap * SECOND)),
            *self.why_locked(process),
        )
        assert not done or self.undo is None, "nothing is signed over rows that somebody changed"
        version = Credential.objects.get(pk=row.pk).version
        before = self.versions.get(row.pk, 1)
        assert version in ((before + 1,) if done else (before, before + 1))
        self.versions[row.pk] = version

    def a_credential(self, which: int) -> Credential:
        """A credential that is there, or a new one."""
        rows = list(Credential.objects.order_by("pk"))
        if len(rows) > which % MOST_CREDENTIALS:
            return rows[which % MOST_CREDENTIALS]
        self.texts += 1
        name = f"acme-{self.texts}"
        provider = create_provider(ADMIN, name=name, kind="openai")
        for url in (f"https://{name}.example/v1", f"https://{name}.example:8443/v1"):
            create_endpoint(ADMIN, provider=provider, url=url)
        return create_credential(ADMIN, provider=provider, name="main", source="vault")

    @precondition(here)
    @rule(which=pick, credential=pick, whole=st.booleans(), kill=kills)
    def somebody_deletes_a_secret(self, which: int, credential: int, whole: bool, kill: int | None) -> None:
        rows = Credential.objects.order_by("pk")
        if not rows:
            return
        row = rows[credential % len(rows)]
        process, key = self.process(which), row.pk
        sealed = row.sealed_secrets.exists()
        if self.undo is not None and not sealed:
            # It may be undone what took this one's rows away: then it has to be there.
            return
        one = Credential.objects.filter(pk=key)
        outcome = self.act(
            process,
            kill,
            lambda: delete_credential(ADMIN, row) if whole else delete_secrets(ADMIN, one),
        )
        if self.must_be(outcome, *(self.why_locked(process) if sealed else ())):
            assert not SealedSecret.objects.filter(credential_id=key).exists()
        if not SealedSecret.objects.filter(credential_id=key).exists():
            self.versions.pop(key, None)
        if not Credential.objects.filter(pk=key).exists():
            self.versions.pop(key, None)
        elif key not in self.versions:
            self.versions[key] = Credential.objects.get(pk=key).version

    @precondition(here)
    @rule(which=pick, kind=st.sampled_from(["openai", "vllm", "anthropic"]), port=st.integers(8000, 8003))
    def an_operator_points_a_provider_elsewhere(self, which: int, kind: str, port: int) -> None:
        providers = Provider.objects.order_by("pk")
        if not providers:
            return
        provider = providers[which % len(providers)]
        update_provider(ADMIN, provider, kind=kind)
        endpoint = provider.endpoints.order_by("pk")[0]
        update_endpoint(ADMIN, endpoint, url=f"https://{provider.name}.example:{port}/v1")

    # Rules: time, workers, the database

    @rule(which=pick, seconds=st.sampled_from([0.5, 1.0, 1.0, 6.0]))
    def a_worker_polls(self, which: int, seconds: float) -> None:
        self.poll(self.process(which), seconds)

    @rule(order=st.randoms(use_true_random=False))
    def everybody_polls_for_a_while(self, order: Any) -> None:
        if self.away.now:
            return
        current = any(self.current(process) for process in self.processes)
        for _ in range(ROUNDS):
            for process in order.sample(self.processes, len(self.processes)):
                self.poll(process, 0.3)
        if current:
            assert all(self.current(process) for process in self.processes), "one unlock reaches everybody"
            counted["reached everybody"] += len(self.processes) > 1

    @rule(seconds=st.sampled_from([1.0, 19.0, 40.0, 200.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def the_database_goes_or_comes(self) -> None:
        if self.away.now:
            self.away.back()
        else:
            self.vault_before = Vault.objects.first()
            self.away.go()

    @precondition(lambda self: len(self.processes) < MOST_PROCESSES)
    @rule(headless=st.booleans())
    def a_worker_joins(self, headless: bool) -> None:
        files = [way for way in self.ways.values() if way.kind is SlotKind.KEY_FILE]
        ways = (Headless("the key file", files[0].secret),) if headless and files else ()
        made = self.join(ways)
        if self.away.now:
            return
        vault = Vault.objects.first()
        self.may_be_open |= (
            bool(ways) and vault is not None and not (vault.locked_at and not vault.unlocked_at)
        )
        self.poll(made, 0.1)
        if ways and vault is not None and self.may_be_open and (vault.unlocked_at or not vault.locked_at):
            assert self.current(made), "a key file opens at the start"

    @precondition(lambda self: len(self.processes) > 1)
    @rule(which=pick)
    def a_worker_is_killed(self, which: int) -> None:
        process = self.process(which)
        process.die()
        self.processes.remove(process)

    # Rules: somebody writes into the database

    def quiet(self) -> bool:
        return not self.away.now and self.undo is None and len(self.versions) > 0

    @precondition(quiet)
    @rule(one=pick, other=pick)
    def somebody_swaps_two_records(self, one: int, other: int) -> None:
        rows = list(SealedSecret.objects.order_by(*IN_ORDER))
        if len(rows) < 2:
            return
        first, second = rows[one % len(rows)], rows[other % len(rows)]
        if first == second:
            return

        def swap(left: bytes, right: bytes) -> None:
            SealedSecret.objects.filter(pk=first.pk).update(record=left)
            SealedSecret.objects.filter(pk=second.pk).update(record=right)

        self.tamper(lambda: swap(second.record, first.record), lambda: swap(first.record, second.record))

    @precondition(quiet)
    @rule(which=pick, field=st.sampled_from(["origin", "provider_kind", "row_version", "record", "version"]))
    def somebody_alters_a_row(self, which: int, field: str) -> None:
        rows = list(SealedSecret.objects.order_by(*IN_ORDER))
        if not rows:
            return
        row = rows[which % len(rows)]
        record = bytes(row.record)
        altered = {
            "origin": "https://evil.example:443",
            "provider_kind": "ollama",
            "row_version": row.row_version + 1,
            "record": record[:-1] + bytes([record[-1] ^ 1]),
            "version": 1_000_000 + row.version,
        }
        one = SealedSecret.objects.filter(pk=row.pk)
        if field == "origin":
            # The operator's endpoint leads there already. It goes before a key is entered for it in good faith.
            create_endpoint(ADMIN, provider=row.credential.provider, url=altered["origin"])

        def undo() -> None:
            Endpoint.objects.filter(url__contains="evil").delete()
            one.update(**{field: getattr(row, field)})

        self.tamper(lambda: one.update(**{field: altered[field]}), undo)

    @precondition(lambda self: not self.away.now and self.undo is None and Vault.objects.exists())
    @rule()
    def somebody_copies_the_sealed_rows(self) -> None:
        self.tables = (list(SealedSecret.objects.values()), VaultManifest.objects.values().get())

    @precondition(lambda self: self.quiet() and self.tables is not None)
    @rule(with_manifest=st.booleans())
    def somebody_puts_the_copy_back(self, with_manifest: bool) -> None:
        assert self.tables is not None
        now = (list(SealedSecret.objects.values()), VaultManifest.objects.values().get())
        there = set(Credential.objects.values_list("pk", flat=True))
        old = [row for row in self.tables[0] if row["credential_id"] in there]
        if old == now[0] or now[1]["differs_since"] is not None:
            return

        def put(rows: list[dict[str, Any]], manifest: dict[str, Any] | None) -> None:
            SealedSecret.objects.all().delete()
            SealedSecret.objects.bulk_create(SealedSecret(**row) for row in rows)
            if manifest is not None:
                fields = {name: manifest[name] for name in ("counter", "rows", "mac", "lines")}
                VaultManifest.objects.update(**fields)

        self.tamper(
            lambda: put(old, self.tables[1] if with_manifest and self.tables else None),
            lambda: put(now[0], now[1]),
        )

    @precondition(lambda self: self.here() and self.undo is not None)
    @rule()
    def somebody_undoes_it(self) -> None:
        assert self.undo is not None
        self.undo()
        self.undo = None
        publish("as it was", ADMIN)
        self.everybody_notices(False)

    @precondition(lambda self: self.here() and self.undo is not None)
    @rule(which=pick)
    def somebody_accepts_it_and_enters_all_again(self, which: int) -> None:
        process = self.process(which)
        if not self.current(process):
            return
        Endpoint.objects.filter(url__contains="evil").delete()
        with process.running():
            accept_rows(ADMIN)
            assert check_manifest() == []
            self.undo = None
            for row in Credential.objects.filter(sealed_secrets__isnull=False).distinct().order_by("pk"):
                self.truth.entered[row.pk, row.version + 1] = secret = self.text("sk")
                seal_secret(ADMIN, row, secret)
                self.versions[row.pk] = row.version
        for key in list(self.versions):
            if not SealedSecret.objects.filter(credential_id=key).exists():
                self.versions[key] = Credential.objects.get(pk=key).version
        self.truth.learn()
        self.everybody_notices(False)

    @precondition(lambda self: self.here() and self.old_slot is not None)
    @rule(which=pick)
    def somebody_puts_an_old_slot_back(self, which: int) -> None:
        assert self.old_slot is not None
        row, way, version = self.old_slot
        slot = VaultSlot.objects.filter(pk=row["slot_id"])
        if not slot.exists():
            return
        document = slot.get().document
        slot.update(document=row["document"])
        process = self.process(which)
        outcome = self.act(process, None, lambda: unlock(ADMIN, way.given, clock=NO_WAITING))
        same = version == Vault.objects.get().root_version
        # The password of then and the slot of then open the root of then: docs/vault.md says so, and what to do.
        assert self.must_be(outcome, *(() if same else (UnlockRefused,))) is same
        self.may_be_open |= same
        slot.update(document=document)

    @precondition(here)
    @rule(way=pick)
    def everything_dies_and_is_opened_again(self, way: int) -> None:
        count = len(self.processes)
        for process in self.processes:
            process.die()
        self.processes = []
        for _ in range(count):
            process = self.join()
        self.somebody_unlocks(count - 1, way, None)
        self.poll(process, 1.0)
        if self.undo is not None:
            return
        # Who was killed between a commit and its publishing left that to the next one who looks.
        publish("became due", ADMIN)
        process.follow()
        with process.running():
            assert check_manifest() == []
        opened = set()
        for opening in process.list_openings():
            secret = self.truth.find(opening.sealed, opening.destination)
            if secret is not None:
                assert self.open(process, opening) == secret
                opened.add(int(opening.credential.id))
        wanted = set(
            SealedSecret.objects.filter(
                credential__provider__kind=F("provider_kind"), origin__contains=".example:8443"
            ).values_list("credential_id", flat=True)
        )
        assert opened >= wanted, "every secret that was entered opens"
        counted["recovered"] += 1
        counted["secrets recovered"] += len(opened)


def run(examples: int, steps: int) -> None:
    """So many lives of a vault, of at most so many steps each."""
    run_state_machine_as_test(
        VaultMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=PHASES,
        ),
    )


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.django_db(transaction=True)
def test_whatever_happens_to_a_vault_it_keeps_its_promises() -> None:
    until = time.monotonic() + 60 * float(os.environ.get("VAULT_MACHINE_MINUTES", "0"))
    run(40, 40)
    while time.monotonic() < until:
        run(20, 60)
    print(f"the vault's machine: {', '.join(f'{number} {name}' for name, number in sorted(counted.items()))}")
    for name in ("done", "refused", "killed", "opened", "kept shut", "recovered", "reached everybody"):
        assert counted[name], f"the machine never came to: {name}"
