"""What other workers tell of health: it keeps a worker away, ends by itself, and brings nothing back."""

from __future__ import annotations

from pathlib import Path

import httpx

from gateway.health import HealthBoard
from providers.mock import MockProvider
from tests.builders import a_key, a_model, a_provider, a_snapshot, an_alias
from tests.gateway.calls import a_body, call
from tests.gateway.serving import running_gateway


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_what_others_found_resting_is_left_alone_until_its_end() -> None:
    clock = Clock()
    board = HealthBoard(clock)
    board.take_told([("e1", 5.0)], [("c1", "m1", 3.0), ("c2", "", 4.0)])
    assert not board.endpoint_usable("e1")
    assert board.endpoint_usable("e2")
    assert not board.credential_usable("c1", "m1")
    assert board.credential_usable("c1", "m2")
    assert not board.credential_usable("c2", "anything")
    clock.now += 5.1
    assert board.endpoint_usable("e1")
    assert board.credential_usable("c1", "m1")
    assert board.credential_usable("c2", "anything")


def test_what_others_say_no_more_is_forgotten_and_opens_nothing_of_ones_own() -> None:
    clock = Clock()
    board = HealthBoard(clock)
    board.endpoint_failed("e1")
    board.credential_refused("c1")
    board.take_told([("e1", 20.0), ("e2", 20.0)], [])
    board.take_told([], [])
    assert board.endpoint_usable("e2")
    assert not board.endpoint_usable("e1")
    assert not board.credential_usable("c1", "m")


def test_a_rest_that_is_told_is_bounded_and_nobody_hears_his_own_voice() -> None:
    clock = Clock()
    board = HealthBoard(clock)
    board.take_told([("e1", 1e9)], [("c1", "", 1e9)])
    assert board.report() == {"endpoints": {}, "credentials": [], "targets": {}}
    clock.now += 31
    assert board.endpoint_usable("e1")
    clock.now += 3600
    assert board.credential_usable("c1", "m")


def test_a_report_tells_what_this_worker_saw() -> None:
    clock = Clock()
    board = HealthBoard(clock)
    board.enter("e1")
    board.endpoint_failed("e2")
    board.credential_limited("c1", "m1", 7.0)
    clock.now += 0.25
    report = board.report()
    assert report["endpoints"]["e1"] == {"state": "closed", "rest": 0.0, "failures": 0, "in_flight": 1}
    assert report["endpoints"]["e2"] == {"state": "open", "rest": 0.75, "failures": 1, "in_flight": 0}
    assert report["credentials"] == [{"id": "c1", "model": "m1", "rest": 6.75}]


async def test_requests_go_elsewhere_while_another_workers_word_holds(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with MockProvider() as one, MockProvider() as two:
        providers = (a_provider("one", "openai", one.port), a_provider("two", "openai", two.port))
        models = tuple(a_model(provider, f"at-{provider.name}") for provider in providers)
        key, text = a_key()
        snapshot = a_snapshot(
            providers=providers, models=models, aliases=(an_alias("work", *models),), keys=(key,)
        )
        async with running_gateway(snapshot, tmp_path) as gateway:

            async def served_by() -> str:
                answer = await call(http, gateway, text, "openai", a_body("openai", "work"))
                return str(answer.headers["x-tokenhub-provider"])

            assert await served_by() == "one"
            gateway.worker.board.take_told([("one-0", 30.0)], [])
            assert await served_by() == "two"
            gateway.worker.board.take_told([], [("one-key", "one:at-one", 30.0)])
            assert await served_by() == "two"
            gateway.worker.board.take_told([], [])
            assert await served_by() == "one"
