"""Circuit breakers of endpoints and credentials, and the budget of retries. Pure: moments come in as monotonic seconds."""

from __future__ import annotations

FIRST_REST = 1.0
LONGEST_REST = 30.0
LONGEST_RETRY_AFTER = 3600.0
PROBE_SECONDS = 10.0
"""A probe that has not ended after so long keeps nobody else from probing."""


class Breaker:
    """Closed, open until a moment, then half-open: one attempt at a time finds out. An open one only ever stays open longer."""

    __slots__ = ("failures", "probing_since", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.failures = 0
        self.probing_since = 0.0

    def state(self, now: float) -> str:
        """`closed`, `open` or `half_open`."""
        if self.until > now:
            return "open"
        return "half_open" if self.failures else "closed"

    def allows(self, now: float) -> bool:
        """Whether an attempt may go there now. Asking takes nothing: `enter` takes the probe."""
        if self.until > now:
            return False
        return not self.failures or now - self.probing_since >= PROBE_SECONDS

    def enter(self, now: float) -> None:
        """An attempt goes there; of a half-open one it is the probe."""
        if self.failures and self.until <= now:
            self.probing_since = now

    def failed(self, now: float) -> None:
        """It could not be reached or broke off: 1 s of rest, then twice as long each time, up to 30 s."""
        if self.until > now:
            return  # Many attempts were under way together; their failures are one event.
        self.failures += 1
        self.probing_since = 0.0
        self.until = now + min(LONGEST_REST, FIRST_REST * 2 ** min(self.failures - 1, 10))

    def limited(self, now: float, seconds: float | None) -> None:
        """It says itself for how long it takes nothing; 1 s where it does not."""
        self.until = max(self.until, now + min(seconds or FIRST_REST, LONGEST_RETRY_AFTER))

    def works(self) -> None:
        """It answered."""
        self.until, self.failures, self.probing_since = 0.0, 0, 0.0

    def left(self) -> None:
        """An attempt ended in a way that says nothing: the next one may probe."""
        self.probing_since = 0.0


class RetryBudget:
    """Attempts beyond a request's first one, as a share of all requests: a provider that is down gets no storm.

    Each request puts `share` of a retry in, each retry takes one out; `reserve` is there from the start, and for quiet hours.
    """

    __slots__ = ("_left", "_most", "_share")

    def __init__(self, share: float = 0.1, reserve: float = 50.0, most: float = 500.0) -> None:
        self._share = share
        self._left = reserve
        self._most = most

    @property
    def left(self) -> float:
        """Retries that may be made now."""
        return self._left

    def request(self) -> None:
        """A request came in."""
        if self._left < self._most:
            self._left += self._share

    def take(self) -> bool:
        """Takes one retry, if one is left."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
