"""What a serving process denies to its neighbours: its memory, core dumps, readable files. Both planes; no Django.

Keeps processes of the same user from reading memory, environment and descriptors (ptrace, /proc/PID/mem) and secrets out of core
dumps. No help against root, nor against whoever traced the process before, or runs code in it.
Source: prctl(2) PR_SET_DUMPABLE, ptrace(2) "Ptrace access mode checking", core(5).
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PRIVATE = 0o077


def harden_process() -> None:
    """Makes this process undumpable, without cores, and its new files its owner's only. Again after each exec or spawn.

    Elsewhere than on Linux there is no prctl; the rest is done. Raises OSError where Linux refuses it.
    """
    os.umask(PRIVATE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        _prctl(PR_SET_DUMPABLE, 0)


def is_dumpable() -> bool:
    """Whether other processes of this user may read this one. True where it can't be told."""
    return sys.platform != "linux" or _prctl(PR_GET_DUMPABLE) != 0


def _prctl(option: int, value: int = 0) -> int:
    call = ctypes.CDLL(None, use_errno=True).prctl
    call.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
    result = int(call(option, value, 0, 0, 0))
    if result < 0:
        raise OSError(ctypes.get_errno(), "prctl")
    return result
