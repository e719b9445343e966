"""The last good snapshot on this machine's disk, so that a worker starts while the database is away. Control plane."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

MAX_BYTES = 256 * 1024 * 1024


def write_last_good(path: Path, payload: bytes) -> None:
    """Replaces the file in one step, mode 0600, on disk when this returns. Several processes may do so at once.

    Raises OSError; the file of before is whole then.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read_last_good(path: Path) -> bytes | None:
    """The file's bytes, None if there is none. Raises OSError for one that can't be read or is out of proportion."""
    try:
        with path.open("rb") as file:
            payload = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(payload) > MAX_BYTES:
        raise OSError(f"{path.name} is larger than {MAX_BYTES} bytes")
    return payload


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
