"""A keyed MAC over all sealed rows, which notices a row that was removed, added, or put back whole from a backup. Pure.

What the additional data can't see: an old row, with its old version and its old ciphertext, is consistent in itself. The
manifest is written with each change; its counter goes into the audit trail and the log, so that a manifest put back
together with all its rows is older than what was seen there.

    mac = HMAC-SHA256(manifest key, pack(label, vault id, counter) || row || row || … || pack("end", number of rows))
    row = pack("row", table, row id, field, row version, sha256(record))        in the order of (table, row id, field)
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from vault.engine.buffers import Readable, SecretBuffer
from vault.engine.errors import DoesNotOpen
from vault.engine.framing import pack

LABEL_MANIFEST: Final = "tokenhub vault v1 manifest"


@dataclass(frozen=True, slots=True, order=True)
class ManifestRow:
    """One sealed field of one row. Ordered by table, row id and field, as Python compares text (by code point)."""

    table: str
    row_id: str
    field: str
    row_version: int
    digest: bytes

    @property
    def identity(self) -> tuple[str, str, str]:
        """What only one row of a manifest has."""
        return self.table, self.row_id, self.field


@dataclass(frozen=True, slots=True)
class Manifest:
    """The state of a vault's rows at one count of changes."""

    vault_id: str
    counter: int
    rows: int
    mac: bytes


class Change(StrEnum):
    """How a row differs from what was signed."""

    MISSING = "missing"
    UNKNOWN = "unknown"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that differs. Versions are None where there is no such row."""

    change: Change
    table: str
    row_id: str
    field: str
    signed_version: int | None
    found_version: int | None


def describe_row(table: str, row_id: str, field: str, row_version: int, record: Readable) -> ManifestRow:
    """The row's line in the manifest."""
    return ManifestRow(table, row_id, field, row_version, hashlib.sha256(record).digest())


def sign_rows(key: SecretBuffer, vault_id: str, counter: int, rows: Iterable[ManifestRow]) -> Manifest:
    """The manifest of rows that come in order, each looked at once and then forgotten.

    Raises ValueError when they are out of order or one comes twice: a database orders text by its own rules unless
    asked for code points (`COLLATE "C"`), so sort them here when in doubt.
    """
    with key.exposed() as view:
        # Not hmac.new, which takes no view: the key would have to be copied for it.
        mac = HMAC(view, SHA256())
    mac.update(pack(LABEL_MANIFEST, vault_id, counter))
    count = 0
    for row in _in_order(rows):
        mac.update(pack("row", row.table, row.row_id, row.field, row.row_version, row.digest))
        count += 1
    mac.update(pack("end", count))
    return Manifest(vault_id, counter, count, mac.finalize())


def verify_rows(
    key: SecretBuffer, manifest: Manifest, rows: Iterable[ManifestRow], *, at_least: int = 0
) -> None:
    """Raises DoesNotOpen unless these are the rows that were signed, and the counter is not below `at_least`."""
    if manifest.counter < at_least:
        raise DoesNotOpen("signature")
    found = sign_rows(key, manifest.vault_id, manifest.counter, rows)
    if found.rows != manifest.rows or not hmac.compare_digest(found.mac, manifest.mac):
        raise DoesNotOpen("signature")


def compare_rows(signed: Iterable[ManifestRow], found: Iterable[ManifestRow]) -> Iterator[Difference]:
    """How the rows found differ from the lines kept with a manifest; both come in order, and neither is held in memory.

    The lines kept say the truth only when `verify_rows` accepted them. Raises ValueError as `sign_rows` does.
    """
    kept_rows, found_rows = _in_order(signed), _in_order(found)
    kept, now = next(kept_rows, None), next(found_rows, None)
    while kept is not None or now is not None:
        if kept is not None and (now is None or kept.identity < now.identity):
            yield Difference(Change.MISSING, *kept.identity, kept.row_version, None)
            kept = next(kept_rows, None)
        elif now is not None and (kept is None or now.identity < kept.identity):
            yield Difference(Change.UNKNOWN, *now.identity, None, now.row_version)
            now = next(found_rows, None)
        elif kept is not None and now is not None:
            if kept != now:
                yield Difference(Change.CHANGED, *kept.identity, kept.row_version, now.row_version)
            kept, now = next(kept_rows, None), next(found_rows, None)


def _in_order(rows: Iterable[ManifestRow]) -> Iterator[ManifestRow]:
    before: tuple[str, str, str] | None = None
    for row in rows:
        if before is not None and row.identity <= before:
            raise ValueError("a manifest's rows come in order, each once")
        before = row.identity
        yield row
