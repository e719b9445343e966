"""How an unlocked worker gives ROOT to a locked one, by way of a database that must learn nothing. Both planes; pure.

A locked worker announces a public key, signed with a key that only workers have (of TOKENHUB_CLUSTER_SECRET, which is not
in the database): HPKE alone would seal ROOT to whoever wrote a row. The grant is

    "THG1" | encapsulated key 32 | sealed transfer key 32 + 16 | sealed ROOT 32 + 89 | mac 32        (237 bytes)

    HPKE base mode (RFC 9180): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM; info = binding
    sealed ROOT = a box of `sealing` under the transfer key, key version = root version, context = (binding,)
    mac = HMAC-SHA256(HKDF(cluster secret, "grant"), pack(binding, all bytes before the mac))
    binding = pack(label, vault id, root version, instance, boot id, public key, lock epoch, nonce)

HPKE seals a transfer key, not ROOT, because the library returns what HPKE opens as `bytes`, which nobody can overwrite:
what stays behind in memory opens a row that is gone within a minute, and ROOT is in buffers only.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vault.engine.buffers import Fill, Readable, SecretBuffer, fill_random
from vault.engine.errors import AnnouncementRefused, DoesNotOpen, KeyMalformed
from vault.engine.framing import pack
from vault.engine.hierarchy import Root, check_root
from vault.engine.sealing import KEY_BYTES, LABEL_GRANT, OVERHEAD, seal, unseal

LABEL_CLUSTER: Final = "tokenhub vault v1 cluster"
LABEL_ANNOUNCEMENT: Final = "tokenhub vault v1 announcement"
MIN_CLUSTER_SECRET: Final = 32
NONCE_BYTES: Final = 16
MAX_AGE: Final = 60.0
"""Seconds for which an announcement is answered. A worker that waits longer announces itself again."""
MAX_SKEW: Final = 5.0
"""Seconds that an announcement may lie in the future."""

_MAGIC = b"THG1"
_HPKE_BYTES = 32 + KEY_BYTES + 16
_ROOT_AT = len(_MAGIC) + _HPKE_BYTES
_MAC_AT = _ROOT_AT + KEY_BYTES + OVERHEAD
GRANT_BYTES: Final = _MAC_AT + 32
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class _ClusterUse(StrEnum):
    ANNOUNCEMENT = "announcement"
    GRANT = "grant"


class ClusterKey:
    """What the workers of one installation share, and the database does not have. Derived of TOKENHUB_CLUSTER_SECRET."""

    def __init__(self, secret: SecretBuffer) -> None:
        """Raises KeyMalformed for less than 32 bytes: nobody stretches it, so it must be random."""
        if len(secret) < MIN_CLUSTER_SECRET:
            raise KeyMalformed(f"the cluster secret has at least {MIN_CLUSTER_SECRET} random characters")
        self._keys = {use: self._derive(secret, use) for use in _ClusterUse}

    def sign(self, use: _ClusterUse, message: Readable) -> bytes:
        """32 bytes of HMAC-SHA256."""
        with self._keys[use].exposed() as key:
            return hmac.digest(key, message, "sha256")

    def wipe(self) -> None:
        """Overwrites the keys."""
        for key in self._keys.values():
            key.wipe()

    def __repr__(self) -> str:
        return "ClusterKey()"

    @staticmethod
    def _derive(secret: SecretBuffer, use: _ClusterUse) -> SecretBuffer:
        derived = SecretBuffer(KEY_BYTES)
        info = pack(LABEL_CLUSTER, use.value)
        with secret.exposed() as material, derived.exposed() as view:
            HKDF(SHA512(), KEY_BYTES, None, info).derive_into(material, view)
        return derived


class Announcement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A locked worker's row: which worker of which vault, since when (whole seconds since 1970), its public key, the proof."""

    vault_id: str
    instance: str
    boot_id: str
    public_key: bytes
    created_at: int
    mac: bytes = b""

    def signed_part(self) -> bytes:
        """What the MAC is over."""
        return pack(
            LABEL_ANNOUNCEMENT, self.vault_id, self.instance, self.boot_id, self.public_key, self.created_at
        )


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a grant is good for: the vault's lock epoch, and a nonce of its own, which is stored beside it."""

    lock_epoch: int
    nonce: bytes

    @classmethod
    def create(cls, lock_epoch: int, *, fill: Fill = fill_random) -> Occasion:
        """With a new nonce."""
        nonce = bytearray(NONCE_BYTES)
        fill(memoryview(nonce))
        return cls(lock_epoch, bytes(nonce))


