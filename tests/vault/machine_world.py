"""The vault's state machine: its world, the model beside it, and what must be true always. `test_machine` has what may happen."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django.core.management import call_command
from hypothesis.stateful import RuleBasedStateMachine, invariant

from snapshots.publish import publish
from tests.vault.machine_cast import Away, Clock, Killed, LogBook, Opening, Process, Truth, Way, killed_at
from tests.vault.vaults import ADMIN
from tokenhub.core.errors import TokenhubError
from vault.agent import Headless
from vault.engine.errors import DoesNotOpen, VaultLocked
from vault.engine.sealing import read_key_version
from vault.keyring import CredentialUnavailable, list_older
from vault.models import Vault, VaultManifest, VaultSlot, VaultTry
from vault.vault_manifest import RowsDiffer, check_manifest

counted: Counter[str] = Counter()
"""What came of the steps, over all examples."""


class World(RuleBasedStateMachine):
    """Processes, a database, and somebody who writes into it; `truth`, `ways` and the like are the model."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.away, self.book, self.truth = Clock(), Away(), LogBook(), Truth()
        self.processes: list[Process] = []
        self.ways: dict[str, Way] = {}
        self.gone_ways: list[Way] = []
        self.versions: dict[int, int] = {}
        self.may_be_open = False
        self.number = self.texts = 0
        self.undo: Callable[[], Any] | None = None
        self.old_slot: tuple[dict[str, Any], Way, int] | None = None
        self.tables: tuple[list[dict[str, Any]], dict[str, Any]] | None = None
        self.vault_before: Vault | None = None
        self._listening = self.book.open()
        self._listening.__enter__()

    def teardown(self) -> None:
        """Ends with everything undone, and an empty database."""
        try:
            self.away.back()
            self.at_last()
        finally:
            self.away.back()
            for process in self.processes:
                process.die()
            self._listening.__exit__(None, None, None)
            call_command("flush", verbosity=0, interactive=False, inhibit_post_migrate=True)

    def at_last(self) -> None:
        """What happens when the database is back and nothing else will."""

    # The people and the machinery that act

    def process(self, which: int) -> Process:
        """One of the processes."""
        return self.processes[which % len(self.processes)]

    def text(self, kind: str) -> str:
        """A text that was never used before."""
        self.texts += 1
        return f"{kind}-gravel-otter-violet-{self.texts:05}-{os.urandom(3).hex()}"

    def join(self, ways: tuple[Headless, ...] = ()) -> Process:
        """A new process."""
        self.number += 1
        made = Process(f"worker-{self.number}", self.clock, ways)
        self.processes.append(made)
        return made

    def act(self, process: Process, kill: int | None, do: Callable[[], Any]) -> tuple[str, Any]:
        """Lets a process do something, and perhaps die of it: `done` with the outcome, `refused` with the error, `killed`."""
        try:
            with process.running(), killed_at(kill):
                outcome = ("done", do())
        except TokenhubError as error:
            self.book.lines.append(f"{error.message} {error.hint} {error.details}")
            outcome = ("refused", error)
        except Killed:
            process.die()
            self.processes.remove(process)
            self.join()
            outcome = ("killed", None)
        VaultTry.objects.all().delete()
        counted[outcome[0]] += 1
        if self.undo is None and outcome[0] != "refused":
            self.truth.learn()
        return outcome

    def must_be(self, outcome: tuple[str, Any], *errors: type[TokenhubError]) -> bool:
        """Whether it was done; a refusal must be one of `errors`."""
        what, value = outcome
        if what == "refused" and not isinstance(value, errors):
            raise AssertionError("refused though it should not be") from value
        return what == "done"

    def note_slot(self, outcome: tuple[str, Any], way: Way | None, before: set[str]) -> None:
        """A new slot, which may be there though its maker died."""
        for slot_id in set(VaultSlot.objects.values_list("slot_id", flat=True)) - before:
            if way is not None:
                self.ways[slot_id] = way
        del outcome

    @property
    def vault(self) -> Vault | None:
        """The vault's row. Nobody changes it while the database is away."""
        return self.vault_before if self.away.now else Vault.objects.first()

    def current(self, process: Process) -> bool:
        """Whether it holds the keys of now."""
        held, vault = process.held, self.vault
        return (
            held is not None
            and vault is not None
            and (held.vault_id, held.epoch, held.root.version)
            == (vault.vault_id, vault.lock_epoch, vault.root_version)
        )

    def why_locked(self, process: Process) -> tuple[type[TokenhubError], ...]:
        """What a change of sealed rows may be refused for now."""
        errors: list[type[TokenhubError]] = []
        if not self.current(process):
            errors.append(VaultLocked)
        if self.undo is not None:
            errors.append(RowsDiffer)
        return tuple(errors)

    def poll(self, process: Process, seconds: float) -> None:
        """Its agent's look, and what must be true right after it."""
        before = process.held
        process.poll(seconds)
        if self.away.now:
            if self.clock.now - process.seen >= process.coast:
                assert process.held is None, "the database has been away for too long"
            elif process.looked:
                assert process.held is before
            return
        process.seen, process.looked = self.clock.now, True
        if self.undo is None:
            self.truth.learn()
        vault = Vault.objects.first()
        process.coast = 180 if vault is None else vault.coast_seconds
        if not self.may_be_open:
            assert process.held is None, "locked, and keys are held after a look"
        if process.held is not None:
            assert vault is not None
            assert process.held.epoch == vault.lock_epoch
        assert process.keyring.holds(None if process.held is None else process.held.keys)
        process.follow()

    def tamper(self, change: Callable[[], Any], undo: Callable[[], Any]) -> None:
        """Changes rows behind everybody's back; whoever holds the keys must notice."""
        change()
        self.undo = undo
        publish("somebody wrote into the database", ADMIN)
        self.everybody_notices(True)

    def everybody_notices(self, differs: bool) -> None:
        """Whether whoever holds the keys of now finds that the rows differ, and the console has it to show."""
        for process in self.processes:
            if not self.current(process):
                continue
            with process.running():
                assert bool(check_manifest()) is differs
            assert (VaultManifest.objects.get().differs_since is not None) is differs

    # What must be true always

    def open(self, process: Process, opening: Opening) -> str:
        """The secret as the data plane asks for it: the newest, or the one before."""
        ways = (opening.credential, *list_older(opening.credential, opening.destination.origin))
        for one in ways:
            rows = [row for row in one.sealed if row.origin == opening.destination.origin]
            if rows[:1] == [opening.sealed]:
                return process.keyring.get_secret(one, opening.destination)
        return process.keyring.get_secret(
            replace(opening.credential, sealed=(opening.sealed,)), opening.destination
        )

    @invariant()
    def each_worker_opens_what_it_must_and_nothing_else(self) -> None:
        for process in self.processes:
            late = self.clock.now > process.seen + max(process.coast, 1) + 5
            for opening in process.list_openings():
                secret = self.truth.find(opening.sealed, opening.destination)
                got, refused = None, ""
                try:
                    got = self.open(process, opening)
                except (VaultLocked, DoesNotOpen, CredentialUnavailable) as error:
                    refused = f"{error!r} {error.message} {error.hint} {error.details}"
                    self.book.lines.append(refused)
                counted["kept shut" if refused else "opened"] += 1
                if refused:
                    must = secret is not None and not late and self.holds_key_of(process, opening)
                    assert not must, f"it must open: {refused}"
                else:
                    assert got == secret
                    assert not process.keyring.holds(None)
                    assert not late

    def holds_key_of(self, process: Process, opening: Opening) -> bool:
        """Whether its keyring has all that it takes to open this."""
        if not self.current(process) or process.held is None:
            return False
        keys = process.held.keys
        return process.keyring.holds(keys) and read_key_version(opening.sealed.record) in keys.versions

    @invariant()
    def nothing_tells_a_secret(self) -> None:
        roots = [process.held.root.key.reveal_bytes() for process in self.processes if process.held]
        secrets = [
            *self.truth.entered.values(),
            *(way.text for way in (*self.ways.values(), *self.gone_ways)),
            *(form for root in roots for form in (root.hex(), repr(root)[2:-1])),
        ]
        shown = [
            f"{process.held!r} {vars(process.keyring)!r} {vars(process.agent)!r}"
            for process in self.processes
        ]
        shown += [f"{vars(process.agent._granting)!r}" for process in self.processes]
        text = "\n".join([*self.book.lines, *shown])
        self.book.lines.clear()
        assert [secret for secret in secrets if secret in text] == []
        counted["steps"] += 1
