"""Memory for secrets that can be overwritten, and the source of randomness that fills it. Both planes; pure.

What this can do: no copy of a key is made here outside of a buffer that `wipe` overwrites; none is printed, pickled,
compared in variable time or turned into text by accident.

What it can't: OpenSSL copies keys into contexts of its own for the length of a call (it cleans them when it frees
them); `reveal_text` and `reveal_bytes` make Python objects that nobody can overwrite; whatever a caller had as `str`
or `bytes` before (a password in a form, an environment variable) stays where it was; the kernel may swap pages out.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Self

from vault.engine.errors import VaultLocked

type Readable = bytes | bytearray | memoryview
type Fill = Callable[[memoryview], None]
"""Fills all of a view with random bytes."""

_URANDOM = "/dev/urandom"


def fill_random(view: memoryview) -> None:
    """Fills the view from the kernel's generator, without a copy of the bytes elsewhere in this process."""
    try:
        with open(_URANDOM, "rb", buffering=0) as source:
            done = 0
            while done < len(view):
                # A read of more than 256 bytes may be cut short by a signal.
                done += source.readinto(view[done:]) or 0
    except OSError:
        # No device, or no descriptor left: this bytes object stays in memory until Python uses its place again.
        view[:] = os.urandom(len(view))


class SecretBuffer:
    """A secret of fixed length. Use `exposed` to read it, `wipe` or a `with` block to overwrite it.

    Threads may share one. Wiping it while another thread uses it makes that use fail with VaultLocked, never succeed
    with half a key.
    """

    __slots__ = ("__weakref__", "_bytes", "_wiped")

    def __init__(self, size: int) -> None:
        """A buffer of `size` zero bytes, to be filled through `exposed`."""
        self._bytes = bytearray(size)
        self._wiped = False

    @classmethod
    def adopt(cls, source: bytearray) -> Self:
        """Takes over a bytearray without copying it. The caller must not keep using it."""
        made = cls(0)
        made._bytes = source
        return made

    @classmethod
    def copy_of(cls, source: Readable | SecretBuffer) -> Self:
        """A copy. The source is left as it is: wipe it, if it can be."""
        if isinstance(source, SecretBuffer):
            with source.exposed() as view:
                return cls.adopt(bytearray(view))
        return cls.adopt(bytearray(source))

    @classmethod
    def random(cls, size: int = 32, *, fill: Fill = fill_random) -> Self:
        """`size` random bytes, written into the buffer by `fill`."""
        made = cls(size)
        with made.exposed() as view:
            fill(view)
        return made

    @contextmanager
    def exposed(self) -> Iterator[memoryview]:
        """A writable view of the secret, valid inside the block only.

        Raises VaultLocked when it is wiped, also when that happened inside the block: what was made there of it must
        not be used.
        """
        if self._wiped:
            raise VaultLocked
        view = memoryview(self._bytes)
        try:
            yield view
        finally:
            view.release()
        if self._wiped:
            raise VaultLocked

    @property
    def wiped(self) -> bool:
        """Whether it was overwritten."""
        return self._wiped

    def wipe(self) -> None:
        """Overwrites the secret with zeros. May be called again."""
        # The mark goes first, so that whoever reads zeros afterwards finds it.
        self._wiped = True
        self._bytes[:] = bytes(len(self._bytes))

    def reveal_bytes(self) -> bytes:
        """A copy that can't be overwritten. Only where an interface takes nothing else."""
        with self.exposed() as view:
            return bytes(view)

    def reveal_text(self) -> str:
        """The secret as UTF-8 text, for a header: a copy that can't be overwritten. Raises ValueError without its bytes."""
        with self.exposed() as view:
            try:
                return str(view, "utf-8")
            except UnicodeDecodeError:
                # `from None`: the decoding error carries the bytes.
                raise ValueError("the secret is not UTF-8 text") from None

    def __eq__(self, other: object) -> bool:
        """In constant time for equal lengths."""
        if not isinstance(other, SecretBuffer):
            return NotImplemented
        with self.exposed() as mine, other.exposed() as theirs:
            return hmac.compare_digest(mine, theirs)

    __hash__ = None  # type: ignore[assignment]  # a hash would be a short digest of the secret

    def __len__(self) -> int:
        return len(self._bytes)

    def __bool__(self) -> bool:
        """Never by content or length: `if key` asks whether there is one."""
        return True

    def __repr__(self) -> str:
        # Not even the length: it may be a password's.
        return f"SecretBuffer({'wiped' if self._wiped else '…'})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled or copied by accident; use copy_of")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wipe()

    def __del__(self) -> None:
        # A net, not the plan: whoever made it wipes it. A view keeps its buffer alive through `exposed`, so that
        # nobody reads zeros because of this.
        if hasattr(self, "_bytes"):
            self.wipe()
