"""A kept or simulated decision in the words of pages. Control plane; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHARES = ("cost", "latency", "failure", "weight")


def describe_decision(document: Mapping[str, Any]) -> dict[str, Any]:
    """What `console/decision.html` shows of a decision's document, as `gateway.decisions` or the simulator writes it."""
    candidates = list(document.get("candidates", ()))
    scores = [one["score"] for one in candidates if one.get("score") is not None]
    best, worst = (min(scores), max(scores)) if scores else (0.0, 0.0)
    rows = []
    for one in candidates:
        refused = one.get("refused")
        score = one.get("score")
        rows.append(
            {
                **one,
                "place": None if one.get("order") is None else one["order"] + 1,
                "refusal": f"{refused['rule']}: {refused['reason']}" if refused else "",
                "failures": None if one.get("failure") is None else f"{100 * one['failure']:.0f} %",
                # The best one's bar is full.
                "share": None if score is None else _share(score, best, worst),
            }
        )
    left_out = [
        {**one, "refusal": f"{one['rule']}: {one['reason']}", "place": None}
        for one in document.get("left_out", ())
    ]
    weights = document.get("weights") or {}
    policy = document.get("policy")
    return {
        "reason": document.get("reason") or "none",
        "policy": f"{policy['name']}, version {policy['version']}" if policy else "none",
        "strategy": document.get("strategy", ""),
        "weights": ", ".join(f"{name} {weights[name]:g}" for name in _SHARES if weights.get(name)),
        "request": document.get("request") or {},
        "rows": [*rows, *left_out],
        "figures": any("expected_latency_ms" in one or "expected_cost_nanos" in one for one in candidates),
        "resting": document.get("resting", 0),
        "translation": ", ".join(document.get("translation", ())),
        "directives": ", ".join(
            f"{name}={value}" for name, value in (document.get("directives") or {}).items()
        ),
        "ignored": ", ".join(document.get("directives_ignored", ())),
        "error": document.get("error", ""),
    }


def _share(score: float, best: float, worst: float) -> int:
    return 100 if worst <= best else round(100 - 90 * (score - best) / (worst - best))
