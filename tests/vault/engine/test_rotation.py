"""Rotations: what was opened before opens afterwards, and old secrets open what they should only."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import binary, data, sampled_from

from tests.vault.engine.vault_cast import (
    PLACE,
    SECRET,
    VAULT,
    data_keys,
    key_secret,
    password,
    random_root,
    secret,
)
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import DoesNotOpen
from vault.engine.hierarchy import (
    DataKey,
    Purpose,
    Root,
    check_root,
    derive_subkey,
    fingerprint,
    keep_subkey,
    make_root_check,
    open_kept_subkey,
    unwrap_data_key,
    wrap_data_key,
)
from vault.engine.records import DataKeys
from vault.engine.rotation import reseal, rotate_root
from vault.engine.sealing import read_key_version
from vault.engine.slots import Slot, SlotKind, SlotSecret


def change_secret(slot: Slot, old: SlotSecret, new: SlotSecret) -> Slot:
    """As the vault changes a password: the slot under another secret, same id."""
    with old.unwrap(slot) as root:
        return new.wrap(root, slot.slot_id)


def test_a_changed_password_opens_and_the_old_one_does_not() -> None:
    old, new = password("the old password 1"), password("the new password 2")
    with random_root() as root:
        slot = old.wrap(root, "s")
        changed = change_secret(slot, old, new)
        with new.unwrap(changed) as opened:
            assert opened.key == root.key
    assert changed.slot_id == slot.slot_id
    assert changed.salt != slot.salt
    with pytest.raises(DoesNotOpen):
        old.unwrap(changed)
    with pytest.raises(DoesNotOpen):
        change_secret(slot, new, old)


def test_a_record_is_sealed_again_under_the_active_key() -> None:
    keys = data_keys(1)
    record = keys.seal(PLACE, secret())
    keys.add(DataKey.create(VAULT, 2), activate=True)
    again = reseal(keys, PLACE, record)
    assert (read_key_version(record), read_key_version(again)) == (1, 2)
    keys.retire(1)
    assert keys.open(PLACE, again).reveal_bytes() == SECRET
    moved_on = replace(PLACE, row_version=4)
    third = reseal(keys, PLACE, again, moved_on)
    assert keys.open(moved_on, third).reveal_bytes() == SECRET
    with pytest.raises(DoesNotOpen):
        keys.open(PLACE, third)
    with pytest.raises(DoesNotOpen):
        reseal(keys, PLACE, record)


def test_a_new_root_opens_everything_and_the_old_one_nothing_new() -> None:
    old = random_root()
    first, file, printed = password("the old password 1"), key_secret(), key_secret(SlotKind.RECOVERY)
    slots = [first.wrap(old, "p"), file.wrap(old, "f"), printed.wrap(old, "r")]
    keys = [DataKey.create(VAULT, version) for version in (1, 2)]
    wrapped = {key.version: wrap_data_key(old, key) for key in keys}
    record = DataKeys(VAULT, keys, active=2).seal(PLACE, secret())

    rotated = rotate_root(old, wrapped, slots, {"p": first, "f": file})

    assert rotated.root.version == 2
    assert [slot.slot_id for slot in rotated.slots] == ["p", "f"]
    assert rotated.dropped == ("r",)
    for one, slot in ((first, rotated.slots[0]), (file, rotated.slots[1])):
        with one.unwrap(slot) as root:
            check_root(root, rotated.root_check)
            opened = DataKeys.unwrap(root, rotated.data_keys, active=2)
            assert opened.open(PLACE, record).reveal_bytes() == SECRET
    with pytest.raises(DoesNotOpen):
        check_root(old, rotated.root_check)
    with pytest.raises(DoesNotOpen):
        unwrap_data_key(old, 1, rotated.data_keys[1])
    with pytest.raises(DoesNotOpen):
        unwrap_data_key(rotated.root, 1, wrapped[1])
    for purpose, kept in rotated.kept_subkeys.items():
        assert open_kept_subkey(rotated.root, purpose, 1, kept) == derive_subkey(old, purpose)
    # The old rows stay as they were, for a process that is killed before the new ones are stored.
    assert printed.unwrap(slots[2]).key == old.key


def test_a_mistyped_password_never_gets_into_a_new_root() -> None:
    old = random_root()
    right = password("the right password 1")
    slot = right.wrap(old, "p")
    with pytest.raises(DoesNotOpen):
        rotate_root(old, {}, [slot], {"p": password("the wrong password 1")})
    with pytest.raises(ValueError, match="at least one slot"):
        rotate_root(old, {}, [slot], {"q": right})
    with random_root() as another, pytest.raises(DoesNotOpen):
        rotate_root(another, {}, [slot], {"p": right})
    with random_root() as another, pytest.raises(DoesNotOpen):
        rotate_root(old, {1: wrap_data_key(another, DataKey.create(VAULT, 1))}, [slot], {"p": right})


def test_the_root_check_opens_for_its_root_version_and_vault_only() -> None:
    root = random_root()
    check = make_root_check(root)
    check_root(root, check)
    wrong = [
        Root(VAULT, 1, SecretBuffer.random()),
        Root(VAULT, 2, root.key),
        Root("other", 1, root.key),
    ]
    for other in wrong:
        with pytest.raises(DoesNotOpen):
            check_root(other, check)


def test_subkeys_differ_by_purpose_version_vault_and_root() -> None:
    root = random_root()
    roots = [root, Root(VAULT, 2, root.key), Root("other", 1, root.key), random_root()]
    subkeys = {derive_subkey(one, purpose).reveal_bytes() for one in roots for purpose in Purpose}
    assert len(subkeys) == len(roots) * len(Purpose) == 12
    assert root.key.reveal_bytes() not in subkeys
    kept = keep_subkey(root, Purpose.MANIFEST, 1, derive_subkey(root, Purpose.MANIFEST))
    for purpose, version in ((Purpose.FINGERPRINT, 1), (Purpose.MANIFEST, 2)):
        with pytest.raises(DoesNotOpen):
            open_kept_subkey(root, purpose, version, kept)


def test_a_fingerprint_tells_equal_secrets_and_nothing_else() -> None:
    key = derive_subkey(random_root(), Purpose.FINGERPRINT)
    assert fingerprint(key, secret()) == fingerprint(key, secret())
    assert len(fingerprint(key, secret())) == 16
    assert int(fingerprint(key, secret()), 16) >= 0
    assert fingerprint(key, secret()) != fingerprint(key, secret(SECRET + b"x"))
    with derive_subkey(random_root(), Purpose.FINGERPRINT) as other:
        assert fingerprint(other, secret()) != fingerprint(key, secret())


def test_a_data_key_of_another_vault_is_not_wrapped() -> None:
    with random_root() as root, pytest.raises(ValueError, match="another vault"):
        wrap_data_key(root, DataKey.create("other", 1))


class Rotations(RuleBasedStateMachine):
    """Any sequence of rotations, with the stored rows as the only state: every secret opens with every slot that is left."""

    @initialize()
    def create(self) -> None:
        """A vault with two slots and one data key."""
        self.secrets = {"f": key_secret(), "r": key_secret(SlotKind.RECOVERY)}
        root = random_root()
        self.slots: dict[str, Slot] = {name: one.wrap(root, name) for name, one in self.secrets.items()}
        self.wrapped = {1: wrap_data_key(root, DataKey.create(VAULT, 1))}
        self.check = make_root_check(root)
        self.active = 1
        self.stored: dict[int, tuple[bytes, bytes]] = {}
        self.retired_slots: list[Slot] = []

    def unlock(self) -> tuple[Root, DataKeys]:
        name = sorted(self.slots)[0]
        root = self.secrets[name].unwrap(self.slots[name])
        check_root(root, self.check)
        return root, DataKeys.unwrap(root, self.wrapped, active=self.active)

    @rule(plaintext=binary(max_size=40))
    def store(self, plaintext: bytes) -> None:
        """A new record."""
        row = len(self.stored) + 1
        record = self.unlock()[1].seal(replace(PLACE, row_id=str(row)), secret(plaintext))
        self.stored[row] = (plaintext, record)

    @rule()
    def new_data_key(self) -> None:
        """The next version becomes the active one; records stay."""
        root, _ = self.unlock()
        self.active = max(self.wrapped) + 1
        self.wrapped[self.active] = wrap_data_key(root, DataKey.create(VAULT, self.active))

    @precondition(lambda self: self.stored)
    @rule(choice=data())
    def reseal_one(self, choice: data) -> None:  # type: ignore[valid-type]
        """One step of the background's work, and retiring what no record needs."""
        row = choice.draw(sampled_from(sorted(self.stored)))  # type: ignore[attr-defined]
        plaintext, record = self.stored[row]
        self.stored[row] = (plaintext, reseal(self.unlock()[1], replace(PLACE, row_id=str(row)), record))
        needed = {read_key_version(record) for _, record in self.stored.values()} | {self.active}
        self.wrapped = {version: box for version, box in self.wrapped.items() if version in needed}

    @rule(name=sampled_from("fr"))
    def new_secret(self, name: str) -> None:
        """A slot under a new key."""
        if name in self.slots:
            new = key_secret(self.secrets[name].kind)
            self.slots[name] = change_secret(self.slots[name], self.secrets[name], new)
            self.secrets[name] = new

    @rule(kept=sampled_from(["f", "r", "fr"]))
    def new_root(self, kept: str) -> None:
        """A new root for the slots at hand; what is dropped must not open the new vault."""
        at_hand = {name: self.secrets[name] for name in self.slots if name in kept}
        if not at_hand:
            return
        root, _ = self.unlock()
        rotated = rotate_root(root, self.wrapped, self.slots.values(), at_hand)
        self.retired_slots += self.slots.values()
        self.slots = {slot.slot_id: slot for slot in rotated.slots}
        self.wrapped, self.check = dict(rotated.data_keys), rotated.root_check

    @invariant()
    def everything_opens(self) -> None:
        """With each slot that is left."""
        for name, slot in getattr(self, "slots", {}).items():
            with self.secrets[name].unwrap(slot) as root:
                check_root(root, self.check)
                keys = DataKeys.unwrap(root, self.wrapped, active=self.active)
                for row, (plaintext, record) in self.stored.items():
                    assert keys.open(replace(PLACE, row_id=str(row)), record).reveal_bytes() == plaintext

    @invariant()
    def no_old_slot_opens_the_vault_of_now(self) -> None:
        """Restored from a backup, with its own old secret."""
        for slot in getattr(self, "retired_slots", []):
            try:
                root = self.secrets[slot.slot_id].unwrap(slot)
            except DoesNotOpen:
                continue
            with root, pytest.raises(DoesNotOpen):
                check_root(root, self.check)


TestRotations = Rotations.TestCase
TestRotations.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
