"""Which endpoint and credential each attempt of a plan goes to, given what failed before. Data plane.

Healthy ones first, in the plan's order; then those that rest, since a lone target is probed rather than banned. None twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.health import HealthBoard
from providers.adapters.base import Adapter, Failure, Target
from providers.adapters.registry import get_adapter
from routing.engine.decide import Decision
from routing.engine.endpoints import choose_endpoint
from routing.engine.plan import Candidate
from tokenhub.core.errors import InvalidRequest, TokenhubError
from tokenhub.core.policies import Cause
from tokenhub.core.records import record
from tokenhub.core.secret_bytes import Secret
from tokenhub.core.specs import CredentialSpec, EndpointSpec, ModelSpec, ProviderSpec
from vault.keyring import Destination, Keyring, list_older

_CAUSES: Mapping[str, Cause] = {
    "context_overflow": "context",
    "content_filter": "content_policy",
    "rate_limited": "rate_limit",
}
"""Which fallbacks a failure leads to; all others lead to those for any."""

_NO_CREDENTIAL = CredentialSpec(id="", name="none", source="none")


@record(frozen=True, slots=True)
class Choice:
    """Where one attempt goes."""

    candidate: Candidate
    adapter: Adapter
    target: Target
    credential: CredentialSpec


class TargetPicker:
    """Hands out the attempts of one request: the decision's candidates, then the fallbacks for what the failures were of.

    `rng` gives numbers in [0, 1); `find_sticky` what keeps to one of a provider's endpoints, "" = nothing.
    """

    def __init__(
        self,
        decision: Decision,
        board: HealthBoard,
        keyring: Keyring,
        rng: Callable[[], float],
        find_sticky: Callable[[], str] = str,
    ) -> None:
        self._find_sticky = find_sticky
        self._candidates = decision.candidates
        self._fallbacks = decision.plan.fallbacks
        self._failed_by: list[Cause] = []
        self._board = board
        self._keyring = keyring
        self._rng = rng
        self._tried_endpoints: set[str] = set()
        self._spent_credentials: set[str] = set()
        self._closed: set[tuple[str, str]] = set()
        self._spent_candidates: set[str] = set()
        self._smallest_context = 0
        self._refused_credentials: set[str] = set()
        self.unusable: list[tuple[str, TokenhubError]] = []
        """Providers whose credentials could not be had, and why; nothing was sent to them."""
        self.refusals: list[tuple[Choice, InvalidRequest]] = []
        """Targets whose format can't carry the request, and why; nothing was sent to them either."""

    def refused(self, choice: Choice, error: InvalidRequest) -> None:
        """Leaves a target out that the request can't be translated for."""
        self.refusals.append((choice, error))
        self._spent_candidates.add(choice.candidate.model.id)

    def failed(self, choice: Choice, failure: Failure) -> None:
        """Takes a failed attempt into account for the next choice."""
        model = choice.candidate.model
        if failure.kind in ("rate_limited", "credential"):
            self._spent_credentials.add(choice.credential.id)
            if failure.kind == "credential":
                self._refused_credentials.add(choice.credential.id)
            if not choice.credential.id:
                self._spent_candidates.add(model.id)
        elif failure.kind == "transient" and not failure.of_model:
            self._tried_endpoints.add(choice.target.endpoint.id)
        else:
            self._spent_candidates.add(model.id)
        if failure.kind == "context_overflow":
            self._smallest_context = max(self._smallest_context, model.context_tokens)
        cause = _CAUSES.get(failure.kind, "any")
        if cause not in self._failed_by:
            self._failed_by.append(cause)

    def find_next(self) -> Choice | None:
        """The next attempt, or None when every way was tried."""
        choice = self._find_among(self._candidates)
        if choice is not None or not self._fallbacks:
            return choice
        for cause in (*self._failed_by, "any"):
            choice = self._find_among(self._fallbacks.get(cause, ()))
            if choice is not None:
                return choice
        return None

    def find_beside(self, choice: Choice) -> Choice | None:
        """Another target for the same request while an attempt at `choice` is under way; None where none is healthy."""
        self._tried_endpoints.add(choice.target.endpoint.id)
        for candidate in self._candidates:
            if self._is_open(candidate.model):
                found = self._choose(candidate, healthy_only=True)
                if found is not None:
                    return found
        return None

    def _find_among(self, candidates: Sequence[Candidate]) -> Choice | None:
        for healthy_only in (True, False):
            for candidate in candidates:
                if self._is_open(candidate.model):
                    choice = self._choose(candidate, healthy_only=healthy_only)
                    if choice is not None:
                        return choice
        return None

    def _is_open(self, model: ModelSpec) -> bool:
        too_small = 0 < model.context_tokens <= self._smallest_context
        return not too_small and model.id not in self._spent_candidates

    def _choose(self, candidate: Candidate, *, healthy_only: bool) -> Choice | None:
        provider = candidate.provider
        while True:
            endpoint = self._choose_endpoint(candidate, healthy_only=healthy_only)
            if endpoint is None:
                return None
            found = self._choose_credential(candidate, endpoint, healthy_only=healthy_only)
            if found is not None:
                break
            if not self._is_closed(provider, endpoint):
                return None
            # No credential may go there, which says nothing of the provider's other endpoints.
            self._tried_endpoints.add(endpoint.id)
        credential, secret = found
        target = Target(provider, candidate.model, endpoint, secret)
        return Choice(candidate, get_adapter(provider.kind), target, credential)

    def _choose_endpoint(self, candidate: Candidate, *, healthy_only: bool) -> EndpointSpec | None:
        board, tried = self._board, self._tried_endpoints
        if len(candidate.provider.endpoints) == 1:
            (only,) = candidate.provider.endpoints
            usable_now = only.weight > 0 and not only.draining and only.id not in tried
            return only if usable_now and (not healthy_only or board.endpoint_usable(only.id)) else None

        def usable(endpoint: EndpointSpec) -> bool:
            return endpoint.id not in tried and (not healthy_only or board.endpoint_usable(endpoint.id))

        return choose_endpoint(
            candidate.provider.endpoints,
            lambda endpoint: board.count_in_flight(endpoint.id),
            usable,
            self._rng(),
            self._find_sticky(),
        )

    def _is_closed(self, provider: ProviderSpec, endpoint: EndpointSpec) -> bool:
        """Whether no credential is left for an endpoint, and one of them since it may not go there or did not open."""
        closed = [(credential.id, endpoint.origin) in self._closed for credential in provider.credentials]
        spent = [credential.id in self._spent_credentials for credential in provider.credentials]
        return any(closed) and all(one or other for one, other in zip(closed, spent, strict=True))

    def _choose_credential(
        self, candidate: Candidate, endpoint: EndpointSpec, *, healthy_only: bool
    ) -> tuple[CredentialSpec, Secret] | None:
        provider, origin = candidate.provider, endpoint.origin
        pool = [
            credential
            for credential in self._list_credentials(provider, origin)
            if credential.id not in self._spent_credentials
            and (not self._closed or (credential.id, origin) not in self._closed)
            and (not healthy_only or self._board.credential_usable(credential.id, candidate.model.id))
        ]
        destination: Destination | None = None
        while pool:
            credential = pool[0] if len(pool) == 1 else self._draw(pool)
            if credential.source == "none":
                return credential, ""
            try:
                if destination is None:
                    header = get_adapter(provider.kind).auth_header(provider.profile)
                    destination = Destination(origin, provider.kind, header)
                return credential, self._keyring.get_secret(credential, destination)
            except TokenhubError as error:
                self.unusable.append((provider.name, error))
                self._closed.add((credential.id, origin))
                pool.remove(credential)
                pool += self._list_fallbacks(credential, origin, pool)
        return None

    def _list_credentials(self, provider: ProviderSpec, origin: str) -> tuple[CredentialSpec, ...]:
        """The provider's credentials, with the secrets before a sealed one that the provider does not accept (yet)."""
        credentials = provider.credentials
        for credential in provider.credentials:
            if len(credential.sealed) > 1 and (
                credential.id in self._refused_credentials or self._board.credential_is_refused(credential.id)
            ):
                credentials = (*credentials, *list_older(credential, origin))
        return credentials or (_NO_CREDENTIAL,)

    def _list_fallbacks(
        self, credential: CredentialSpec, origin: str, pool: list[CredentialSpec]
    ) -> list[CredentialSpec]:
        """The secrets before one that can't be had here (yet), while they are still good."""
        gone = self._spent_credentials | {one.id for one in pool}
        older = list_older(credential, origin) if len(credential.sealed) > 1 else ()
        return [one for one in older if one.id not in gone and (one.id, origin) not in self._closed]

    def _draw(self, pool: list[CredentialSpec]) -> CredentialSpec:
        mark = self._rng() * sum(credential.weight for credential in pool)
        for credential in pool:
            mark -= credential.weight
            if mark < 0:
                return credential
        # Earlier secrets have no weight: the newest of them.
        return max(pool, key=lambda credential: credential.weight)
