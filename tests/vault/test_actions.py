"""Credential references: what may be referred to, and versions."""

from __future__ import annotations

import pytest

from tests.snapshots.cast import OPERATOR, make_provider
from tokenhub.core.errors import Conflict, InvalidRequest
from vault.actions import create_credential, renew_credential, update_credential
from vault.models import AuditEntry, Credential

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("source", "reference"),
    [
        ("env", "sk-pasted-secret"),
        ("env", "DATABASE_URL"),
        ("env", ""),
        ("file", "/etc/shadow"),
        ("file", "../key"),
        ("file", "a/./b"),
        ("none", "TOKENHUB_CRED_A"),
    ],
)
def test_a_reference_that_may_not_be_is_refused_and_not_repeated(source: str, reference: str) -> None:
    provider = make_provider()
    rows = AuditEntry.objects.count()
    with pytest.raises(InvalidRequest) as refused:
        create_credential(OPERATOR, provider=provider, name="second", source=source, reference=reference)
    assert refused.value.param == "reference"
    assert not reference or reference == "TOKENHUB_CRED_A" or reference not in str(refused.value.details)
    assert AuditEntry.objects.count() == rows


def test_pointing_it_elsewhere_makes_a_new_version() -> None:
    make_provider()
    credential = Credential.objects.get()
    assert update_credential(OPERATOR, credential, weight=3).version == 1
    assert update_credential(OPERATOR, credential, reference="TOKENHUB_CRED_OTHER").version == 2
    assert renew_credential(OPERATOR, credential).version == 3
    assert Credential.objects.get().version == 3


def test_two_credentials_of_a_provider_have_different_names() -> None:
    provider = make_provider()
    with pytest.raises(Conflict):
        create_credential(OPERATOR, provider=provider, name="main", source="none")
