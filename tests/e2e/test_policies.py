"""A policy's life on a running installation: written, published, followed by requests, rolled back, switched off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.service import Service

pytestmark = pytest.mark.slow


def ask(service: Service, model: str = "auto", text: str = "hello", **headers: str) -> httpx.Response:
    """One chat request."""
    return httpx.post(
        f"{service.url}/v1/chat/completions",
        json={"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 20},
        headers={"authorization": f"Bearer {service.key}", **headers},
        timeout=30,
    )


def test_requests_follow_the_policy_that_is_in_force(tmp_path: Path) -> None:
    with Service(tmp_path / "service", workers=2) as service, service.admin() as admin:

        def do(method: str, path: str, body: Any = None, expect: int = 200) -> Any:
            answer = admin.request(method, path, json=body)
            assert answer.status_code == expect, answer.text
            return answer.json() if answer.content else None

        def publish(policy_id: int, document: dict[str, Any], why: str) -> None:
            do("PUT", f"policies/{policy_id}/draft", {"document": document, "note": why})
            do("POST", f"policies/{policy_id}/publish", {"note": why})
            service.wait_revision()

        assert ask(service).headers["x-tokenhub-reason"].startswith("auto")
        policy = do("POST", "policies", {"name": "house", "priority": 10}, 201)["id"]
        publish(policy, {"targets": ["sim-small"]}, "small is enough")
        answer = ask(service)
        assert (answer.status_code, answer.headers["x-tokenhub-model"]) == (200, "sim-small")
        assert answer.headers["x-tokenhub-reason"].startswith("policy=house@1")
        publish(policy, {"targets": ["sim-large", "sim-small"], "strategy": "priority"}, "large first")
        answer = ask(service)
        assert answer.headers["x-tokenhub-model"] == "sim-large"
        assert answer.headers["x-tokenhub-reason"].startswith("policy=house@2")
        do("POST", f"policies/{policy}/roll-back", {"version": 1, "note": "too dear"})
        service.wait_revision()
        assert ask(service).headers["x-tokenhub-reason"].startswith("policy=house@3")
        assert [one["number"] for one in do("GET", f"policies/{policy}/versions")["results"]] == [3, 2, 1]
        refused = do("PUT", f"policies/{policy}/draft", {"document": {"bounds": {"min_weight": 11}}}, 400)
        assert "min_weight" in str(refused)
        do("PATCH", f"policies/{policy}", {"enabled": False})
        service.wait_revision()
        assert ask(service).headers["x-tokenhub-reason"].startswith("auto")
        named = ask(service, **{"x-tokenhub-policy": "house"})
        assert named.status_code == 400


def test_a_directive_decides_and_never_reaches_the_provider(tmp_path: Path) -> None:
    with Service(tmp_path / "service") as service:
        plain = ask(service, text="@@tokenhub mode=cheap\nsay hello")
        assert plain.status_code == 200
        assert "score" in plain.headers["x-tokenhub-reason"]
        strong = ask(service, text="@@tokenhub min_weight=10\nsay hello")
        assert strong.status_code == 422
        assert "below 10" in strong.json()["error"]["message"]
        bad = ask(service, text="@@tokenhub budget=much\nsay hello")
        assert bad.status_code == 400
        assert "budget" in bad.json()["error"]["message"]
        envelope = httpx.post(
            f"{service.url}/v1/chat",
            json={
                "policy": {"mode": "cheap"},
                "request": {"messages": [{"role": "user", "content": "hello"}]},
                "output_format": {"type": "text", "max_tokens": 10},
            },
            headers={"authorization": f"Bearer {service.key}"},
            timeout=30,
        )
        assert envelope.status_code == 200, envelope.text
        told = envelope.json()
        assert told["negotiated_model"] in ("sim-small", "sim-large")
        assert told["routing_reason"].startswith("auto")
        log = service.log_path.read_text()
        assert "@@tokenhub" not in log
        assert "say hello" not in log


def test_a_decision_is_told_to_its_key_and_to_operators(tmp_path: Path) -> None:
    with Service(tmp_path / "service", workers=2) as service, service.admin() as admin:
        answer = ask(service, text="@@tokenhub mode=cheap\nsay hello")
        request_id = answer.headers["x-tokenhub-request-id"]
        head = {"authorization": f"Bearer {service.key}"}
        url = f"{service.url}/v1/decisions/{request_id}"
        found = service.until(
            lambda: httpx.get(url, headers=head, timeout=10), lambda got: got.status_code == 200
        )
        told = found.json()
        assert told["reason"] == answer.headers["x-tokenhub-reason"]
        assert {one["model"] for one in told["candidates"]} >= {"sim-small", "sim-large"}
        assert told["attempts"][0]["model"] == answer.headers["x-tokenhub-model"]
        assert "say hello" not in found.text
        [row] = admin.request("GET", f"decisions?request_id={request_id}").json()["results"]
        assert row["document"]["attempts"] == told["attempts"]
        simulated = admin.request("POST", "routing/simulate", json={"model": "auto", "mode": "cheap"}).json()
        assert simulated["winner"]["model"] == answer.headers["x-tokenhub-model"]
        assert httpx.get(f"{service.url}/v1/decisions/req_unknown", headers=head).status_code == 404
