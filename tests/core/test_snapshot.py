"""Snapshots: the same after a round trip; altered, foreign or inconsistent ones refused; the cell only goes up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tokenhub.core.current import Current
from tokenhub.core.errors import NotReady, RevisionStale, SnapshotInvalid
from tokenhub.core.snapshot import decode_snapshot, encode_snapshot
from tokenhub.core.specs import AliasSpec, AliasTargetSpec, CredentialSpec, SealedSpec, Snapshot


def full() -> Snapshot:
    """A snapshot with one of everything."""
    sealed = SealedSpec("5e", 2, "http://oa.test:80", "openai", "authorization", 3, bytes(range(256)), 4.5)
    provider = a_provider(
        "oa",
        "openai",
        80,
        81,
        profile={"api_path": "/v1", "stream_usage": True},
        headers=(("x-a", "b"),),
        credentials=(CredentialSpec("7", "main", "vault", version=2, sealed=(sealed,)),),
    )
    models = (a_model(provider, "gpt"), a_model(provider, "free", price=None))
    key, _ = a_key(allowed_models=frozenset({"gpt"}))
    return a_snapshot(providers=(provider,), models=models, aliases=(an_alias("best", *models),), keys=(key,))


def test_a_round_trip_changes_nothing() -> None:
    snapshot = full()
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot
    assert encode_snapshot(decode_snapshot(encode_snapshot(snapshot))) == encode_snapshot(snapshot)


def test_every_altered_byte_is_refused_or_harmless() -> None:
    encoded = encode_snapshot(full())
    for at in range(0, len(encoded), 7):
        altered = encoded[:at] + bytes([encoded[at] ^ 1]) + encoded[at + 1 :]
        with pytest.raises(SnapshotInvalid):
            decode_snapshot(altered)
    for end in range(0, len(encoded), 11):
        with pytest.raises(SnapshotInvalid):
            decode_snapshot(encoded[:end])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": "x"}, "models"),
        ({"zebra": 1}, "zebra"),
        ({"revision": "1"}, "revision"),
        ({"revision": True}, "revision"),
    ],
)
def test_a_field_of_the_wrong_form_is_named(change: dict[str, object], words: str) -> None:
    import hashlib  # noqa: PLC0415 - only here is a digest made by hand

    content = json.loads(encode_snapshot(full()))["snapshot"] | change
    body = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    envelope = {
        "format": "tokenhub-snapshot-1",
        "sha256": hashlib.sha256(body.encode()).hexdigest(),
        "snapshot": content,
    }
    with pytest.raises(SnapshotInvalid, match=words):
        decode_snapshot(json.dumps(envelope).encode())


def test_dangling_and_doubled_references_are_refused() -> None:
    snapshot = full()
    for broken in (
        replace(snapshot, providers=()),
        replace(snapshot, aliases=(AliasSpec("x", (AliasTargetSpec("none"),)),)),
        replace(snapshot, keys=(*snapshot.keys, *snapshot.keys)),
        replace(snapshot, models=(snapshot.models[0], snapshot.models[0])),
    ):
        with pytest.raises(SnapshotInvalid):
            decode_snapshot(encode_snapshot(broken))


def test_the_cell_refuses_to_go_back_and_tells_its_listeners() -> None:
    cell, heard = Current(), []
    cell.on_swap(heard.append)
    with pytest.raises(NotReady):
        cell.get()
    first, second = full(), replace(full(), revision=2)
    cell.swap(first)
    cell.swap(second)
    for stale in (first, second):
        with pytest.raises(RevisionStale):
            cell.swap(stale)
    assert cell.get() is second
    assert heard == [first, second]


def test_no_secret_stands_in_a_snapshot() -> None:
    key, text = a_key()
    encoded = encode_snapshot(a_snapshot(keys=(key,))).decode()
    assert text not in encoded
    assert text[22:65] not in encoded
