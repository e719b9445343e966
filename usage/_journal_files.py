"""The journal's files: names, exclusive locks and what a fork does to them. Pure; both planes.

A file is `<instance>-<pid>-<epoch>-<seq>.journal`; everything before the last dash names its owner, one Journal object of
one process. `epoch` is the owner's start in nanoseconds, so that a process which gets an old one's pid is another owner.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".journal"

_NAME = re.compile(r"(?P<owner>(?P<instance>.+)-(?P<pid>\d+)-(?P<epoch>\d+))-(?P<seq>\d+)\.journal")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.]+")


@dataclass(frozen=True, slots=True)
class SegmentName:
    """A journal file's name, taken apart."""

    owner: str
    instance: str
    pid: int
    epoch: int
    seq: int

    @property
    def file_name(self) -> str:
        return f"{self.owner}-{self.seq}{SUFFIX}"


def clean_instance(instance: str) -> str:
    """The instance as it stands in file names: letters, digits, `_` and `.`; at most 64."""
    return _UNSAFE.sub("_", instance).lstrip(".")[:64] or "tokenhub"


def make_name(instance: str, pid: int, epoch: int, seq: int) -> SegmentName:
    """The name of a new segment."""
    return SegmentName(f"{instance}-{pid}-{epoch}", instance, pid, epoch, seq)


def find_name(file_name: str) -> SegmentName | None:
    """The parts of a journal file's name, or None for any other file."""
    match = _NAME.fullmatch(file_name)
    if match is None:
        return None
    return SegmentName(
        match["owner"], match["instance"], int(match["pid"]), int(match["epoch"]), int(match["seq"])
    )


def list_segments(directory: Path) -> list[SegmentName]:
    """Every journal file of a directory, by owner's age and then in order of writing. Raises OSError."""
    names = (find_name(entry.name) for entry in os.scandir(directory) if entry.is_file(follow_symlinks=False))
    return sorted((name for name in names if name), key=lambda name: (name.epoch, name.owner, name.seq))


def create_locked(path: Path) -> int:
    """Creates and locks a new append-only file; returns its descriptor, closed on exec. Raises OSError.

    It gets its name only when it is locked, so that no adopter can come between. FileExistsError: the name is taken.
    """
    hidden = path.with_name(f".{path.name}.new")
    hidden.unlink(missing_ok=True)
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.link(hidden, path)
    except OSError:
        os.close(fd)
        raise
    finally:
        hidden.unlink(missing_ok=True)
    return fd


def open_and_try_lock(path: Path) -> tuple[int, bool] | None:
    """Opens a file for reading and tries its lock: (descriptor, locked), or None if it is gone. Raises OSError.

    A lock on a file that was deleted meanwhile is worth nothing: then the answer is None.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return fd, False
    except OSError:
        os.close(fd)
        raise
    if not os.fstat(fd).st_nlink:
        os.close(fd)
        return None
    return fd, True


def free_bytes(directory: Path) -> int:
    """Bytes that this process may still write to the directory's file system. Raises OSError."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize
