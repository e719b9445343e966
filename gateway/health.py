"""The health board of one worker: what is in flight where, and what rests after a failure. Data plane, in memory.

Keyed by ids, so it outlives a new snapshot. Times are from a monotonic clock. A rest only ever gets longer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_REST = 1.0
LONGEST_REST = 30.0
CREDENTIAL_REST = 30.0
LONGEST_RETRY_AFTER = 3600.0


@dataclass(slots=True)
class _Rest:
    until: float = 0.0
    failures: int = 0


class HealthBoard:
    """In-flight counts per endpoint, and rests per endpoint and credential."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._in_flight: dict[str, int] = {}
        self._endpoints: dict[str, _Rest] = {}
        self._credentials: dict[tuple[str, str], _Rest] = {}

    def enter(self, endpoint_id: str) -> None:
        """An attempt starts at the endpoint."""
        self._in_flight[endpoint_id] = self._in_flight.get(endpoint_id, 0) + 1

    def leave(self, endpoint_id: str) -> None:
        """An attempt ended."""
        left = self._in_flight[endpoint_id] - 1
        if left:
            self._in_flight[endpoint_id] = left
        else:
            del self._in_flight[endpoint_id]

    def count_in_flight(self, endpoint_id: str) -> int:
        """Attempts under way at the endpoint, from this worker."""
        return self._in_flight.get(endpoint_id, 0)

    @property
    def total_in_flight(self) -> int:
        """Attempts under way from this worker."""
        return sum(self._in_flight.values())

    def endpoint_usable(self, endpoint_id: str) -> bool:
        """Whether the endpoint is not resting."""
        rest = self._endpoints.get(endpoint_id)
        return rest is None or rest.until <= self._clock()

    def endpoint_failed(self, endpoint_id: str) -> None:
        """It could not be reached or broke off: rests 1 s, then twice as long each time, up to 30 s."""
        rest = self._endpoints.setdefault(endpoint_id, _Rest())
        now = self._clock()
        if rest.until > now:
            return  # Many attempts were in flight together; their failures are one event.
        rest.failures += 1
        rest.until = now + min(LONGEST_REST, FIRST_REST * 2 ** (rest.failures - 1))

    def endpoint_works(self, endpoint_id: str) -> None:
        """It answered."""
        if endpoint_id in self._endpoints:
            del self._endpoints[endpoint_id]

    def credential_usable(self, credential_id: str, model_id: str) -> bool:
        """Whether the credential is not resting, altogether or for this model."""
        if not self._credentials:
            return True
        now = self._clock()
        for key in ((credential_id, ""), (credential_id, model_id)):
            rest = self._credentials.get(key)
            if rest is not None and rest.until > now:
                return False
        return True

    def credential_limited(self, credential_id: str, model_id: str, retry_after: float | None) -> None:
        """The provider limits it for this model: it rests as long as told, else 1 s."""
        self._extend((credential_id, model_id), min(retry_after or FIRST_REST, LONGEST_RETRY_AFTER))

    def credential_refused(self, credential_id: str) -> None:
        """The provider does not accept it: it rests 30 s for every model."""
        self._extend((credential_id, ""), CREDENTIAL_REST)

    def credential_is_refused(self, credential_id: str) -> bool:
        """Whether it rests since the provider did not accept it."""
        rest = self._credentials.get((credential_id, ""))
        return rest is not None and rest.until > self._clock()

    def resting_endpoints(self) -> list[str]:
        """Endpoints that rest now."""
        now = self._clock()
        return [endpoint_id for endpoint_id, rest in self._endpoints.items() if rest.until > now]

    def forget_missing(self, endpoint_ids: set[str], credential_ids: set[str]) -> None:
        """Drops what a new snapshot no longer has, so that the board stays bounded."""
        for endpoint_id in [key for key in self._endpoints if key not in endpoint_ids]:
            del self._endpoints[endpoint_id]
        for key in [key for key in self._credentials if key[0] not in credential_ids]:
            del self._credentials[key]

    def _extend(self, key: tuple[str, str], seconds: float) -> None:
        rest = self._credentials.setdefault(key, _Rest())
        rest.until = max(rest.until, self._clock() + seconds)
