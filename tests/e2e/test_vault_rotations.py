"""Every rotation under load on a running fleet: password, data key, root, the provider's key. No request fails."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.vault_fleet import PASSWORD, SEALED_KEY, Fleet, Load, a_fleet, tell

NEW_PASSWORD = "mosaic-thimble-harbor-walnut-8"
NEW_KEY = "sk-sealed-successor-1d4b8f2c-not-a-real-key"
REST = 1.0
"""Seconds of load after each step."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vault-rotations")]


def rotate_password(fleet: Fleet) -> None:
    """Another password for the slot; nothing else changes."""
    fleet.ask_vault("POST", "/change-password", {"old_password": PASSWORD, "new_password": NEW_PASSWORD})


def rotate_data_key(fleet: Fleet) -> float:
    """A new data key, a secret entered at once after it, and the seconds until every record is moved."""
    began = time.monotonic()
    fleet.ask_vault("POST", "/rotate-data-key")
    fleet.seal(SEALED_KEY, overlap=60)
    fleet.first.until(
        lambda: [fleet.ask_vault("GET", "/rotate-data-key")],
        lambda rows: rows[0]["left"] == 0 and rows[0]["active_key"] == 2,
        40,
    )
    return time.monotonic() - began


def rotate_root(fleet: Fleet) -> float:
    """A new ROOT, the recovery slot left behind; the seconds until every worker holds it."""
    with fleet.first.admin() as admin:
        slots = {one["kind"]: one["slot_id"] for one in admin.get("vault/slots").json()["results"]}
    began = time.monotonic()
    fleet.ask_vault(
        "POST",
        "/rotate-root",
        {"secrets": {slots["password"]: {"password": NEW_PASSWORD}}, "dropping": [slots["recovery"]]},
    )
    fleet.first.until(
        fleet.vault_rows,
        lambda rows: all((row["state"], row["root_version"]) == ("unlocked", 2) for row in rows),
        20,
    )
    return time.monotonic() - began


def replace_provider_key(fleet: Fleet) -> None:
    """The new key is entered before the provider takes it, and the old one refused while its overlap lasts."""
    fleet.seal(NEW_KEY, overlap=60)
    time.sleep(REST)
    accept(fleet, SEALED_KEY, NEW_KEY)
    time.sleep(REST)
    accept(fleet, NEW_KEY)


def accept(fleet: Fleet, *keys: str) -> None:
    """The provider takes these keys from now on."""
    assert httpx.post(f"{fleet.sealed.origin}/_keys", json={"keys": keys}).status_code == 200


@pytest.mark.parametrize(
    ("instances", "postgres"),
    [
        pytest.param(1, False, id="sqlite-1x2"),
        pytest.param(2, True, id="postgres-2x2", marks=pytest.mark.drill),
    ],
)
def test_no_rotation_costs_a_request(tmp_path: Path, instances: int, postgres: bool) -> None:
    with a_fleet(tmp_path, instances=instances, workers=2, postgres=postgres) as fleet:
        with Load(fleet) as load:
            load.until(lambda: load.statuses("work-sealed")[200] > 20)
            rotate_password(fleet)
            time.sleep(REST)
            moved = rotate_data_key(fleet)
            time.sleep(REST)
            followed = rotate_root(fleet)
            time.sleep(REST)
            since = time.time()
            replace_provider_key(fleet)
            time.sleep(2 * REST)
        failed = [answer for answer in load.answers if answer.status != 200]
        shown = {call["headers"]["authorization"] for call in fleet.calls(fleet.sealed, since=since)}
        tell(
            f"rotations, {'postgres' if postgres else 'sqlite'} {instances}x2",
            requests=len(load.answers),
            sealed=len(load.of("work-sealed")),
            failed=len(failed),
            data_key_moved_s=round(moved, 1),
            root_followed_s=round(followed, 1),
        )
        assert not failed, failed[:3]
        assert shown == {f"…{SEALED_KEY[-4:]}", f"…{NEW_KEY[-4:]}"}
        assert fleet.calls(fleet.sealed)[-1]["status"] == 200
        # What it was all for: the new password opens what is there now, and the old one nothing.
        fleet.lock()
        fleet.ask_vault("POST", "/unlock", {"password": PASSWORD}, expect=403)
        fleet.ask_vault("POST", "/unlock", {"password": NEW_PASSWORD})
        fleet.wait_all("unlocked")
