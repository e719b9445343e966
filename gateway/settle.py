"""Accounting of attempts: the journal's intent before dispatch, its final after, and the counters. Data plane.

One attempt, one intent, one final. Whoever opens an `Account` closes it on every path; closing twice counts once.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from gateway.exchange import Exchange
from gateway.masking import mask_text, mask_usage
from gateway.metrics import Metrics
from gateway.tokens import estimate_input_tokens
from providers.adapters.base import Operation, Target
from routing.engine.health import TargetHealth
from tokenhub.core.attempts import AttemptFinal, AttemptIntent, Outcome
from tokenhub.core.money import price_counts
from tokenhub.core.specs import ModelSpec
from tokenhub.core.usage import NOTHING_USED, Usage
from usage.journal import Journal, JournalUnavailable

CHARACTERS_PER_TOKEN = 4
USUAL_OUTPUT = 1024
"""Tokens that an answer is estimated at which nobody bounded."""
UNANSWERED_METHOD = "sent, no answer: input by length"
"""How a call is estimated that the provider may have served and charged for, though no answer came of it."""


class Identifiers:
    """Ids that sort by time within a process and never repeat between processes: 80 random bits, then a count."""

    def __init__(self) -> None:
        self._prefix = os.urandom(10).hex()
        self._count = itertools.count(1)

    def next(self) -> str:
        """A new id of 28 hexadecimal digits."""
        return f"{self._prefix}{next(self._count):08x}"


def estimate_usage(
    seen: Usage | None,
    input_estimate: int,
    characters: int,
    model: ModelSpec,
    asked_limit: int,
    *,
    calibrated: bool = False,
) -> Usage:
    """Usage of an answer whose own was never told: what was seen of the input, the output by its length, never above its bound."""
    output = -(-characters // CHARACTERS_PER_TOKEN)
    for bound in (asked_limit, model.max_output_tokens):
        if bound:
            output = min(output, bound)
    if seen is not None and seen.input_total:
        return replace(
            seen, output=max(seen.output, output), source="estimated", method="input told, output by length"
        )
    return Usage(
        input=input_estimate, output=output, source="estimated", method=name_method("by length", calibrated)
    )


def name_method(method: str, calibrated: bool) -> str:
    """How something was estimated; `calibrated`: by what the model's provider counted of earlier prompts, too."""
    return f"{method}, calibrated" if calibrated else method


def estimate_cost(input_tokens: int, asked_limit: int, model: ModelSpec) -> int | None:
    """What a call may cost in nano-dollars, told before it is made: the input by its length, the output by its bound, or by
    USUAL_OUTPUT where it has none. None without a price."""
    output = asked_limit or USUAL_OUTPUT
    if model.max_output_tokens:
        output = min(output, model.max_output_tokens)
    return price_counts({"input": input_tokens, "output": output}, model.price)


