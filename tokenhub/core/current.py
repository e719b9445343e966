"""The one mutable cell of the data plane: which snapshot is in force in this process."""

from __future__ import annotations

from collections.abc import Callable

from tokenhub.core.errors import NotReady, RevisionStale
from tokenhub.core.specs import Snapshot

Listener = Callable[[Snapshot], None]


class Current:
    """Holds the snapshot in force. Reading is one attribute access; swapping is one assignment and can't fail half-way."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._listeners: list[Listener] = []

    def get(self) -> Snapshot:
        """The snapshot in force. Raises NotReady before the first one."""
        if self._snapshot is None:
            raise NotReady("no configuration snapshot has been loaded yet", retry_after=1)
        return self._snapshot

    def find(self) -> Snapshot | None:
        """The snapshot in force, or None before the first one."""
        return self._snapshot

    def on_swap(self, listener: Listener) -> None:
        """Calls `listener` with each new snapshot, after it came into force."""
        self._listeners.append(listener)

    def swap(self, prepared: Snapshot) -> None:
        """Puts a decoded snapshot in force. Raises RevisionStale unless its revision is above the current one."""
        before = self._snapshot
        if before is not None and prepared.revision <= before.revision:
            raise RevisionStale(
                f"revision {prepared.revision} is not above {before.revision}, which is in force"
            )
        self._snapshot = prepared
        for listener in self._listeners:
            listener(prepared)


current = Current()
"""This process's cell."""
