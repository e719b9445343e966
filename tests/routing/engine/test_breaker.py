"""Breakers, the retry budget, pins, and what is measured of a target."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from routing.engine.breaker import FIRST_REST, LONGEST_REST, LONGEST_RETRY_AFTER, Breaker, RetryBudget
from routing.engine.health import FIRST_GUESS_SECONDS, NEVER, TargetHealth
from routing.engine.pins import Pins, name_pin


class BreakerMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: an open one only ever stays open longer, until it answered."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.breaker = Breaker()
        self.until = 0.0
        self.failures = 0

    @rule(seconds=st.floats(0, 60))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @rule()
    def fail(self) -> None:
        """An attempt failed."""
        fresh = self.breaker.until <= self.now
        self.breaker.failed(self.now)
        self.failures += fresh
        if fresh:
            least = min(LONGEST_REST, FIRST_REST * 2 ** min(self.failures - 1, 10))
            assert self.breaker.until == self.now + least
        self._only_later()

    @rule(seconds=st.one_of(st.none(), st.floats(0, 10**6)))
    def limit(self, seconds: float | None) -> None:
        """The provider says how long."""
        self.breaker.limited(self.now, seconds)
        self._only_later()
        assert self.breaker.until <= max(self.until, self.now + LONGEST_RETRY_AFTER)

    @rule()
    def enter(self) -> None:
        """An attempt goes there."""
        allowed = self.breaker.allows(self.now)
        self.breaker.enter(self.now)
        self._only_later()
        if allowed and self.failures:
            assert not self.breaker.allows(self.now), "one probe at a time"

    @rule()
    def work(self) -> None:
        """It answered."""
        self.breaker.works()
        self.until, self.failures = 0.0, 0

    def _only_later(self) -> None:
        assert self.breaker.until >= self.until
        self.until = self.breaker.until

    @invariant()
    def an_open_one_lets_nobody_in(self) -> None:
        """Open is open, and closed is closed."""
        if self.breaker.state(self.now) == "open":
            assert not self.breaker.allows(self.now)
        if self.breaker.state(self.now) == "closed":
            assert self.breaker.allows(self.now)


BreakerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestBreaker = BreakerMachine.TestCase


def test_a_probe_that_never_ends_keeps_nobody_out_for_ever() -> None:
    breaker = Breaker()
    breaker.failed(0.0)
    breaker.enter(1.5)
    assert not breaker.allows(2.0)
    assert breaker.allows(12.0)
    breaker.enter(12.0)
    breaker.left()
    assert breaker.allows(12.1)


@given(st.lists(st.booleans(), max_size=3000))
def test_retries_stay_within_their_share_of_the_requests(wanted: list[bool]) -> None:
    budget = RetryBudget(share=0.1, reserve=5.0, most=20.0)
    taken = 0
    for number, retry in enumerate(wanted, 1):
        budget.request()
        taken += retry and budget.take()
        assert taken <= 5.0 + 0.1 * number + 1e-6
        assert budget.left <= 20.1


def test_with_everything_failing_upstream_sees_a_tenth_more() -> None:
    budget = RetryBudget()
    calls = 0
    for _ in range(5000):
        budget.request()
        calls += 1
        while budget.take():
            calls += 1
    assert calls <= 1.1 * 5000 + 50


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans(), st.floats(0, 5)), max_size=60))
def test_failures_never_make_a_target_look_fast(events: list[tuple[float, bool, float]]) -> None:
    health, now = TargetHealth(), 0.0
    for number, (seconds, failed, pause) in enumerate(events):
        before, failure = health.ttft, health.failure
        health.began(number, now)
        now += seconds
        if failed:
            health.left(number)
            health.failed(seconds, now)
            assert health.ttft >= before
            assert health.failure >= 0.3
        else:
            health.first_token(number, now)
            health.left(number)
            health.worked(now)
            assert health.failure <= failure
            assert min(before, seconds) - 1e-9 <= health.ttft <= max(before, seconds) + 1e-9
        assert 0.0 <= health.failure <= 1.0
        assert (health.in_flight, health.waiting_since) == (0, NEVER)
        now += pause


@given(st.lists(st.tuples(st.sampled_from("blt"), st.integers(0, 5)), max_size=80))
def test_the_oldest_that_waits_is_known(steps: list[tuple[str, int]]) -> None:
    health, waiting, in_flight = TargetHealth(), dict[int, float](), set[int]()
    for moment, (step, number) in enumerate(steps):
        now = float(moment)
        if step == "b" and number not in in_flight:
            health.began(number, now)
            in_flight.add(number)
            waiting[number] = now
        elif step == "t" and number in in_flight:
            health.first_token(number, now)
            waiting.pop(number, None)
        elif step == "l" and number in in_flight:
            health.left(number)
            health.left(number)
            in_flight.discard(number)
            waiting.pop(number, None)
        assert health.in_flight == len(in_flight)
        assert health.waiting_since == min(waiting.values(), default=NEVER)


def test_a_rest_only_gets_longer_until_it_answers() -> None:
    health = TargetHealth()
    health.rest(30.0)
    health.rest(10.0)
    assert health.rest_until == 30.0
    health.wake()
    assert health.rest_until == 0.0


def test_the_quantile_follows_what_was_measured() -> None:
    health = TargetHealth(expected_latency_ms=250)
    assert (health.ttft, health.quantile(0.95)) == (0.25, None)
    for number in range(1000):
        health.began(number, float(number))
        health.first_token(number, number + (2.0 if number % 10 == 0 else 0.1))
        health.left(number)
    ninety_five, half = health.quantile(0.95), health.quantile(0.5)
    assert ninety_five is not None
    assert half is not None
    assert math.isclose(ninety_five, 2.0, rel_tol=0.25)
    assert math.isclose(half, 0.1, rel_tol=0.25)
    assert TargetHealth().ttft == FIRST_GUESS_SECONDS


def test_speed_is_learnt_from_streams_with_more_than_one_token() -> None:
    health = TargetHealth()
    health.streamed(1, 5.0, 1.0)
    assert health.seconds_per_token == 0.02
    for moment in range(50):
        health.streamed(100, 0.5, float(moment))
    assert health.seconds_per_token == pytest.approx(0.005, rel=0.01)


def test_pins_end_are_bounded_and_belong_to_their_tenant() -> None:
    pins = Pins(most=3)
    one, other = name_pin("acme", "conversation"), name_pin("globex", "conversation")
    assert one != other
    pins.put(one, "model", "endpoint", until=10.0)
    found = pins.find(one, 9.0)
    assert found is not None
    assert (found.model_id, found.endpoint_id) == ("model", "endpoint")
    assert pins.find(other, 9.0) is None
    assert pins.find(one, 10.0) is None
    for number in range(5):
        pins.put(name_pin("acme", str(number)), "m", "e", until=99.0)
    assert len(pins) == 3
    pins.drop(name_pin("acme", "4"))
    assert pins.find(name_pin("acme", "4"), 1.0) is None
