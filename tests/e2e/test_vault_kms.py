"""A KMS slot on a running installation: it unlocks itself at each start, by calls in AWS's wire format or by the stand-in."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.vault_fleet import a_fleet, ask, tell
from tests.fakes.aws_kms import FakeAwsKms, fake_aws_kms

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vault-kms")]


@pytest.fixture
def aws() -> Iterator[FakeAwsKms]:
    """A local server that speaks AWS KMS."""
    with fake_aws_kms() as served:
        yield served


def check_starts_by_itself(folder: Path, **environment: str) -> float:
    """Adds a KMS slot, starts again, and asks for an answer; the seconds until every worker was unlocked."""
    with a_fleet(folder, workers=1, **environment) as fleet:
        with fleet.first.admin() as admin:
            made = admin.post("vault/slots", json={"kind": "kms", "label": "Cloud"})
            assert made.status_code == 201, made.text
        fleet.first.terminate()
        fleet.first.start()
        fleet.first.wait_ready()
        seconds = fleet.wait_all("unlocked")
        with httpx.Client(base_url=fleet.first.url, timeout=30) as client:
            assert ask(client, fleet.first.key, "openai", "work-sealed").status == 200
        assert "unlocked without anyone, by the KMS" in fleet.first.log_tail(60_000)
        return seconds


def test_an_installation_with_aws_kms_unlocks_itself(tmp_path: Path, aws: FakeAwsKms) -> None:
    seconds = check_starts_by_itself(
        tmp_path,
        TOKENHUB_VAULT_KMS=f"aws:{aws.key_id}",
        TOKENHUB_VAULT_KMS_ENDPOINT=aws.url,
        **aws.variables,
    )
    operations = [operation for operation, _ in aws.asked]
    assert operations[0] == "Encrypt"
    assert set(operations[1:]) == {"Decrypt"}
    assert aws.refused == []
    assert {context["tokenhub:purpose"] for _, context in aws.asked} == {"vault slot"}
    tell("unlocked by AWS KMS's wire format", after_ready_s=round(seconds, 2), calls=len(operations))


@pytest.mark.drill
def test_an_installation_with_the_stand_in_unlocks_itself(tmp_path: Path) -> None:
    key = tmp_path / "kms.key"
    key.write_bytes(secrets.token_bytes(32))
    seconds = check_starts_by_itself(tmp_path / "service", TOKENHUB_VAULT_KMS=f"software:{key}")
    tell("unlocked by the stand-in", after_ready_s=round(seconds, 2))
