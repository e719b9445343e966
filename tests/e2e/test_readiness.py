"""Readiness of a running installation whose newest configuration is broken."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.e2e.service import Service

pytestmark = pytest.mark.slow


def test_a_worker_that_refuses_the_newest_revision_is_ready_with_its_old_one_and_tells_why(
    service: Service,
) -> None:
    before = httpx.get(f"{service.url}/readyz").json()
    assert (before["status"], before["configuration_error"]) == ("ready", None)
    service.sql(
        "INSERT INTO snapshots_configrevision (revision, created_at, sha256, content_sha256, payload, note, actor)"
        " VALUES (?, '2030-01-01 00:00:00', 'none', 'none', ?, '', '')",
        before["revision"] + 1,
        b"garbage",
    )
    deadline = time.monotonic() + 10
    while (page := httpx.get(f"{service.url}/readyz")).json()["configuration_error"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    told = page.json()
    assert (page.status_code, told["status"], told["revision"]) == (200, "ready", before["revision"])
    assert "does not match its digest" in told["configuration_error"]
