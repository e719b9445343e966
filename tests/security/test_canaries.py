"""No secret and no content in any sink (R-42, R-43): every slot holds a canary, every provider quotes what it was sent."""

from __future__ import annotations

import pytest

from tests.security.cast import Canaries, Trap, list_models

SLOTS = (
    *Canaries().slots,
    "caller-key",
    "admin-token",
    "admin-password",
    "unknown-key",
    "mistyped-key",
    "tried-password",
    "minted-token",
    "minted-key",
)

# One installation for all of them.
pytestmark = pytest.mark.xdist_group("trap")


def holders(sinks: dict[str, str], canary: str) -> list[str]:
    """The names of the sinks that hold the canary, with what stands around it."""
    found = []
    for name, text in sinks.items():
        at = text.find(canary)
        if at >= 0:
            found.append(f"{name}: …{text[max(0, at - 80) : at]!r}")
    return found


def test_the_trap_works(trap: Trap) -> None:
    """The providers got the canaries, failed as they should, and their failures came through."""
    assert set(SLOTS) == set(trap.canaries.slots)
    assert (
        sum(trap.canaries.prompt.encode() in body for body in trap.hostile.bodies) >= len(list_models()) * 3
    )
    assert len(trap.failed_calls) > len(list_models()) * 2
    good = trap.caller_answers["/v1/chat/completions openai-hostile-good stream=True"]
    assert trap.canaries.answer in good
    sinks = trap.sinks()
    assert "quotes-500" in sinks["database"]
    assert len(sinks["log"]) > 1000
    assert any(name.startswith("file journal/") for name in sinks)
    assert "file snapshot.json" in sinks


@pytest.mark.parametrize("slot", SLOTS)
def test_no_sink_holds_a_secret(trap: Trap, slot: str) -> None:
    assert holders(trap.sinks(), trap.canaries.slots[slot]) == []


@pytest.mark.parametrize("slot", SLOTS)
def test_no_caller_is_told_a_secret(trap: Trap, slot: str) -> None:
    """A whole good answer is the provider's own text; errors are ours to tell."""
    errors = {name: text for name, text in trap.caller_answers.items() if "told-names" not in name}
    assert holders(errors, trap.canaries.slots[slot]) == []


@pytest.mark.parametrize("what", ["prompt", "answer", "caller_header"])
def test_no_sink_holds_content(trap: Trap, what: str) -> None:
    assert holders(trap.sinks(), getattr(trap.canaries, what)) == []
