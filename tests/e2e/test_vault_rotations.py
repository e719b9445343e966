"""Every rotation under load on a running fleet: password, data key, root, the provider's key. No request fails."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.vault_fleet import Fleet, Load, a_fleet, tell

NEW_PASSWORD = "mosaic-thimble-harbor-walnut-8"
NEW_KEY = "sk-sealed-successor-1d4b8f2c-not-a-real-key"
REST = 1.0
"""Seconds of load after each step."""

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vault-fleet")]


def rotate_password(fleet: Fleet) -> None:
    """Another password for the slot; nothing else changes."""
    passwords = {"old_password": fleet.password, "new_password": NEW_PASSWORD}
    fleet.ask_vault("POST", "/change-password", passwords)
    fleet.password = NEW_PASSWORD


def rotate_data_key(fleet: Fleet) -> float:
    """A new data key, a secret entered at once after it, and the seconds until every record is moved."""
    began = time.monotonic()
    fleet.ask_vault("POST", "/rotate-data-key")
    fleet.seal(fleet.key, overlap=60)
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
    old = fleet.key
    fleet.seal(NEW_KEY, overlap=60)
    time.sleep(REST)
    accept(fleet, old, NEW_KEY)
    time.sleep(REST)
    accept(fleet, NEW_KEY)


def accept(fleet: Fleet, *keys: str) -> None:
    """The provider takes these keys from now on."""
    assert httpx.post(f"{fleet.sealed.origin}/_keys", json={"keys": keys}).status_code == 200


def check_rotations(fleet: Fleet, name: str) -> None:
    """All of them, one after the other."""
    before = (fleet.password, fleet.key)
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
        f"rotations, {name}",
        requests=len(load.answers),
        sealed=len(load.of("work-sealed")),
        failed=len(failed),
        data_key_moved_s=round(moved, 1),
        root_followed_s=round(followed, 1),
    )
    assert not failed, failed[:3]
    assert shown == {f"…{before[1][-4:]}", f"…{NEW_KEY[-4:]}"}
    assert fleet.calls(fleet.sealed)[-1]["status"] == 200
    # What it was all for: the new password opens what is there now, and the old one nothing.
    fleet.lock()
    fleet.ask_vault("POST", "/unlock", {"password": before[0]}, expect=403)
    fleet.unlock()


def test_no_rotation_costs_a_request(sqlite_fleet: Fleet) -> None:
    sqlite_fleet.be_unlocked()
    check_rotations(sqlite_fleet, "sqlite 1x4")


@pytest.mark.drill
def test_no_rotation_costs_a_request_of_two_instances(tmp_path: Path) -> None:
    with a_fleet(tmp_path, instances=2, workers=2, postgres=True) as fleet:
        check_rotations(fleet, "postgres 2x2")
