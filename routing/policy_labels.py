"""What people call the choices in a policy's document. Control plane."""

from __future__ import annotations

MODE_LABELS = {
    "cheap": "Cheap: cost above all",
    "normal": "Normal: all four alike",
    "high_confidence": "High confidence: capability above all",
    "planning": "Planning: capability, then failures",
    "adversarial": "Adversarial: capability, then failures",
}
STRATEGY_LABELS = {
    "score": "Score: the best by the weights",
    "weighted": "Weighted: a draw by the targets' shares",
    "priority": "Priority: in the order of the targets",
    "round_robin": "Round robin: one after another",
    "least_busy": "Least busy: the fewest requests in flight",
    "lowest_latency": "Lowest latency",
    "lowest_cost": "Lowest cost",
}
STICKY_LABELS = {
    "request": "Nothing: each request is routed anew",
    "conversation": "Conversation",
    "session": "Session",
    "user": "User",
    "key": "API key",
}
CAUSE_LABELS = {
    "any": "After any failure",
    "context": "When the context is too long",
    "content_policy": "When the content is refused",
    "rate_limit": "When the rate is limited",
}
