"""Grants: ROOT goes from an unlocked worker to the one that asked for it, and a database in between learns nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from tests.vault.engine.vault_cast import VAULT, random_root, secret
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import AnnouncementRefused, DoesNotOpen, KeyMalformed, VaultLocked
from vault.engine.grants import (
    GRANT_BYTES,
    Announcement,
    ClusterKey,
    Occasion,
    WorkerKey,
    check_announcement,
    grant_root,
)
from vault.engine.hierarchy import Root, make_root_check

NOW = 1_790_000_000.0
CLUSTER = ClusterKey(SecretBuffer.random())
OTHER_CLUSTER = ClusterKey(SecretBuffer.random())
ROOT = random_root(2)
CHECK = make_root_check(ROOT)
OCCASION = Occasion.create(5)


def worker(instance: str = "host-1:3", boot_id: str = "boot-a", vault_id: str = VAULT) -> WorkerKey:
    return WorkerKey(vault_id, instance, boot_id)


def opened(asking: WorkerKey, grant: bytes, **changes: Any) -> bool:
    """Whether it opens, with one of the other arguments changed."""
    arguments: dict[str, Any] = {
        "cluster": CLUSTER,
        "root_version": 2,
        "occasion": OCCASION,
        "root_check": CHECK,
    }
    try:
        with asking.open(grant, **(arguments | changes)) as root:
            return root.key == ROOT.key
    except DoesNotOpen:
        return False


def test_the_worker_that_asked_gets_the_root() -> None:
    asking = worker()
    stored = msgspec.json.encode(asking.announce(CLUSTER, NOW))
    announcement = msgspec.json.decode(stored, type=Announcement)
    grant = grant_root(ROOT, announcement, CLUSTER, OCCASION, NOW + 3)
    assert len(grant) == GRANT_BYTES == 237
    with asking.open(grant, CLUSTER, 2, OCCASION, CHECK) as root:
        assert root.key == ROOT.key
        assert (root.vault_id, root.version) == (VAULT, 2)
    assert ROOT.key.reveal_bytes() not in grant + stored


def test_nobody_else_gets_it() -> None:
    asking = worker()
    grant = grant_root(ROOT, asking.announce(CLUSTER, NOW), CLUSTER, OCCASION, NOW)
    others = [worker(), worker("host-1:4"), worker(boot_id="boot-b"), worker(vault_id="other")]
    assert [other for other in others if opened(other, grant)] == []
    # One with the right key pair, but another name, run or vault: the binding says whom it is for.
    for change in ({"instance": "host-1:4"}, {"boot_id": "boot-b"}, {"vault_id": "other"}):
        renamed = worker()
        renamed._private, renamed.public_key = asking._private, asking.public_key
        for name, value in change.items():
            setattr(renamed, name, value)
        assert not opened(renamed, grant)
    assert opened(asking, grant)


def test_it_is_good_for_one_occasion() -> None:
    asking = worker()
    grant = grant_root(ROOT, asking.announce(CLUSTER, NOW), CLUSTER, OCCASION, NOW)
    assert not opened(asking, grant, occasion=replace(OCCASION, lock_epoch=6))
    assert not opened(asking, grant, occasion=Occasion.create(5))
    assert not opened(asking, grant, root_version=1)
    assert not opened(asking, grant, root_version=3)
    assert not opened(asking, grant, cluster=OTHER_CLUSTER)
    assert opened(asking, grant)


def test_of_all_changed_grants_none_opens() -> None:
    asking = worker()
    grant = grant_root(ROOT, asking.announce(CLUSTER, NOW), CLUSTER, OCCASION, NOW)
    changed = [grant[:at] + bytes((grant[at] ^ 1,)) + grant[at + 1 :] for at in range(len(grant))]
    changed += [grant[:length] for length in range(len(grant))]
    changed += [grant + b"\0", b"\0" + grant, grant * 2]
    assert sum(opened(asking, other) for other in changed) == 0
    assert len(changed) == 237 * 2 + 3


def test_changed_bytes_do_not_open_for_whoever_has_the_cluster_secret_either() -> None:
    """The layers below the MAC hold by themselves: each byte changed, and signed again with the true secret."""
    asking = worker()
    grant = grant_root(ROOT, asking.announce(CLUSTER, NOW), CLUSTER, OCCASION, NOW)

    class Agreeable(ClusterKey):
        """Says yes to any MAC."""

        def __init__(self) -> None:
            self.mac = b""

        def sign(self, use: Any, message: Any) -> bytes:
            return self.mac

    agreeable = Agreeable()
    count = 0
    for at in range(4, GRANT_BYTES - 32):
        changed = grant[:at] + bytes((grant[at] ^ 1,)) + grant[at + 1 :]
        agreeable.mac = changed[-32:]
        count += opened(asking, changed, cluster=agreeable)
    # The highest bit of an X25519 public key is not part of it (RFC 7748), and HPKE takes the bytes into the key schedule.
    assert count == 0


def test_a_grant_of_another_root_is_discarded() -> None:
    """By a peer with the cluster secret and a wrong ROOT: the check that is stored with the vault decides."""
    asking = worker()
    with random_root(2) as forged:
        grant = grant_root(forged, asking.announce(CLUSTER, NOW), CLUSTER, OCCASION, NOW)
        with pytest.raises(DoesNotOpen):
            asking.open(grant, CLUSTER, 2, OCCASION, CHECK)
        for check in (b"", CHECK[:-1], CHECK[:-1] + bytes((CHECK[-1] ^ 1,))):
            assert not opened(asking, grant, root_check=check)


def test_a_grant_by_whoever_only_writes_to_the_database_is_refused() -> None:
    """He knows all public things and seals a ROOT of his own, with a check of it beside; the MAC is what he can't make."""
    asking = worker()
    announcement = asking.announce(CLUSTER, NOW)
    with random_root(2) as forged:
        own = ClusterKey(SecretBuffer.random())
        resigned = WorkerKey(VAULT, asking.instance, asking.boot_id)
        resigned.public_key = asking.public_key
        grant = grant_root(forged, resigned.announce(own, NOW), own, OCCASION, NOW)
        assert announcement.public_key == asking.public_key
        with pytest.raises(DoesNotOpen) as caught:
            asking.open(grant, CLUSTER, 2, OCCASION, make_root_check(forged))
    assert caught.value.reason == "signature"
    # Plain HPKE to the announced key, as from someone who read the RFC only.
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    sealed = suite.encrypt(bytes(32), X25519PublicKey.from_public_bytes(asking.public_key), info=b"")
    assert not opened(asking, b"THG1" + sealed + bytes(GRANT_BYTES - 84))


