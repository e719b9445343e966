"""Collects what requests leave behind that brought a password or a key. Control plane.

Django's request objects hang together in circles (`request.auser` knows its request), and with them the body in which a secret
stood. Python's collector finds them, but a serving process lets it come by rarely (`tokenhub.asgi`).
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

AFTER_SECONDS = 2.0
"""When the request that noted it is over, most likely."""


class Leftovers:
    """Of one process: `note` wherever something typed comes in, `collect` now and then. `clock` is monotonic seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, collector: Callable[[], object] = gc.collect
    ) -> None:
        self._clock = clock
        self._collector = collector
        self._changing = threading.Lock()
        self.noted_at: float | None = None
        """When something was noted last that is not collected yet, by the clock."""

    def note(self) -> None:
        """A request brought something secret."""
        with self._changing:
            self.noted_at = self._clock()

    def collect(self, *, at_once: bool = False) -> bool:
        """Runs the collector when something was noted AFTER_SECONDS ago, or `at_once`; whether it did.

        It holds everything up for some hundredths of a second.
        """
        with self._changing:
            due = self.noted_at is not None and self._clock() - self.noted_at >= AFTER_SECONDS
            if due:
                self.noted_at = None
        if due or at_once:
            self._collector()
        return due or at_once


leftovers = Leftovers()
"""This process's."""
