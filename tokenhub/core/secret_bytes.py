"""Bytes of a secret on their way into a request: overwritten as soon as nobody uses them. Both planes; standard library only.

`str` and `bytes` can't be overwritten: what was freed of them stays in memory until Python happens to use the place again.
So a secret that must be gone after a lock is never one of them on its way from the vault to the socket.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn, Self

type Secret = str | SecretBytes
"""A credential's value as requests carry it: of variables and files as text, sealed ones as bytes that vanish; "" = none."""


class SecretBytes(bytearray):
    """A bytearray that is filled with zeros when the last reference to it goes. Never changed, shown, copied or pickled.

    A memoryview is a reference too: a transport that still has to write it keeps it whole. What is derived by slices,
    `+`, `bytes()` or `decode()` is an ordinary object; `of` is the way to make more of it.
    """

    __slots__ = ()

    @classmethod
    def of(cls, parts: Iterable[bytes | bytearray | memoryview]) -> Self:
        """All parts after another, copied straight to where they stay."""
        listed = tuple(parts)
        made = cls(sum(map(len, listed)))
        at = 0
        # By a view: assigning to a bytearray's slice would make a copy of the part first, and free it as it is.
        with memoryview(made) as view:
            for part in listed:
                end = at + len(part)
                view[at:end] = part
                at = end
        return made

    def __del__(self) -> None:
        self[:] = bytes(len(self))

    def __repr__(self) -> str:
        return "SecretBytes(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled or copied by accident")

    copy = __reduce_ex__  # type: ignore[assignment]


def mask_secret(text: str, secret: Secret, mask: str) -> str:
    """The text with `mask` in place of the secret, which is turned into no other object for that."""
    if not secret:
        return text
    if isinstance(secret, str):
        return text.replace(secret, mask)
    data = text.encode("utf-8", "surrogatepass")
    if data.find(secret) < 0:
        return text
    return data.replace(secret, mask.encode()).decode("utf-8", "surrogatepass")


def holds_secret(text: str, secret: Secret) -> bool:
    """Whether the text holds the secret."""
    if isinstance(secret, str):
        return secret in text
    return text.encode("utf-8", "surrogatepass").find(secret) >= 0
