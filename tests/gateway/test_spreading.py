"""What the drills of `benchmarks` show at length, in small: faulty targets, prompt caches, and what makes a conversation one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.affinity import run as run_sessions
from benchmarks.faults import DRILLS, Fault, run_drill
from gateway.features import name_conversation


@pytest.mark.parametrize("drill", [DRILLS[0], *DRILLS[4:8]], ids=lambda drill: drill.name)
async def test_one_faulty_target_of_three_fails_no_request(tmp_path: Path, drill: Fault) -> None:
    seen = await run_drill(drill, tmp_path, rate=40.0, steady=0.5, faulty=1.0, back=6.0)
    assert seen.failed == seen.broken == 0
    assert seen.calls <= 1.1 * seen.requests
    # A credential that was refused rests longer than this test lasts.
    assert seen.back_after is not None or drill.fault == "401"


@pytest.mark.parametrize("places", ["endpoints", "providers"])
async def test_sessions_over_three_places_find_their_cache_as_if_it_were_one(
    tmp_path: Path, places: str
) -> None:
    alone, _, failed = await run_sessions("one", 30, 4, tmp_path / "one")
    assert (failed, alone > 0.5) == (0, True)
    share, by_place, failed = await run_sessions(places, 30, 4, tmp_path / places)
    assert failed == 0
    assert share >= 0.95 * alone
    assert len(by_place) == 3
    assert min(by_place.values()) >= 4


def a_turn(first: Any, *more: dict[str, Any], system: Any = "Be kind.") -> dict[str, Any]:
    return {"system": system, "messages": [{"role": "user", "content": first}, *more]}


def test_marks_for_the_cache_and_ways_of_writing_make_no_other_conversation() -> None:
    plain = name_conversation(a_turn("hi"))
    marked = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    later = ({"role": "assistant", "content": "Hello."}, {"role": "user", "content": "go on"})
    counted = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=0f3a1"},
        {"type": "text", "text": "Be kind."},
    ]
    assert name_conversation(a_turn(marked)) == plain
    assert name_conversation(a_turn(marked, *later, system=counted)) == plain
    assert name_conversation(a_turn("hello")) != plain
    assert name_conversation(a_turn("hi", system="Be brief.")) != plain
    assert name_conversation({"messages": []}) == ""
    assert name_conversation({"messages": ["odd", None, {"role": "user"}]}) != plain
    image = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
    other = [{"type": "image_url", "image_url": {"url": "https://example.com/b.png"}}]
    assert name_conversation(a_turn(image)) != name_conversation(a_turn(other))
