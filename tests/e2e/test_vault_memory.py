"""What a locked process still has in its memory: searched as root does it, in every readable page of parent and workers."""

from __future__ import annotations

import json
import time
from collections import Counter

import httpx
import msgspec
import pytest

from tests.e2e.process_memory import forms, search_memory
from tests.e2e.vault_fleet import Fleet, Load, ask, tell
from vault.engine.hierarchy import unwrap_data_key
from vault.engine.passwords import encode_password
from vault.engine.slots import PasswordSecret, Slot

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vault-fleet")]
LARGE = "x" * 200_000
"""A prompt whose request goes out in more than one write."""


def learn_keys(fleet: Fleet) -> dict[str, bytes]:
    """ROOT and the data keys, opened here from the database and the password; the provider's key in its forms."""
    (row,) = fleet.first.sql("SELECT document FROM vault_vaultslot WHERE kind = 'password'")
    slot = msgspec.convert(json.loads(row["document"]), type=Slot)
    with encode_password(fleet.password) as typed:
        root = PasswordSecret(typed).unwrap(slot)
    needles = {"root": root.key.reveal_bytes()}
    for key in fleet.first.sql("SELECT version, wrapped FROM vault_vaultdatakey ORDER BY version"):
        opened = unwrap_data_key(root, key["version"], bytes(key["wrapped"]))
        needles["data key"] = opened.key.reveal_bytes()
    for name, form in forms(fleet.key.encode()).items():
        needles[f"provider key {name}"] = form
    return {**needles, "password": fleet.password.encode()}


def look(fleet: Fleet, needles: dict[str, bytes]) -> Counter[str]:
    """What is found in all processes together."""
    found: Counter[str] = Counter()
    try:
        for pid in (fleet.first.process.pid, *fleet.worker_pids()):
            found.update(search_memory(pid, needles))
    except PermissionError:
        pytest.fail(
            "reading the memory of undumpable processes takes root and CAP_SYS_PTRACE: run it as root"
        )
    return found


def serve_some(fleet: Fleet) -> None:
    """Requests to the sealed provider by every worker, whole and streamed, small and large, in both formats."""
    with Load(fleet) as load:
        load.until(lambda: load.statuses("work-sealed")[200] > 50)
        with httpx.Client(base_url=fleet.first.url, timeout=30) as client:
            for _ in range(5):
                assert ask(client, fleet.first.key, "openai", "work-sealed", text=LARGE).status == 200
    assert load.statuses().keys() == {200}


def lock_and_look(fleet: Fleet, needles: dict[str, bytes]) -> Counter[str]:
    """What is found a second after everything is locked."""
    fleet.lock()
    time.sleep(1)
    return look(fleet, needles)


def test_after_a_lock_no_key_is_left_in_any_process(sqlite_fleet: Fleet) -> None:
    fleet = sqlite_fleet
    fleet.be_unlocked()
    fleet.seal(fleet.key)
    workers = fleet.workers
    needles = learn_keys(fleet)
    serve_some(fleet)
    open_ = look(fleet, needles)
    # The search finds what is there: each worker holds ROOT and the data key, once each.
    assert open_["root"] == open_["data key"] == workers
    assert open_["provider key raw"] >= workers
    typed_here = lock_and_look(fleet, needles)
    fleet.first.terminate()
    fleet.first.start()
    fleet.first.wait_ready()
    fleet.unlock()
    serve_some(fleet)
    assert look(fleet, needles)["root"] == workers
    left = lock_and_look(fleet, needles)
    tell(
        "found in memory after a lock",
        processes=1 + len(fleet.worker_pids()),
        found=dict(left),
        found_where_the_key_was_typed=dict(typed_here),
    )
    for found in (left, typed_here):
        assert not {name for name in found if name.startswith(("root", "data key"))}
    assert not {name for name in left if name.startswith("provider key")}