class Ledger:
    """Opens accounts. One object a worker."""

    def __init__(
        self, journal: Journal, metrics: Metrics, wall: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self.journal = journal
        self.metrics = metrics
        self.wall = wall
        self.clock = clock
        self._identifiers = Identifiers()

    def new_id(self) -> str:
        """A new request or attempt id."""
        return self._identifiers.next()

    def open(
        self, exchange: Exchange, target: Target, credential_id: str, health: TargetHealth | None = None
    ) -> Account:
        """Writes the intent, with the prompt's estimate as the target's `health` corrects it.

        Raises JournalUnavailable if the journal can't be written: nothing is dispatched unaccounted.
        """
        model, provider, key = target.model, target.provider, exchange.key
        price, estimate = model.price, estimate_input_tokens(exchange)
        intent = AttemptIntent(
            attempt_id=self.new_id(),
            request_id=exchange.request_id,
            number=exchange.attempts,
            started_at=self.wall(),
            key_id=key.id,
            team=key.team,
            project=key.project,
            operation=exchange.wire.operation.value,
            streamed=exchange.stream,
            asked_model=exchange.asked[:200],
            model_id=model.id,
            model=model.name,
            upstream_model=model.upstream_name,
            provider_id=provider.id,
            provider=provider.name,
            endpoint=target.endpoint.origin,
            credential_id=credential_id,
            snapshot_revision=exchange.snapshot.revision,
            price_version=price.version if price is not None else "",
            price_rates=price.rates if price is not None else None,
            input_estimate=estimate if health is None else int(estimate * health.token_factor),
            purpose=exchange.purpose,
        )
        try:
            self.journal.intent(intent)
        except JournalUnavailable:
            self.metrics.add("journal_refusals", ())
            raise
        account = Account(self, intent, target)
        account.health, account.estimate = health, estimate
        account.calibrated = health is not None and health.calibrated
        return account


class Account:
    """One attempt's account, from its intent to its final."""

    __slots__ = (
        "_closed",
        "_ledger",
        "calibrated",
        "cost_nanos",
        "estimate",
        "events",
        "final",
        "first_content_at",
        "health",
        "intent",
        "may_cost",
        "opened_at",
        "served_model",
        "target",
        "translated",
        "upstream_request_id",
        "usage",
    )

    def __init__(self, ledger: Ledger, intent: AttemptIntent, target: Target) -> None:
        self._ledger = ledger
        self.opened_at = ledger.clock()
        self._closed = False
        self.intent = intent
        self.target = target
        self.usage: Usage = NOTHING_USED
        self.cost_nanos: int | None = 0
        self.events = 0
        self.final: AttemptFinal | None = None
        """What was written at its end."""
        self.first_content_at = 0.0
        self.health: TargetHealth | None = None
        self.estimate = 0
        """The prompt's tokens by the general estimate; the intent has them as its target's factor makes them."""
        self.calibrated = False
        self.served_model = ""
        self.upstream_request_id = ""
        self.translated = False
        self.may_cost = False
        """Whether the provider may bill this call: from the moment it is sent until it answers with an error."""

    @property
    def closed(self) -> bool:
        """Whether its final is written."""
        return self._closed

    def note_sent(self) -> None:
        """The request goes out."""
        self.may_cost = True

    def note_first_content(self, now: float) -> None:
        """The first content of a stream came."""
        self.first_content_at = now
        if self.health is not None:
            self.health.first_token(self, now)

    def note_whole(self, now: float, tokens: int) -> None:
        """A whole answer came, of so many tokens. When its first one was written is known only by their speed."""
        self.first_content_at = now
        if self.health is not None:
            self.health.whole(self, tokens, now)

    def tell_health(self, *, failed: bool) -> None:
        """What this attempt says of its target, now that it is over."""
        health, now = self.health, self._ledger.clock()
        if health is None:
            return
        if failed:
            health.failed(None if self.first_content_at else now - self.opened_at, now)
            return
        health.worked(now)
        if self.usage.source == "provider" and self.usage.input_total:
            health.counted(self.estimate, self.usage.input_total)
        if self.intent.streamed and self.first_content_at:
            health.streamed(self.usage.output_total, now - self.first_content_at, now)

    def tell_outrun(self) -> None:
        """Another attempt answered first: this one's target is at least as slow as it has been waited for."""
        if self.health is not None and not self.first_content_at:
            now = self._ledger.clock()
            self.health.outrun(now - self.opened_at, now)

    def estimate_unanswered(self) -> Usage:
        """What a call used that ends without an answer: nothing if it was never sent, refused, or of a kind that is free."""
        if not self.may_cost or self.intent.operation == Operation.ANTHROPIC_COUNT_TOKENS.value:
            return NOTHING_USED
        return Usage(
            input=self.intent.input_estimate,
            source="estimated",
            method=name_method(UNANSWERED_METHOD, self.calibrated),
        )

    def close(
        self,
        outcome: Outcome,
        usage: Usage,
        *,
        status: int = 0,
        error_class: str = "",
        error_detail: str = "",
        finish_reason: str = "",
        disconnected: bool = False,
    ) -> None:
        """Prices the usage and writes the final; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        ledger, target, secret = self._ledger, self.target, self.target.secret
        self.usage = usage = mask_usage(usage, secret)
        counts = usage.counts()
        self.cost_nanos = price_counts(counts, target.model.price)
        duration = ledger.clock() - self.opened_at
        first = self.first_content_at - self.opened_at if self.first_content_at else -0.001
        self.final = final = AttemptFinal(
            attempt_id=self.intent.attempt_id,
            outcome=outcome,
            ended_at=ledger.wall(),
            usage=usage,
            cost_nanos=self.cost_nanos,
            status=status,
            error_class=error_class,
            error_detail=mask_text(error_detail, secret)[:300],
            finish_reason=mask_text(finish_reason, secret)[:100],
            duration_ms=int(duration * 1000),
            first_token_ms=int(first * 1000),
            relayed_events=self.events,
            client_disconnected=disconnected,
            upstream_request_id=mask_text(self.upstream_request_id, secret)[:100],
            served_model=mask_text(self.served_model, secret)[:200],
            translated=self.translated,
        )
        ledger.journal.final(final)
        self._count(outcome, error_class, first, counts)

    def _count(self, outcome: Outcome, error_class: str, first: float, counts: Mapping[str, int]) -> None:
        metrics = self._ledger.metrics
        provider, model = self.target.provider.name, self.target.model.name
        metrics.add("attempts", (provider, model, outcome))
        if error_class:
            metrics.add("upstream_errors", (provider, error_class))
        for bucket, count in counts.items():
            metrics.add("tokens", (provider, model, bucket), count)
        if self.cost_nanos is None:
            metrics.add("unpriced_attempts", (provider, model))
        elif self.cost_nanos:
            metrics.add("cost_nanodollars", (provider, model), self.cost_nanos)
        if self.events:
            metrics.add("stream_events", (provider,), self.events)
        if first > 0:
            metrics.observe("first_token_seconds", (provider, model), first)