class WorkerKey:
    """A worker's ephemeral key pair, in memory only. `instance` names the worker, `boot_id` this run of it."""

    def __init__(self, vault_id: str, instance: str, boot_id: str) -> None:
        self.vault_id = vault_id
        self.instance = instance
        self.boot_id = boot_id
        self._private: X25519PrivateKey | None = X25519PrivateKey.generate()
        self.public_key = self._private.public_key().public_bytes_raw()

    def announce(self, cluster: ClusterKey, now: float) -> Announcement:
        """The row to write, again after MAX_AGE. `now` is the database's time, which all workers share."""
        plain = Announcement(
            vault_id=self.vault_id,
            instance=self.instance,
            boot_id=self.boot_id,
            public_key=self.public_key,
            created_at=int(now),
        )
        mac = cluster.sign(_ClusterUse.ANNOUNCEMENT, plain.signed_part())
        return msgspec.structs.replace(plain, mac=mac)

    def open(
        self,
        grant: Readable,
        cluster: ClusterKey,
        root_version: int,
        occasion: Occasion,
        root_check: Readable,
    ) -> Root:
        """ROOT, which the caller wipes. Raises DoesNotOpen for a grant to another worker, of another occasion or by nobody.

        `root_version` and `root_check` are the vault's: a ROOT that does not open the check is discarded.
        """
        if self._private is None or len(grant) != GRANT_BYTES or grant[:4] != _MAGIC:
            raise DoesNotOpen("format")
        binding = _binding(
            self.vault_id, root_version, self.instance, self.boot_id, self.public_key, occasion
        )
        mac = cluster.sign(_ClusterUse.GRANT, pack(binding, grant[:_MAC_AT]))
        if not hmac.compare_digest(mac, grant[_MAC_AT:]):
            raise DoesNotOpen("signature")
        try:
            transfer = SecretBuffer.copy_of(
                _SUITE.decrypt(grant[len(_MAGIC) : _ROOT_AT], self._private, info=binding)
            )
        except (InvalidTag, ValueError):
            raise DoesNotOpen("authentication") from None
        with transfer:
            opened = unseal(transfer, LABEL_GRANT, root_version, (binding,), grant[_ROOT_AT:_MAC_AT])
        root = Root(self.vault_id, root_version, opened)
        try:
            check_root(root, root_check)
        except BaseException:
            root.wipe()
            raise
        return root

    def discard(self) -> None:
        """Drops the private key; OpenSSL cleans its memory. Nothing opens with it afterwards."""
        self._private = None

    def __repr__(self) -> str:
        return f"WorkerKey({self.instance!r}, {self.boot_id!r})"


def check_announcement(announcement: Announcement, cluster: ClusterKey, vault_id: str, now: float) -> None:
    """Raises AnnouncementRefused unless a worker of this installation and vault wrote it within MAX_AGE seconds."""
    try:
        signed = announcement.signed_part()
    except ValueError:
        raise AnnouncementRefused("the announcement is malformed") from None
    expected = cluster.sign(_ClusterUse.ANNOUNCEMENT, signed)
    if not hmac.compare_digest(expected, announcement.mac):
        raise AnnouncementRefused(
            "the announcement is not signed with the cluster secret",
            hint="give all workers the same TOKENHUB_CLUSTER_SECRET",
        )
    if announcement.vault_id != vault_id or len(announcement.public_key) != 32:
        raise AnnouncementRefused("the announcement is for another vault")
    if not -MAX_SKEW <= now - announcement.created_at <= MAX_AGE:
        raise AnnouncementRefused("the announcement is too old, or from the future")


def grant_root(
    root: Root,
    announcement: Announcement,
    cluster: ClusterKey,
    occasion: Occasion,
    now: float,
    *,
    fill: Fill = fill_random,
) -> bytes:
    """ROOT for the worker that announced itself, and for nobody else. Raises AnnouncementRefused."""
    check_announcement(announcement, cluster, root.vault_id, now)
    binding = _binding(
        root.vault_id,
        root.version,
        announcement.instance,
        announcement.boot_id,
        announcement.public_key,
        occasion,
    )
    public = X25519PublicKey.from_public_bytes(announcement.public_key)
    with SecretBuffer.random(KEY_BYTES, fill=fill) as transfer:
        box = seal(transfer, LABEL_GRANT, root.version, (binding,), root.key, fill=fill)
        try:
            with transfer.exposed() as view:
                sealed = _SUITE.encrypt(view, public, info=binding)
        except ValueError:
            # A point of low order: no key pair of ours has it.
            raise AnnouncementRefused("the announced key can't be used") from None
    grant = _MAGIC + sealed + box
    return grant + cluster.sign(_ClusterUse.GRANT, pack(binding, grant))


def _binding(
    vault_id: str, root_version: int, instance: str, boot_id: str, public_key: bytes, occasion: Occasion
) -> bytes:
    return pack(
        LABEL_GRANT,
        vault_id,
        root_version,
        instance,
        boot_id,
        public_key,
        occasion.lock_epoch,
        occasion.nonce,
    )
