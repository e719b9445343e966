"""Which target a conversation, session, user or key went to last, for as long as the provider's prompt cache may live. Pure.

A pin belongs to a tenant: its name starts with the tenant's id, so that nobody meets another's. Pins are kept by one worker;
where another has none, rendezvous hashing leads to the same target as long as nothing else speaks against it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

MAX_PINS = 50_000


@dataclass(frozen=True, slots=True)
class Pin:
    """Where somebody went last, and until when that matters (monotonic seconds)."""

    model_id: str
    endpoint_id: str
    until: float


class Pins:
    """Pins by name, the least recently used dropped first."""

    def __init__(self, most: int = MAX_PINS) -> None:
        self._most = most
        self._pins: OrderedDict[bytes, Pin] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pins)

    def find(self, name: bytes, now: float) -> Pin | None:
        """The pin of that name, while it matters."""
        pin = self._pins.get(name)
        if pin is None:
            return None
        if pin.until <= now:
            del self._pins[name]
            return None
        return pin

    def put(self, name: bytes, model_id: str, endpoint_id: str, until: float) -> None:
        """Somebody was served there."""
        self._pins[name] = Pin(model_id, endpoint_id, until)
        self._pins.move_to_end(name)
        if len(self._pins) > self._most:
            self._pins.popitem(last=False)

    def drop(self, name: bytes) -> None:
        """The target failed: the next attempt pins anew."""
        self._pins.pop(name, None)


def name_pin(tenant: str, what: str) -> bytes:
    """The name under which a tenant's conversation, session or user is pinned. Nothing of it can be read back."""
    return blake2b(f"{tenant}\0{what}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
