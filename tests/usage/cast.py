"""The attempts that the accounting's tests are played with."""

from __future__ import annotations

from tokenhub.core.attempts import AttemptFinal, AttemptIntent, Outcome
from tokenhub.core.money import PriceSpec, price_usage
from tokenhub.core.usage import Usage

STARTED = 1_790_000_000.25
RATES = (("input", 2_500_000_001), ("output", 10_000_000_003), ("searches", 10_000_000))
PRICE = PriceSpec("price-7", RATES)


def make_intent(number: int, **changes: object) -> AttemptIntent:
    """The intent of attempt `number`, with an input estimate of its own."""
    values: dict[str, object] = {
        "attempt_id": f"att-{number}",
        "request_id": f"req-{number // 2}",
        "number": 1 + number % 2,
        "started_at": STARTED + number,
        "key_id": "key-1",
        "team": "research",
        "project": "search",
        "operation": "chat",
        "streamed": bool(number % 2),
        "asked_model": "fast",
        "model_id": "12",
        "model": "small",
        "upstream_model": "small-2026",
        "provider_id": "3",
        "provider": "acme",
        "endpoint": "https://api.acme.test:443",
        "credential_id": "5",
        "snapshot_revision": 9,
        "price_version": PRICE.version,
        "price_rates": RATES,
        "input_estimate": 100 + number,
    }
    return AttemptIntent(**(values | changes))  # type: ignore[arg-type]


def make_final(number: int, outcome: Outcome = "completed", **changes: object) -> AttemptFinal:
    """The final of attempt `number`, whose figures no other attempt has."""
    usage = Usage(
        input=1000 + number, output=10 * number, searches=number % 3, raw={"prompt_tokens": 1000 + number}
    )
    values: dict[str, object] = {
        "attempt_id": f"att-{number}",
        "outcome": outcome,
        "ended_at": STARTED + number + 1.5,
        "usage": usage,
        "cost_nanos": price_usage(usage, PRICE),
        "status": 200,
        "finish_reason": "stop",
        "duration_ms": 1500,
        "first_token_ms": 120,
        "relayed_events": 7,
    }
    return AttemptFinal(**(values | changes))  # type: ignore[arg-type]


def settled_cost(number: int) -> int:
    """Nano-dollars of `make_final(number)`."""
    cost = make_final(number).cost_nanos
    assert cost is not None
    return cost
