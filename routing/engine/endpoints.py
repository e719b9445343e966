"""Which endpoint of a provider an attempt goes to: where its conversation's cache is, unless that one is crowded. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import ceil, log

from tokenhub.core.specs import EndpointSpec

CROWDED = 1.5
FEW = 4
"""A conversation's endpoint is left for another one when it has CROWDED times its share of what is in flight, and FEW more: a turn
that goes elsewhere costs its whole prompt, and a short queue costs next to nothing."""


def choose_endpoint(
    endpoints: Sequence[EndpointSpec],
    in_flight: Callable[[EndpointSpec], int],
    usable: Callable[[EndpointSpec], bool],
    tie: float,
    sticky: str = "",
) -> EndpointSpec | None:
    """The usable endpoint with the least in flight for its weight; None if none is usable. `tie` in [0, 1) breaks ties.

    What is `sticky` (a conversation) goes to the same endpoint from every worker: rendezvous hashing, with loads bounded as in
    Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016).
    """
    open_ones = [
        endpoint
        for endpoint in endpoints
        if endpoint.weight > 0 and not endpoint.draining and usable(endpoint)
    ]
    if len(open_ones) <= 1:
        return open_ones[0] if open_ones else None
    counts = [in_flight(endpoint) for endpoint in open_ones]
    if sticky:
        shared = CROWDED * (sum(counts) + 1) / sum(endpoint.weight for endpoint in open_ones)
        for endpoint, count in sorted(
            zip(open_ones, counts, strict=True), key=lambda one: _distance(sticky, one[0])
        ):
            if count < ceil(shared * endpoint.weight) + FEW:
                return endpoint
    loads = [(count + 1) / endpoint.weight for endpoint, count in zip(open_ones, counts, strict=True)]
    least = min(loads)
    lightest = [endpoint for endpoint, load in zip(open_ones, loads, strict=True) if load == least]
    return lightest[int(tie * len(lightest))]


def _distance(sticky: str, endpoint: EndpointSpec) -> float:
    """Weighted rendezvous: the endpoint with the least is the sticky's own, each with its weight's chance."""
    return -log(1.0 - draw_sticky(sticky, endpoint.id)) / endpoint.weight


def draw_sticky(sticky: str, name: str) -> float:
    """A number in [0, 1) that is the same for the same two texts in every process."""
    digest = blake2b(f"{sticky}\0{name}".encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest, "big") / (1 << 48)
