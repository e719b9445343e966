"""The audit trail's hash chain: how an entry is encoded, and what a walk along the chain finds wrong. Control plane; pure.

Each entry's hash is SHA-256 over its canonical JSON, in which the hash of the entry before it stands. Whoever changes, removes,
inserts or moves an entry must therefore write every later hash anew; the last one is told at each start and may be kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

GENESIS = "0" * 64
"""What stands before the first entry."""

CONTENT = (
    "at",
    "actor",
    "actor_kind",
    "address",
    "action",
    "object_type",
    "object_id",
    "object_label",
    "before",
    "after",
)
"""What an entry says. Its `id` is left out: it is the database's, and nothing is ordered by it."""

_VERSION = "tokenhub.audit.1"
_EXACT = 2**53
_NEIGHBOURS = 50
"""How many entries on either side are asked whether an altered one is really theirs."""

Fields = Mapping[str, Any]


def normalise(value: Any) -> Any:
    """`value` as both databases give it back: string keys, and no number that one of them would round or write otherwise.

    Postgres keeps numbers as decimals, SQLite as text; what neither JSON nor a double holds exactly becomes text.
    """
    if isinstance(value, Mapping):
        return {str(key): normalise(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [normalise(item) for item in value]
    if isinstance(value, float) and not -_EXACT < value < _EXACT:  # NaN too
        return repr(value)
    return value


def digest_of(seq: int, prev_hash: str, fields: Fields) -> str:
    """The hash of an entry: SHA-256, 64 hexadecimal digits, over `fields` (those of CONTENT, normalised), `seq` and `prev_hash`."""
    moment: datetime = fields["at"]
    content = [
        moment.astimezone(UTC).isoformat(timespec="microseconds"),
        *(_canonical(fields[name]) for name in CONTENT[1:]),
    ]
    text = json.dumps([_VERSION, seq, prev_hash, *content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """Whole floats as integers: `1.0` and `1` are one number to a database."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


@dataclass(frozen=True, slots=True)
class Link:
    """One stored entry of the chain, as it was read."""

    seq: int
    prev_hash: str
    hash: str
    fields: Fields

    def fits(self, seq: int, prev_hash: str) -> bool:
        """Whether its hash is that of its content at this place."""
        return digest_of(seq, prev_hash, self.fields) == self.hash


@dataclass(frozen=True, slots=True)
class Break:
    """The first thing that is wrong: `kind` is missing, altered, reordered, inserted, replaced, cut or head; `seq` says where."""

    kind: str
    seq: int
    text: str


@dataclass(slots=True)
class Walk:
    """A walk along the chain, entry by entry in the order of `seq`. `seq` and `hash` are of the last sound entry.

    `known` are hashes kept outside of the database by `seq`; keyed checkpoints would come in by it as well.
    """

    seq: int = 0
    hash: str = GENESIS
    checked: int = 0
    known: Mapping[int, str] | None = None

    def follow(self, links: Sequence[Link]) -> Break | None:
        """Goes on over these entries; the first break, or None. They are only as many as fit into memory together."""
        for link in links:
            found = self._check(link, links)
            if found is not None:
                return found
            self.seq, self.hash = link.seq, link.hash
            self.checked += 1
        return None

    def end(self, head: tuple[int, str] | None) -> Break | None:
        """Compares the end of the chain with the head row (`seq`, `hash`), read after the last entry."""
        if head is None:
            return (
                None
                if self.seq == 0
                else Break("head", self.seq, "the head row is missing, though there are entries")
            )
        seq, digest = head
        if seq > self.seq:
            lost = _range(self.seq + 1, seq)
            return Break("cut", self.seq + 1, f"{lost} missing at the end: the head row counts {seq}")
        if seq < self.seq:
            return Break(
                "head", self.seq, f"the head row counts {seq} entries, but the last one is {self.seq}"
            )
        if digest != self.hash:
            return Break("head", seq, f"the head row has another hash than the last entry, {seq}")
        return self._end_of_known()

    def _end_of_known(self) -> Break | None:
        beyond = [seq for seq in self.known or () if seq > self.seq]
        if beyond:
            return Break(
                "cut", self.seq + 1, f"the trail ends at {self.seq}, but a hash of {max(beyond)} was kept"
            )
        return None

    def _check(self, link: Link, links: Sequence[Link]) -> Break | None:
        wanted = self.seq + 1
        if link.seq < wanted:
            return Break("inserted", link.seq, f"entry {link.seq} does not belong here: {wanted} comes next")
        if link.seq > wanted:
            return Break("missing", wanted, f"{_range(wanted, link.seq - 1)} missing")
        if not link.fits(link.seq, self.hash):
            return self._explain(link, links)
        if link.prev_hash != self.hash:
            return Break(
                "altered", link.seq, f"entry {link.seq} was altered: its hash of the entry before it"
            )
        if self.known and self.known.get(link.seq, link.hash) != link.hash:
            return Break(
                "replaced",
                link.seq,
                f"entry {link.seq} has another hash than was kept: it or an entry before it was replaced",
            )
        return None

    def _explain(self, link: Link, links: Sequence[Link]) -> Break:
        seq = link.seq
        if link.fits(seq, link.prev_hash):
            return Break(
                "replaced",
                seq,
                f"entry {seq} is sound in itself but does not follow {seq - 1}: one of the two was replaced",
            )
        here = next(index for index, other in enumerate(links) if other is link)
        near = links[max(0, here - _NEIGHBOURS) : here + _NEIGHBOURS + 1]
        for other in near:
            if other is not link and any(
                digest_of(place, before, link.fields) == digest
                for place in (other.seq, seq)
                for before in (link.prev_hash, other.prev_hash)
                for digest in {link.hash, other.hash}
            ):
                return Break("reordered", seq, f"entry {seq} was moved: its content is that of {other.seq}")
        return Break(
            "altered",
            seq,
            f"entry {seq} was altered: its hash is not that of its fields{_differs(link, self.hash)}",
        )


def _differs(link: Link, before: str) -> str:
    return (
        ""
        if link.prev_hash == before
        else ", nor is its hash of the entry before it the one that stands there"
    )


def _range(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"
