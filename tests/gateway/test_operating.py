"""Readiness, metrics, snapshots in force, several endpoints, and what happens when the journal can't be written."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from providers.mock import MockProvider, closed_port
from tests.builders import A_PRICE, a_key, a_model, a_provider, a_snapshot
from tests.gateway.calls import a_body, call
from tests.gateway.serving import running_gateway
from tokenhub.core.errors import RevisionStale
from tokenhub.core.specs import CredentialSpec, Snapshot


def one_model(port: int, *ports: int, kind: str = "openai", **fields: object) -> tuple[Snapshot, str]:
    """The model `work`."""
    provider = a_provider("only", kind, port, *ports, **fields)
    key, text = a_key()
    return a_snapshot(providers=(provider,), models=(a_model(provider, "work"),), keys=(key,)), text


async def test_readiness_and_answers_tell_the_revision_in_force(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        assert (await http.get(gateway.origin + "/healthz")).json() == {"status": "alive"}
        assert (await http.get(gateway.origin + "/readyz")).json()["revision"] == 1
        gateway.current.swap(replace(snapshot, revision=7))
        assert (await http.get(gateway.origin + "/readyz")).json()["revision"] == 7
        answer = await call(http, gateway, key, "openai", a_body("openai", "work"))
        assert answer.headers["x-tokenhub-revision"] == "7"
        with pytest.raises(RevisionStale):
            gateway.current.swap(snapshot)
        assert gateway.current.get().revision == 7


async def test_a_worker_that_no_newer_snapshot_reaches_is_ready_and_tells_why(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, _ = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path / "fine") as gateway:
        assert (await http.get(gateway.origin + "/readyz")).json()["configuration_error"] is None
    told = "the database can't be read"
    async with running_gateway(snapshot, tmp_path / "cut off", configuration_error=told) as gateway:
        page = await http.get(gateway.origin + "/readyz")
        assert page.status_code == 200
        assert page.json()["status"] == "ready"
        assert page.json()["configuration_error"] == told


async def test_a_request_under_way_keeps_the_snapshot_it_began_with(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with MockProvider(gap=0.05, tokens=20) as mock:
        snapshot, key = one_model(mock.port)
        async with running_gateway(snapshot, tmp_path) as gateway:
            task = asyncio.create_task(
                call(http, gateway, key, "openai", a_body("openai", "work", stream=True))
            )
            await mock.until(lambda stats: stats["calls"] == 1)
            gateway.current.swap(a_snapshot(revision=2))
            answer = await task
            assert answer.ended
            assert answer.headers["x-tokenhub-revision"] == "1"
            assert (await call(http, gateway, key, "openai", a_body("openai", "work"))).status == 401
            intents, finals = gateway.records()
            assert intents[0].snapshot_revision == 1
            assert finals[0].cost_nanos


async def test_the_ledger_prices_every_bucket_to_the_nano_dollar(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, "openai", a_body("openai", "work"))
        (final,) = await gateway.settled(1)
        rates = dict(A_PRICE.rates)
        expected = (final.usage.input * rates["input"] + final.usage.output * rates["output"]) // 1_000_000
        assert final.cost_nanos == expected > 0
        assert float(answer.headers["x-tokenhub-cost-usd"]) == expected / 1e9


async def test_a_model_without_a_price_is_unpriced_not_free(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    snapshot = replace(snapshot, models=(replace(snapshot.models[0], price=None),))
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, "openai", a_body("openai", "work"))
        assert "x-tokenhub-cost-usd" not in answer.headers
        (final,) = await gateway.settled(1)
        assert final.cost_nanos is None
        assert gateway.worker.metrics.counters["unpriced_attempts"] == {("only", "work"): 1}


async def test_metrics_count_what_happened_and_need_a_token_from_elsewhere(
    mock: MockProvider, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    token = "a-token-for-the-scraper"
    async with running_gateway(snapshot, tmp_path, metrics_token=token, metrics_allow=()) as gateway:
        await call(http, gateway, key, "openai", a_body("openai", "work"))
        assert (await http.get(gateway.origin + "/metrics")).status_code == 403
        page = await http.get(gateway.origin + "/metrics", headers={"authorization": f"Bearer {token}"})
        assert 'tokenhub_requests_total{operation="openai.chat",status="200"} 1' in page.text
        assert 'tokenhub_attempts_total{provider="only",model="work",outcome="completed"} 1' in page.text
        assert 'tokenhub_first_token_seconds_count{provider="only",model="work"} 1' in page.text
        assert "tokenhub_journal_depth" in page.text


async def test_endpoints_share_the_load_by_weight_and_one_that_is_down_is_left_out(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with MockProvider(latency=0.05) as one, MockProvider(latency=0.05) as two:
        snapshot, key = one_model(one.port, two.port, kind="vllm")
        provider = snapshot.providers[0]
        heavy = replace(provider.endpoints[0], weight=3)
        snapshot = replace(snapshot, providers=(replace(provider, endpoints=(heavy, provider.endpoints[1])),))
        async with running_gateway(snapshot, tmp_path) as gateway:
            await asyncio.gather(
                *(
                    call(
                        http, gateway, key, "openai", a_body("openai", "work", text=f"conversation {number}")
                    )
                    for number in range(100)
                )
            )
            assert one.stats()["calls"] + two.stats()["calls"] == 100
            assert one.stats()["calls"] > two.stats()["calls"] > 10
            await one.stop()
            answers = [await call(http, gateway, key, "openai", a_body("openai", "work")) for _ in range(10)]
            assert {answer.status for answer in answers} == {200}


async def test_a_resting_endpoint_comes_back_when_its_health_page_answers(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with MockProvider() as mock:
        snapshot, _ = one_model(mock.port, kind="vllm")
        async with running_gateway(snapshot, tmp_path) as gateway:
            board, endpoint_id = gateway.worker.board, snapshot.providers[0].endpoints[0].id
            for _ in range(4):
                board.endpoint_failed(endpoint_id)
            assert not board.endpoint_usable(endpoint_id)
            await mock.until(lambda stats: stats["by_path"].get("/health", 0) >= 1, seconds=4)
            await asyncio.sleep(0.1)
            assert board.endpoint_usable(endpoint_id)


async def test_a_refused_credential_gives_way_to_the_next_and_rests(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    good = "sk-test-credential-0123456789"
    async with MockProvider(require_key=good) as mock:
        pool = (
            CredentialSpec("bad", "bad", "file", "bad-key", weight=1000),
            CredentialSpec("good", "good", "env", "TOKENHUB_CRED_TESTS", weight=1),
        )
        (tmp_path / "bad-key").write_text("sk-wrong-credential\n")
        (tmp_path / "bad-key.origin").write_text(f"http://127.0.0.1:{mock.port}\n")
        snapshot, key = one_model(mock.port, credentials=pool)
        async with running_gateway(snapshot, tmp_path) as gateway:
            answer = await call(http, gateway, key, "openai", a_body("openai", "work"))
            assert answer.status == 200
            assert answer.headers["x-tokenhub-attempts"] == "2"
            again = await call(http, gateway, key, "openai", a_body("openai", "work"))
            assert again.headers["x-tokenhub-attempts"] == "1", "the refused credential rests"


async def test_a_missing_credential_is_named_but_never_shown(
    http: httpx.AsyncClient, mock: MockProvider, tmp_path: Path
) -> None:
    missing = (CredentialSpec("none", "none", "env", "TOKENHUB_CRED_ABSENT"),)
    snapshot, key = one_model(mock.port, credentials=missing)
    async with running_gateway(snapshot, tmp_path) as gateway:
        answer = await call(http, gateway, key, "openai", a_body("openai", "work"))
        assert answer.status == 503
        assert "TOKENHUB_CRED_ABSENT" in answer.raw.decode()
        assert gateway.records() == ([], []), "nothing was dispatched"


async def test_when_the_journal_can_not_be_written_nothing_is_dispatched(
    http: httpx.AsyncClient, mock: MockProvider, tmp_path: Path
) -> None:
    snapshot, key = one_model(mock.port)
    async with running_gateway(snapshot, tmp_path) as gateway:
        gateway.journal.close()
        answer = await call(http, gateway, key, "openai", a_body("openai", "work"))
        assert answer.status == 503
        assert "retry-after" in answer.headers
        assert not mock.calls()
        assert (await http.get(gateway.origin + "/readyz")).status_code == 503


async def test_everything_rests_but_a_lone_target_is_still_tried(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    with closed_port() as port:
        snapshot, key = one_model(port)
        async with running_gateway(snapshot, tmp_path) as gateway:
            for _ in range(3):
                assert (await call(http, gateway, key, "openai", a_body("openai", "work"))).status == 502
            assert len(gateway.records()[1]) == 3
