"""Made-up installations for the engine's property tests: providers, models, aliases, policies, keys and their health."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from routing.engine.decide import Ask
from routing.engine.health import TargetHealth
from tokenhub.core.money import PriceSpec
from tokenhub.core.policies import MODES, BoundsSpec, PolicySpec, WeightsSpec
from tokenhub.core.specs import (
    AliasSpec,
    AliasTargetSpec,
    EndpointSpec,
    KeySpec,
    ModelSpec,
    ProviderSpec,
    Snapshot,
)

STRATEGIES = ("score", "weighted", "priority", "round_robin", "least_busy", "lowest_latency", "lowest_cost")
CAPABILITIES = ("chat", "tools", "vision")
NOW = 1000.0

prices = st.one_of(
    st.none(),
    st.builds(
        lambda i, o: PriceSpec("1", (("input", i), ("output", o))),
        st.integers(0, 10**11),
        st.integers(0, 10**11),
    ),
)


@st.composite
def snapshots(draw: st.DrawFn, *, policies: bool = True) -> Snapshot:
    """Up to four providers with up to three models each, three aliases, and policies with fallbacks."""
    providers, models = [], []
    for number in range(draw(st.integers(1, 4))):
        provider = ProviderSpec(
            str(number),
            f"p{number}",
            "openai",
            tuple(
                EndpointSpec(f"{number}-{at}", "http", "h", 1, draining=draw(st.booleans()))
                for at in range(draw(st.integers(0, 2)))
            ),
            enabled=draw(st.integers(0, 5)) > 0,
            draining=draw(st.integers(0, 5)) == 0,
            region=draw(st.sampled_from(["", "eu", "us"])),
            retention_days=draw(st.sampled_from([-1, 0, 30])),
        )
        providers.append(provider)
        for at in range(draw(st.integers(0, 3))):
            models.append(
                ModelSpec(
                    f"{number}:{at}",
                    draw(st.sampled_from(["a", "b", "c", "d"])),
                    provider.id,
                    "u",
                    weight=draw(st.integers(0, 10)),
                    context_tokens=draw(st.sampled_from([0, 1000, 8000, 10**6])),
                    max_output_tokens=draw(st.sampled_from([0, 500, 4000])),
                    capabilities=frozenset({"chat"} | draw(st.sets(st.sampled_from(CAPABILITIES)))),
                    price=draw(prices),
                    priority=draw(st.integers(0, 3)),
                    enabled=draw(st.integers(0, 5)) > 0,
                )
            )
    aliases = [
        AliasSpec(
            name,
            tuple(
                AliasTargetSpec(model_id, draw(st.integers(0, 2)), draw(st.integers(0, 4)))
                for model_id in draw(
                    st.lists(st.sampled_from([m.id for m in models]), max_size=4, unique=True)
                )
            )
            if models
            else (),
        )
        for name in ("x", "y", "z")
    ]
    names = st.lists(st.sampled_from(["a", "b", "p0/a", "p1/b", "x", "y", "z", "gone"]), max_size=4).map(
        tuple
    )
    made = [
        PolicySpec(
            str(number),
            f"policy-{number}",
            1,
            targets=draw(names),
            strategy=draw(st.sampled_from(STRATEGIES)),  # type: ignore[arg-type]
            bounds=BoundsSpec(
                min_weight=draw(st.sampled_from([0, 0, 5])),
                regions=draw(st.sampled_from([frozenset(), frozenset({"eu"})])),
                max_retention_days=draw(st.sampled_from([-1, -1, 0, 30])),
            ),
            fallbacks={"any": draw(names), "context": draw(names)},
        )
        for number in range(draw(st.integers(0, 2)) if policies else 0)
    ]
    return Snapshot(1, 0.0, tuple(providers), tuple(models), tuple(aliases), (), "", tuple(made))


@st.composite
def keys(draw: st.DrawFn) -> KeySpec:
    """A key for everything, or for some names."""
    allowed = draw(
        st.one_of(
            st.none(),
            st.frozensets(st.sampled_from(["a", "b", "c", "p0/a", "p1/b", "p2/c", "x", "y", "other"])),
        )
    )
    return KeySpec("k", "k", (), allowed_models=allowed)


@st.composite
def healths(draw: st.DrawFn, count: int) -> list[TargetHealth]:
    """As many measurements, some of targets that rest."""
    made = []
    for _ in range(count):
        one = TargetHealth()
        one.ttft = draw(st.floats(0.01, 60))
        one.seconds_per_token = draw(st.floats(0.0001, 1))
        one.failure = draw(st.floats(0, 1))
        one.in_flight = draw(st.integers(0, 50))
        one.rest_until = draw(st.sampled_from([0.0, NOW - 1, NOW + 1, NOW + 30]))
        one.waiting_since = draw(st.sampled_from([float("inf"), NOW, NOW - 100]))
        made.append(one)
    return made


weights = st.one_of(
    st.sampled_from(list(MODES.values())),
    st.builds(WeightsSpec, *(st.floats(0, 1) for _ in range(4))),
)


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    """What one request needs and wants."""
    fields: dict[str, Any] = {
        "input_tokens": draw(st.sampled_from([0, 10, 900, 7000, 10**6])),
        "output_tokens": draw(st.sampled_from([0, 100])),
        "max_output_tokens": draw(st.sampled_from([0, 100, 10_000])),
        "strategy": draw(st.sampled_from(STRATEGIES)),
        "weights": draw(weights),
        "min_weight": draw(st.integers(0, 10)),
        "max_cost_nanos": draw(st.sampled_from([0, 0, 10**6, 10**9])),
        "max_latency_ms": draw(st.sampled_from([0, 0, 500, 30_000])),
        "sticky": draw(st.sampled_from(["", "s"])),
        "pinned": draw(st.sampled_from(["", "0:0", "gone"])),
        "hinted": draw(st.sampled_from(["", "b", "gone"])),
        "turn": draw(st.integers(0, 10**6)),
    }
    return Ask(**fields)
