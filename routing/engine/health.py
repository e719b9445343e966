"""What is measured of a target: how soon and how fast it answers, how often it fails, what is in flight, until when it rests.

Pure: moments come in as seconds of one monotonic clock. Health boards keep one of these for each model and change it as
attempts begin, answer and end; `decide` reads the attributes.
"""

from __future__ import annotations

import math

FIRST_GUESS_SECONDS = 1.0
"""Time to the first token of a target that nobody has measured or declared."""

SPEED_GUESS = 0.02
"""Seconds a token, of one without measurements."""

MEMORY_SECONDS = 60.0
"""After so long without news a measurement counts 1/e."""

FAILURE_MEMORY_SECONDS = 30.0
NEVER = math.inf

_BUCKETS = 64
_BASE = 0.01
_GROWTH = 1.2
_HALF_AFTER = 256
_MIN_SAMPLES = 20

LEAST_FACTOR = 0.3
MOST_FACTOR = 3.0
"""Bounds of a target's factor; what is further off is no matter of tokenizers."""

_LEAST_COUNTED = 32
_COUNTS_TO_TRUST = 5
_COUNT_WEIGHT = 0.05
_FURTHEST_OFF = 0.7


class TargetHealth:
    """The measurements of one target. Seconds throughout; `failure` is the recent share of failed attempts, 0 to 1."""

    __slots__ = (
        "_counts",
        "_failed_at",
        "_learned_factor",
        "_measured",
        "_open",
        "_samples",
        "_speed_at",
        "_started",
        "_token_counts",
        "_ttft_at",
        "failure",
        "in_flight",
        "rest_until",
        "seconds_per_token",
        "token_factor",
        "ttft",
        "waiting_since",
    )

    def __init__(self, expected_latency_ms: int = 0) -> None:
        self.ttft = expected_latency_ms / 1000 if expected_latency_ms else FIRST_GUESS_SECONDS
        self.seconds_per_token = SPEED_GUESS
        self.failure = 0.0
        self.in_flight = 0
        self.rest_until = 0.0
        self.waiting_since = NEVER
        """When the oldest attempt began that has no first token yet: a target that is slow now shows it at once."""
        self.token_factor = 1.0
        """What estimates of this target's prompts are multiplied by: its own tokenizer against the general one."""
        self._token_counts = 0
        self._learned_factor = 1.0
        self._measured = False
        self._ttft_at = self._speed_at = self._failed_at = 0.0
        self._open: dict[object, float] = {}
        self._started: dict[object, float] = {}
        self._counts = [0] * _BUCKETS
        self._samples = 0

    @property
    def measured(self) -> bool:
        """Whether any attempt has been measured, or is under way."""
        return self._measured or self.in_flight > 0 or self.failure > 0

    def began(self, attempt: object, now: float) -> None:
        """An attempt was sent."""
        self.in_flight += 1
        self._open[attempt] = self._started[attempt] = now
        if self.waiting_since == NEVER:
            self.waiting_since = now

    def first_token(self, attempt: object, now: float) -> None:
        """Its first content came. Measured once an attempt."""
        began = self._stop_waiting(attempt)
        if began is not None:
            self._measure_ttft(now - began, now)

    def whole(self, attempt: object, tokens: int, now: float) -> None:
        """A whole answer came at once: what its tokens took at the known speed was not the waiting for the first."""
        began = self._stop_waiting(attempt)
        if began is not None:
            taken = now - began
            self._measure_ttft(max(taken - tokens * self.seconds_per_token, taken / 10), now)

    def left(self, attempt: object) -> None:
        """It is over, however it ended. A second time nothing happens."""
        if self._open.pop(attempt, None) is not None:
            self.in_flight -= 1
            self._stop_waiting(attempt)

    def failed(self, waited: float | None, now: float) -> None:
        """An attempt failed, after it `waited` so long in vain (None: it had begun to answer).

        A failure measures no speed: it only ever makes the target look slower.
        """
        share = self._age(self._failed_at, now, FAILURE_MEMORY_SECONDS)
        self.failure = 1.0 - (1.0 - self.failure * share) * 0.7
        self._failed_at = now
        if waited is not None and waited > self.ttft:
            self._measure_ttft(waited, now)

    def outrun(self, waited: float, now: float) -> None:
        """An attempt was given up after it `waited` so long, since another one had answered: it can only look slower by it."""
        if waited > self.ttft:
            self._measure_ttft(waited, now)

    def worked(self, now: float) -> None:
        """An attempt was answered."""
        if self.failure:
            self.failure *= self._age(self._failed_at, now, FAILURE_MEMORY_SECONDS) * 0.8
            self._failed_at = now
            if self.failure < 0.001:
                self.failure = 0.0

    def streamed(self, tokens: int, seconds: float, now: float) -> None:
        """How long an answer's tokens took after the first one."""
        if tokens < 2 or seconds <= 0:
            return
        weight = max(0.2, 1.0 - self._age(self._speed_at, now, MEMORY_SECONDS))
        self.seconds_per_token += weight * (seconds / tokens - self.seconds_per_token)
        self._speed_at = now

    @property
    def calibrated(self) -> bool:
        """Whether enough prompts were counted for `token_factor` to say something."""
        return self._token_counts >= _COUNTS_TO_TRUST

    def counted(self, estimate: int, told: int) -> None:
        """The provider told how many tokens a prompt had that was estimated. Short ones say more of frames than of a tokenizer;
        one that is far off moves the factor no further than others may."""
        if min(estimate, told) < _LEAST_COUNTED:
            return
        self._token_counts += 1
        learned = math.log(self._learned_factor)
        off = max(-_FURTHEST_OFF, min(_FURTHEST_OFF, math.log(told / estimate) - learned))
        learned += max(_COUNT_WEIGHT, 1.0 / self._token_counts) * off
        self._learned_factor = max(LEAST_FACTOR, min(MOST_FACTOR, math.exp(learned)))
        if self.calibrated:
            self.token_factor = self._learned_factor

    def rest(self, until: float) -> None:
        """It is left alone so long; a moment before the present end changes nothing."""
        self.rest_until = max(self.rest_until, until)

    def wake(self) -> None:
        """It answered: nothing is left of its rest."""
        self.rest_until = 0.0

    def quantile(self, share: float) -> float | None:
        """The time to the first token that so many of the recent attempts kept; None before there are 20."""
        total = sum(self._counts)
        if total < _MIN_SAMPLES:
            return None
        left = share * total
        for bucket, count in enumerate(self._counts):
            left -= count
            if left <= 0:
                return float(_BASE * _GROWTH ** (bucket + 1))
        return float(_BASE * _GROWTH**_BUCKETS)

    def _measure_ttft(self, seconds: float, now: float) -> None:
        if not self._measured:
            self.ttft, self._measured = seconds, True
        else:
            # Peaks count at once, so that a target that became slow is left at once; it is forgiven gradually.
            weight = (
                0.5 if seconds > self.ttft else max(0.2, 1.0 - self._age(self._ttft_at, now, MEMORY_SECONDS))
            )
            self.ttft += weight * (seconds - self.ttft)
        self._ttft_at = now
        bucket = int(math.log(max(seconds, _BASE) / _BASE) / math.log(_GROWTH))
        self._counts[min(bucket, _BUCKETS - 1)] += 1
        self._samples += 1
        if self._samples == _HALF_AFTER:
            self._counts = [count // 2 for count in self._counts]
            self._samples = sum(self._counts)

    def _stop_waiting(self, attempt: object) -> float | None:
        began = self._started.pop(attempt, None)
        if began is not None and began <= self.waiting_since:
            # Attempts begin in the order of their insertion: the first one left is the oldest.
            self.waiting_since = next(iter(self._started.values()), NEVER)
        return began

    @staticmethod
    def _age(then: float, now: float, memory: float) -> float:
        return math.exp(min(0.0, then - now) / memory)
