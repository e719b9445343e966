"""Secrets are in memory that is overwritten, and get out of it on purpose only."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vault.engine.vault_cast import PLACE, SECRET, Counted, data_keys, random_root, secret
from vault.engine.buffers import SecretBuffer, fill_random
from vault.engine.errors import VaultLocked
from vault.engine.hierarchy import Purpose, derive_subkey


def test_a_wiped_buffer_is_zeros_and_says_so() -> None:
    memory = bytearray(SECRET)
    buffer = SecretBuffer.adopt(memory)
    assert buffer.reveal_bytes() == SECRET
    buffer.wipe()
    buffer.wipe()
    assert memory == bytes(len(SECRET))
    assert buffer.wiped
    with pytest.raises(VaultLocked):
        buffer.reveal_bytes()
    with pytest.raises(VaultLocked), buffer.exposed():
        pass


def test_a_block_wipes_at_its_end_also_when_it_fails() -> None:
    memory = bytearray(SECRET)
    with pytest.raises(RuntimeError), SecretBuffer.adopt(memory):
        raise RuntimeError
    assert memory == bytes(len(SECRET))


def test_a_forgotten_buffer_is_overwritten_when_it_is_collected() -> None:
    memory = bytearray(SECRET)
    SecretBuffer.adopt(memory)
    gc.collect()
    assert memory == bytes(len(SECRET))


def test_a_view_keeps_its_buffer_from_being_collected() -> None:
    with secret().exposed() as view:
        gc.collect()
        assert bytes(view) == SECRET
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_what_was_made_while_another_thread_wiped_is_not_used() -> None:
    buffer = secret()

    def use_and_lose() -> bytes:
        with buffer.exposed() as view:
            thread = threading.Thread(target=buffer.wipe)
            thread.start()
            thread.join()
            return bytes(view)

    with pytest.raises(VaultLocked):
        use_and_lose()


def test_sealing_under_a_key_that_is_wiped_meanwhile_fails() -> None:
    keys = data_keys(1)

    def wipe_first(view: memoryview) -> None:
        keys.wipe()
        fill_random(view)

    with pytest.raises(VaultLocked):
        keys.seal(PLACE, secret(), fill=wipe_first)


def test_it_is_not_shown_pickled_copied_or_turned_into_bytes() -> None:
    buffer = secret()
    shown = f"{buffer} {buffer!r} {buffer!s} {[buffer]} {random_root()} {data_keys(1)}"
    assert "canary" not in shown
    assert shown.startswith("SecretBuffer(…) SecretBuffer(…)")
    assert str(len(SECRET)) not in f"{buffer}"
    for accident in (bytes, pickle.dumps, copy.copy, copy.deepcopy, memoryview, hash, iter):
        with pytest.raises(TypeError):
            accident(buffer)  # type: ignore[operator]
    assert not hasattr(buffer, "__dict__")


def test_equality_is_by_content() -> None:
    assert secret() == secret()
    assert secret() != secret(SECRET[:-1] + b"x")
    assert secret() != secret(SECRET[:-1])
    assert secret() != SECRET
    assert bool(SecretBuffer(0))


def test_text_that_is_none_is_refused_without_its_bytes() -> None:
    assert secret("ключ".encode()).reveal_text() == "ключ"
    with pytest.raises(ValueError, match="not UTF-8") as caught:
        secret(b"canary\xff").reveal_text()
    assert caught.value.__cause__ is None
    assert "canary" not in repr(caught.value)


@given(st.integers(0, 700))
def test_random_bytes_fill_all_of_a_buffer(size: int) -> None:
    buffer = SecretBuffer.random(size)
    assert len(buffer) == size
    if size >= 64:
        assert len(set(buffer.reveal_bytes()[-64:])) > 20


def test_randomness_comes_in_as_an_argument() -> None:
    assert SecretBuffer.random(40, fill=Counted()) == SecretBuffer.random(40, fill=Counted())
    assert SecretBuffer.random() != SecretBuffer.random()


def test_subkeys_and_roots_are_zeros_after_their_block() -> None:
    with random_root() as root:
        with derive_subkey(root, Purpose.MANIFEST) as subkey:
            assert not subkey.wiped
        assert subkey.wiped
    assert root.key.wiped


PROGRAM = """
import gc, os, sys
from vault.engine.buffers import SecretBuffer
from vault.engine.hierarchy import *
from vault.engine.records import DataKeys, Place
from vault.engine.slots import *
from vault.engine.grants import *

PLACE = Place("v", "t", "1", 1, "f", "openai", "https://a.example:443", "authorization")
masked = []

def remember(buffer):
    # Kept inverted, so that this copy is not found by the search.
    with buffer.exposed() as view:
        masked.append(bytes(byte ^ 0xFF for byte in view))

def work():
    root = Root.create("v")
    remember(root.key)
    file = KeySecret(SlotKind.KEY_FILE, SecretBuffer.random())
    slot = file.wrap(root, "s")
    key = DataKey.create("v", 1)
    remember(key.key)
    wrapped = wrap_data_key(root, key)
    check = make_root_check(root)
    cluster = ClusterKey(SecretBuffer.random(32))
    worker = WorkerKey("v", "w", "b")
    occasion = Occasion.create(1)
    grant = grant_root(root, worker.announce(cluster, 1000.0), cluster, occasion, 1000.0)
    root.wipe(); key.wipe()
    with file.unwrap(slot) as opened, DataKeys.unwrap(opened, {1: wrapped}, active=1)._keys[1] as again:
        keys = DataKeys("v", [again], active=1)
        plain = SecretBuffer.random(48)
        remember(plain)
        record = keys.seal(PLACE, plain)
        plain.wipe()
        keys.open(PLACE, record).wipe()
        derive_subkey(opened, Purpose.MANIFEST).wipe()
    with worker.open(grant, cluster, 1, occasion, check) as granted:
        pass
    cluster.wipe(); file.key.wipe()

def count(needle):
    found = 0
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            bounds, mode = line.split()[:2]
            if not mode.startswith("rw") or "[vvar" in line:
                continue
            start, end = (int(part, 16) for part in bounds.split("-"))
            try:
                memory.seek(start)
                found += memory.read(end - start).count(needle)
            except OSError:
                continue
    return found

work()
gc.collect()
control = bytearray(os.urandom(32))
# Halves, so that the needle itself is not found beside what is searched.
def search(inverted):
    needle = bytes(byte ^ 0xFF for byte in inverted[:16])
    return count(needle) - 1
print(*(search(inverted) for inverted in masked))
print(search(bytes(byte ^ 0xFF for byte in control)))
"""


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reads its own memory through /proc")
def test_after_wiping_no_root_data_key_or_secret_is_left_in_the_process() -> None:
    """ROOT, a data key and a sealed secret, through a slot, a grant and a record; then the whole memory is searched.

    The needle itself, and a copy that Python's search makes of a chunk, are the only places where they may be: `search`
    takes one hit off, and the control (a buffer that is not wiped) shows that the search finds what is there.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[3],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    wiped, control = done.stdout.splitlines()
    assert int(control) >= 1
    assert wiped.split() == ["0", "0", "0"]
