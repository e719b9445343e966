"""The health board of one worker: what is in flight where, what is measured of it, and what rests. Data plane, in memory.

Keyed by ids, so it outlives a new snapshot. Times are from a monotonic clock. Health comes from real traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from routing.engine.breaker import LONGEST_REST, LONGEST_RETRY_AFTER, Breaker
from routing.engine.health import TargetHealth
from routing.engine.plan import Candidate
from tokenhub.core.specs import EndpointSpec, ModelSpec

CREDENTIAL_REST = 30.0


class HealthBoard:
    """In-flight counts and breakers per endpoint, breakers per credential, measurements per model at its provider."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._in_flight: dict[str, int] = {}
        self._endpoints: dict[str, Breaker] = {}
        self._credentials: dict[tuple[str, str], Breaker] = {}
        self._targets: dict[str, TargetHealth] = {}
        self._told_endpoints: dict[str, float] = {}
        self._told_credentials: dict[tuple[str, str], float] = {}
        self._rested = False

    # --- attempts ------------------------------------------------------------------------------------------------------

    def enter(self, endpoint_id: str) -> None:
        """An attempt starts at the endpoint; where that is half-open, it is the probe."""
        self._in_flight[endpoint_id] = self._in_flight.get(endpoint_id, 0) + 1
        breaker = self._endpoints.get(endpoint_id)
        if breaker is not None:
            breaker.enter(self._clock())

    def leave(self, endpoint_id: str) -> None:
        """An attempt ended."""
        left = self._in_flight[endpoint_id] - 1
        if left:
            self._in_flight[endpoint_id] = left
        else:
            del self._in_flight[endpoint_id]

    def measure(self, model: ModelSpec) -> TargetHealth:
        """What is measured of a model at its provider."""
        found = self._targets.get(model.id)
        if found is None:
            found = self._targets[model.id] = TargetHealth(model.expected_latency_ms)
        return found

    def count_in_flight(self, endpoint_id: str) -> int:
        """Attempts under way at the endpoint, from this worker."""
        return self._in_flight.get(endpoint_id, 0)

    @property
    def total_in_flight(self) -> int:
        """Attempts under way from this worker."""
        return sum(self._in_flight.values())

    # --- endpoints -----------------------------------------------------------------------------------------------------

    def endpoint_usable(self, endpoint_id: str) -> bool:
        """Whether the endpoint does not rest, and nobody else is finding out whether it is back."""
        breaker = self._endpoints.get(endpoint_id)
        if breaker is not None and not breaker.allows(self._clock()):
            return False
        return not self._told_endpoints or self._told_endpoints.get(endpoint_id, 0.0) <= self._clock()

    def endpoint_failed(self, endpoint_id: str) -> None:
        """It could not be reached or broke off: rests 1 s, then twice as long each time, up to 30 s."""
        self._endpoints.setdefault(endpoint_id, Breaker()).failed(self._clock())

    def endpoint_works(self, endpoint_id: str) -> None:
        """It answered, whatever others say of it."""
        if endpoint_id in self._endpoints:
            del self._endpoints[endpoint_id]
        if self._told_endpoints:
            self._told_endpoints.pop(endpoint_id, None)

    def endpoint_left(self, endpoint_id: str) -> None:
        """An attempt ended in a way that says nothing of the endpoint."""
        breaker = self._endpoints.get(endpoint_id)
        if breaker is not None:
            breaker.left()

    def resting_endpoints(self) -> list[str]:
        """Endpoints that rest now."""
        now = self._clock()
        return [endpoint_id for endpoint_id, breaker in self._endpoints.items() if breaker.until > now]

    def endpoint_state(self, endpoint_id: str) -> tuple[str, float]:
        """`closed`, `open` or `half_open`, and the seconds until it opens its door again."""
        breaker = self._endpoints.get(endpoint_id)
        now = self._clock()
        return ("closed", 0.0) if breaker is None else (breaker.state(now), max(0.0, breaker.until - now))

    # --- credentials ---------------------------------------------------------------------------------------------------

    def credential_usable(self, credential_id: str, model_id: str) -> bool:
        """Whether the credential is not resting, altogether or for this model."""
        return self._credential_rests_until(credential_id, model_id) <= self._clock()

    def credential_limited(self, credential_id: str, model_id: str, retry_after: float | None) -> None:
        """The provider limits it for this model: it rests as long as told, else 1 s."""
        self._credentials.setdefault((credential_id, model_id), Breaker()).limited(self._clock(), retry_after)

    def credential_refused(self, credential_id: str) -> None:
        """The provider does not accept it: it rests 30 s for every model."""
        self._credentials.setdefault((credential_id, ""), Breaker()).limited(self._clock(), CREDENTIAL_REST)

    def credential_is_refused(self, credential_id: str) -> bool:
        """Whether it rests since the provider did not accept it."""
        breaker = self._credentials.get((credential_id, ""))
        return breaker is not None and breaker.until > self._clock()

    def _credential_rests_until(self, credential_id: str, model_id: str) -> float:
        if not self._credentials and not self._told_credentials:
            return 0.0
        whole, own = (
            self._credentials.get((credential_id, "")),
            self._credentials.get((credential_id, model_id)),
        )
        told = self._told_credentials
        return max(
            whole.until if whole is not None else 0.0,
            own.until if own is not None else 0.0,
            told.get((credential_id, ""), 0.0),
            told.get((credential_id, model_id), 0.0),
        )

    # --- all together --------------------------------------------------------------------------------------------------

    def list_health(self, candidates: Iterable[Candidate]) -> list[TargetHealth]:
        """The candidates' measurements. They stay the same objects, so a plan's list may be kept."""
        return [self.measure(candidate.model) for candidate in candidates]

    def refresh_rests(self, candidates: Iterable[Candidate]) -> None:
        """Writes into the measurements until when each candidate rests as a whole: all endpoints, or all credentials, do."""
        rests = self._endpoints or self._credentials or self._told_endpoints or self._told_credentials
        if not rests and not self._rested:
            return
        # Once more after the last one, so that what rested is awake again.
        self._rested = bool(rests)
        for candidate in candidates:
            self.measure(candidate.model).rest_until = self._rests_until(candidate)

    def _rests_until(self, candidate: Candidate) -> float:
        provider, model_id = candidate.provider, candidate.model.id
        endpoints = min(
            (
                self._endpoint_rests_until(one)
                for one in provider.endpoints
                if one.weight and not one.draining
            ),
            default=0.0,
        )
        credentials = min(
            (self._credential_rests_until(one.id, model_id) for one in provider.credentials), default=0.0
        )
        return max(endpoints, credentials)

    def _endpoint_rests_until(self, endpoint: EndpointSpec) -> float:
        breaker = self._endpoints.get(endpoint.id)
        own = breaker.until if breaker is not None else 0.0
        return max(own, self._told_endpoints.get(endpoint.id, 0.0))

    # --- between workers -----------------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """What this worker itself has seen, as JSON values: seconds that rests last yet, figures in seconds and shares.

        What other workers told is not in it, so that nobody hears his own voice.
        """
        now = self._clock()
        ids = {*self._endpoints, *self._in_flight}
        endpoints = {
            endpoint_id: {
                "state": self.endpoint_state(endpoint_id)[0],
                "rest": round(self.endpoint_state(endpoint_id)[1], 3),
                "failures": self._endpoints[endpoint_id].failures if endpoint_id in self._endpoints else 0,
                "in_flight": self.count_in_flight(endpoint_id),
            }
            for endpoint_id in ids
        }
        credentials = [
            {"id": key[0], "model": key[1], "rest": round(breaker.until - now, 3)}
            for key, breaker in self._credentials.items()
            if breaker.until > now
        ]
        targets = {
            model_id: {
                "ttft": round(one.ttft, 4),
                "seconds_per_token": round(one.seconds_per_token, 5),
                "failure": round(one.failure, 4),
                "in_flight": one.in_flight,
            }
            for model_id, one in self._targets.items()
            if one.measured
        }
        return {"endpoints": endpoints, "credentials": credentials, "targets": targets}

    def take_told(
        self, endpoints: Iterable[tuple[str, float]], credentials: Iterable[tuple[str, str, float]]
    ) -> None:
        """What other workers say rests, and for how many seconds, in the place of what they said before.

        It ends by itself like a rest of one's own, and opens nothing that this worker found closed.
        """
        now = self._clock()
        told_endpoints: dict[str, float] = {}
        for endpoint_id, seconds in endpoints:
            until = now + min(seconds, LONGEST_REST)
            told_endpoints[endpoint_id] = max(told_endpoints.get(endpoint_id, 0.0), until)
        told_credentials: dict[tuple[str, str], float] = {}
        for credential_id, model_id, seconds in credentials:
            until = now + min(seconds, LONGEST_RETRY_AFTER)
            key = credential_id, model_id
            told_credentials[key] = max(told_credentials.get(key, 0.0), until)
        self._told_endpoints, self._told_credentials = told_endpoints, told_credentials

    def forget_missing(self, endpoint_ids: set[str], credential_ids: set[str], model_ids: set[str]) -> None:
        """Drops what a new snapshot no longer has, so that the board stays bounded."""
        for endpoint_id in [key for key in self._endpoints if key not in endpoint_ids]:
            del self._endpoints[endpoint_id]
        for key in [key for key in self._credentials if key[0] not in credential_ids]:
            del self._credentials[key]
        for model_id in [key for key in self._targets if key not in model_ids]:
            del self._targets[model_id]
