"""The cast of the engine's tests: one vault with known keys, a place, and where the public test vectors are."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from vault.engine.buffers import SecretBuffer
from vault.engine.hierarchy import DataKey, Root
from vault.engine.passwords import encode_password
from vault.engine.records import DataKeys, Place
from vault.engine.slots import KeySecret, PasswordSecret, SlotKind

WYCHEPROOF = Path(__file__).parents[3].parent / "shared" / "fixtures" / "wycheproof"
needs_wycheproof = pytest.mark.skipif(
    not WYCHEPROOF.is_dir(), reason="Wycheproof's vectors (../shared/fixtures/wycheproof) are not here"
)

VAULT = "7d6f2a52-40a5-4a5e-9f6e-1f0c6f5f3c11"
PLACE = Place(
    vault_id=VAULT,
    table="vault_credential",
    row_id="5",
    row_version=3,
    field="secret",
    provider_kind="openai",
    origin="https://api.openai.com:443",
    auth_header="authorization",
)
SECRET = b"sk-canary-4f1d-not-a-real-key"

OTHER_PLACES = {
    "vault_id": "00000000-0000-4000-8000-000000000000",
    "table": "vault_slot",
    "row_id": "6",
    "row_version": 2,
    "field": "secrets",
    "provider_kind": "anthropic",
    "origin": "https://api.openai.com:8443",
    "auth_header": "x-api-key",
}
assert set(OTHER_PLACES) == {field.name for field in fields(Place)}


class Counted:
    """A source of bytes that are the same in each run: SHA-256 of a counter. Never for anything but tests."""

    def __init__(self, seed: str = "") -> None:
        self.seed = seed
        self.count = 0

    def __call__(self, view: memoryview) -> None:
        made = b""
        while len(made) < len(view):
            made += sha256(f"{self.seed}{self.count}".encode()).digest()
            self.count += 1
        view[:] = made[: len(view)]


def secret(data: bytes = SECRET) -> SecretBuffer:
    """A buffer with these bytes."""
    return SecretBuffer.copy_of(data)


def random_root(version: int = 1) -> Root:
    """A new ROOT of the vault."""
    return Root.create(VAULT, version)


def data_keys(*versions: int) -> DataKeys:
    """New data keys, the last one active."""
    return DataKeys(VAULT, [DataKey.create(VAULT, version) for version in versions], active=versions[-1])


def password(text: str, pepper: SecretBuffer | None = None) -> PasswordSecret:
    """A password with the default parameters."""
    return PasswordSecret(encode_password(text), pepper)


def key_secret(kind: SlotKind = SlotKind.KEY_FILE, key: SecretBuffer | None = None) -> KeySecret:
    """A key for a slot, random unless given."""
    return KeySecret(kind, key or SecretBuffer.random(), "key-1")


def other_places() -> list[Place]:
    """The place with each of its fields changed, one at a time."""
    return [replace(PLACE, **{name: value}) for name, value in OTHER_PLACES.items()]


def read_vectors(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(group, test) of each test of one of Wycheproof's files."""
    content = json.loads((WYCHEPROOF / f"{name}.json").read_text(encoding="utf-8"))
    tests = [(group, test) for group in content["testGroups"] for test in group["tests"]]
    assert len(tests) == content["numberOfTests"]
    return tests
