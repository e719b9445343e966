"""Lists of fields as bytes that can't be read in two ways: each field after its length. Both planes; pure."""

from __future__ import annotations

from vault.engine.buffers import Readable

MAX_FIELD = 0xFFFF_FFFF


def pack(*fields: Readable | str | int) -> bytes:
    """Each field as its length (4 bytes, big-endian) and its bytes. Text is UTF-8, an integer 8 bytes big-endian, unsigned.

    Two different lists never make the same bytes. Raises ValueError for what has no such form (a lone surrogate, a
    negative or larger integer).
    """
    parts: list[Readable] = []
    for field in fields:
        if isinstance(field, str):
            field = field.encode()
        elif isinstance(field, int):
            if not 0 <= field < 1 << 64:
                raise ValueError("an integer field is unsigned and has 64 bits")
            field = field.to_bytes(8, "big")
        parts += (len(field).to_bytes(4, "big"), field)
    return b"".join(parts)