@pytest.mark.parametrize(
    "change",
    [
        {"vault_id": "other"},
        {"instance": "host-2:1"},
        {"boot_id": "boot-b"},
        {"public_key": X25519PrivateKey.generate().public_key().public_bytes_raw()},
        {"public_key": b""},
        {"created_at": int(NOW) + 1},
        {"created_at": -1},
        {"created_at": 2**70},
        {"instance": "\ud800"},
        {"mac": bytes(32)},
        {"mac": b""},
    ],
)
def test_a_changed_announcement_gets_nothing(change: dict[str, Any]) -> None:
    forged = msgspec.structs.replace(worker().announce(CLUSTER, NOW), **change)
    with pytest.raises(AnnouncementRefused):
        grant_root(ROOT, forged, CLUSTER, OCCASION, NOW)


def test_an_announcement_of_another_cluster_or_vault_gets_nothing() -> None:
    with pytest.raises(AnnouncementRefused, match="cluster secret"):
        grant_root(ROOT, worker().announce(OTHER_CLUSTER, NOW), CLUSTER, OCCASION, NOW)
    with pytest.raises(AnnouncementRefused, match="another vault"):
        grant_root(ROOT, worker(vault_id="other").announce(CLUSTER, NOW), CLUSTER, OCCASION, NOW)


def test_fields_of_an_announcement_can_not_be_shifted_into_each_other() -> None:
    one = WorkerKey(VAULT, "host-1", "1boot").announce(CLUSTER, NOW)
    moved = msgspec.structs.replace(one, instance="host-11", boot_id="boot")
    with pytest.raises(AnnouncementRefused):
        check_announcement(moved, CLUSTER, VAULT, NOW)


@pytest.mark.parametrize(
    ("age", "taken"), [(0, True), (60, True), (61, False), (-5, True), (-6, False), (1e9, False)]
)
def test_an_announcement_is_answered_for_a_minute(age: float, taken: bool) -> None:
    announcement = worker().announce(CLUSTER, NOW)
    if taken:
        check_announcement(announcement, CLUSTER, VAULT, NOW + age)
    else:
        with pytest.raises(AnnouncementRefused, match="too old"):
            check_announcement(announcement, CLUSTER, VAULT, NOW + age)


def test_a_key_that_agrees_on_nothing_is_refused() -> None:
    """A point of low order makes the same shared secret with everyone. It takes a worker of ours to announce it."""
    weak = worker()
    weak.public_key = bytes(32)
    with pytest.raises(AnnouncementRefused, match="can't be used"):
        grant_root(ROOT, weak.announce(CLUSTER, NOW), CLUSTER, OCCASION, NOW)


def test_a_discarded_key_and_a_locked_root_do_nothing_more() -> None:
    asking = worker()
    announcement = asking.announce(CLUSTER, NOW)
    grant = grant_root(ROOT, announcement, CLUSTER, OCCASION, NOW)
    asking.discard()
    assert not opened(asking, grant)
    locked = Root(VAULT, 2, SecretBuffer.random())
    locked.wipe()
    with pytest.raises(VaultLocked):
        grant_root(locked, announcement, CLUSTER, OCCASION, NOW)
    cluster = ClusterKey(secret(bytes(range(32))))
    cluster.wipe()
    with pytest.raises(VaultLocked):
        worker().announce(cluster, NOW)


def test_a_short_cluster_secret_is_refused() -> None:
    with pytest.raises(KeyMalformed, match="32"):
        ClusterKey(secret(b"short"))


def test_nothing_secret_is_shown() -> None:
    shown = f"{CLUSTER} {worker()} {ROOT} {OCCASION}"
    assert ROOT.key.reveal_bytes().hex()[:8] not in shown
    assert "ClusterKey()" in shown
