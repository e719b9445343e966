"""docs/vault.md says enough: a second implementation, of the document alone, opens everything the engine seals."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

import pytest

from tests.vault.engine import documented
from tests.vault.engine.documented import hkdf, open_box, pack
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
from vault.engine import framing
from vault.engine.buffers import SecretBuffer
from vault.engine.grants import ClusterKey, Occasion, WorkerKey, grant_root
from vault.engine.hierarchy import (
    DataKey,
    Purpose,
    derive_subkey,
    fingerprint,
    keep_subkey,
    make_root_check,
    wrap_data_key,
)
from vault.engine.kms import SoftwareKms
from vault.engine.manifest import describe_row, sign_rows
from vault.engine.records import DataKeys
from vault.engine.recovery import format_recovery_key
from vault.engine.slots import KmsSecret, SlotKind

DOCUMENT = (Path(__file__).parents[3] / "docs" / "vault.md").read_text(encoding="utf-8")
KEY = bytes(range(32))
CONTEXT = (
    VAULT,
    "vault_credential",
    "5",
    3,
    "secret",
    "openai",
    "https://api.openai.com:443",
    "authorization",
)


def example() -> bytes:
    """The record that the document shows."""
    found = re.search(r"```record\n([0-9a-f\n]+)```", DOCUMENT)
    assert found is not None
    return bytes.fromhex(found[1])


def test_the_documents_example_opens_by_both_implementations() -> None:
    assert open_box(KEY, "tokenhub vault v1 record", CONTEXT, example()) == (7, b"sk-example")
    keys = DataKeys(VAULT, [DataKey(VAULT, 7, secret(KEY))], active=7)
    assert keys.open(PLACE, example()).reveal_bytes() == b"sk-example"


def test_the_documents_example_is_what_is_sealed() -> None:
    def salt(view: memoryview) -> None:
        view[:] = bytes(range(0x20, 0x40))

    keys = DataKeys(VAULT, [DataKey(VAULT, 7, secret(KEY))], active=7)
    assert keys.seal(PLACE, secret(b"sk-example"), fill=salt) == example()


def test_records_open() -> None:
    key = DataKey.create(VAULT, 12)
    material = key.key.reveal_bytes()
    record = DataKeys(VAULT, [key], active=12).seal(PLACE, secret())
    assert open_box(material, "tokenhub vault v1 record", CONTEXT, record) == (12, SECRET)


def test_data_keys_root_checks_and_kept_subkeys_open() -> None:
    with random_root(4) as root, DataKey.create(VAULT, 9) as key:
        material = root.key.reveal_bytes()
        wrapped = wrap_data_key(root, key)
        opened = open_box(material, "tokenhub vault v1 data key", (VAULT, 9), wrapped)
        assert opened == (4, key.key.reveal_bytes())
        check = make_root_check(root)
        assert open_box(material, "tokenhub vault v1 root check", (VAULT,), check) == (4, b"")
        subkey = derive_subkey(root, Purpose.AUDIT_CHECKPOINT)
        kept = keep_subkey(root, Purpose.AUDIT_CHECKPOINT, 3, subkey)
        context = (VAULT, "audit checkpoint", 3)
        opened = open_box(material, "tokenhub vault v1 kept subkey", context, kept)
        assert opened == (4, subkey.reveal_bytes())


@pytest.mark.parametrize("pepper", [None, SecretBuffer.copy_of(bytes(range(100, 132)))])
def test_password_slots_open(pepper: SecretBuffer | None) -> None:
    text = "Zu\u0308rich am See 1904"
    with random_root(2) as root:
        slot = password(text, pepper).wrap(root, "slot-9")
        material = documented.argon2id(
            "Z\u00fcrich am See 1904".encode(),
            slot.salt,
            65_536,
            3,
            4,
            pepper.reveal_bytes() if pepper else b"",
        )
        context = (
            VAULT, "slot-9", "password", "argon2id", 65_536, 3, 4, slot.salt, int(pepper is not None), "", b"", 2,
        )  # fmt: skip
        opened = open_box(material, "tokenhub vault v1 slot", context, slot.sealed)
        assert opened == (2, root.key.reveal_bytes())


@pytest.mark.parametrize("kind", [SlotKind.KEY_FILE, SlotKind.ENVIRONMENT, SlotKind.RECOVERY])
def test_key_slots_open(kind: SlotKind) -> None:
    with random_root() as root:
        slot = key_secret(kind, secret(KEY)).wrap(root, "s")
        context = (VAULT, "s", kind.value, "none", 0, 0, 0, b"", 0, "key-1", b"", 1)
        opened = open_box(KEY, "tokenhub vault v1 slot", context, slot.sealed)
        assert opened == (1, root.key.reveal_bytes())


def test_kms_slots_open() -> None:
    with random_root() as root:
        slot = KmsSecret(SoftwareKms("k1", secret(KEY))).wrap(root, "s")
        bound = pack(
            "tokenhub:purpose", "vault slot", "tokenhub:root-version", "1", "tokenhub:slot", "s", "tokenhub:vault", VAULT
        )  # fmt: skip
        _, material = open_box(KEY, "tokenhub vault v1 software kms", ("k1", bound), slot.wrapped_key)
        context = (VAULT, "s", "kms", "kms", 0, 0, 0, b"", 0, "k1", slot.wrapped_key, 1)
        opened = open_box(material, "tokenhub vault v1 slot", context, slot.sealed)
        assert opened == (1, root.key.reveal_bytes())


def test_recovery_keys_are_read() -> None:
    printed = format_recovery_key(secret(KEY))
    assert documented.recovery_key(printed) == KEY
    assert printed in DOCUMENT


def test_subkeys_fingerprints_and_manifests_are_computed_alike() -> None:
    with random_root(3) as root:
        subkeys = {
            purpose: hkdf(
                root.key.reveal_bytes(), b"", pack("tokenhub vault v1 subkey", purpose.value, VAULT, 3), 32
            )
            for purpose in Purpose
        }
        for purpose, expected in subkeys.items():
            assert derive_subkey(root, purpose).reveal_bytes() == expected
    shown = hmac.digest(subkeys[Purpose.FINGERPRINT], SECRET, "sha256")[:8].hex()
    assert fingerprint(secret(subkeys[Purpose.FINGERPRINT]), secret()) == shown
    key = subkeys[Purpose.MANIFEST]
    rows = [describe_row("t", "1", "secret", 4, b"one"), describe_row("t", "2", "secret", 1, b"two")]
    message = pack("tokenhub vault v1 manifest", VAULT, 8)
    message += pack("row", "t", "1", "secret", 4, hashlib.sha256(b"one").digest())
    message += pack("row", "t", "2", "secret", 1, hashlib.sha256(b"two").digest()) + pack("end", 2)
    assert sign_rows(secret(key), VAULT, 8, rows).mac == hmac.digest(key, message, "sha256")


def test_announcements_and_grants_are_read() -> None:
    cluster_secret = b"0123456789abcdefghijklmnopqrstuvwxyz"
    cluster = ClusterKey(secret(cluster_secret))
    worker = WorkerKey(VAULT, "host:1", "boot")
    announcement = worker.announce(cluster, 1_790_000_000.9)
    keys = {
        use: hkdf(cluster_secret, b"", pack("tokenhub vault v1 cluster", use), 32)
        for use in ("announcement", "grant")
    }
    signed = pack(
        "tokenhub vault v1 announcement", VAULT, "host:1", "boot", announcement.public_key, 1_790_000_000
    )
    assert announcement.mac == hmac.digest(keys["announcement"], signed, "sha256")
    with random_root(5) as root:
        occasion = Occasion.create(6)
        grant = grant_root(root, announcement, cluster, occasion, 1_790_000_001.0)
        binding = pack(
            "tokenhub vault v1 grant", VAULT, 5, "host:1", "boot", announcement.public_key, 6, occasion.nonce
        )
        assert grant[:4] == b"THG1"
        assert grant[205:] == hmac.digest(keys["grant"], pack(binding, grant[:205]), "sha256")
        assert worker._private is not None
        private = worker._private.private_bytes_raw()
        transfer = documented.hpke_open(
            private, grant[4:36], binding, b"", grant[36:84], aead=2, key_length=32
        )
        opened = open_box(transfer, "tokenhub vault v1 grant", (binding,), grant[84:205])
        assert opened == (5, root.key.reveal_bytes())


def test_lists_of_fields_are_written_alike() -> None:
    expected = bytes.fromhex("00000002 6162 00000008 0000000000000001".replace(" ", ""))
    assert pack("ab", 1) == framing.pack("ab", 1) == expected
    assert "`00000002 6162 00000008 0000000000000001`" in DOCUMENT


def test_every_label_of_the_engine_is_documented() -> None:
    labels = set()
    for path in (Path(__file__).parents[3] / "vault" / "engine").glob("*.py"):
        labels |= set(re.findall(r'LABEL_\w+: Final = "([^"]+)"', path.read_text(encoding="utf-8")))
    assert len(labels) == 11
    assert {label for label in labels if label not in DOCUMENT} == set()


def test_the_second_implementation_uses_nothing_of_the_first() -> None:
    assert "vault.engine" not in re.sub(
        r'""".*?"""', "", Path(documented.__file__).read_text(), flags=re.DOTALL
    )


def test_it_refuses_too() -> None:
    """So that what it opens means something."""
    record = data_keys(1).seal(PLACE, secret())
    with pytest.raises(AssertionError):
        open_box(KEY, "tokenhub vault v1 record", CONTEXT, record)
