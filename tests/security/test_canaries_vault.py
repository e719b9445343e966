"""Nothing of the vault, of people's secrets or of the settings in any sink, whatever URL, command or fault it goes through.

`pytest tests/security/test_canaries_vault.py -s` prints how much was searched. `test_canaries.py` is the data plane's.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.console.routes import list_routes
from tests.security.all_commands import COMMANDS
from tests.security.hostile import HostileProvider
from tests.security.vault_trap import LEFT_OUT, VaultTrap, list_disguises, make_vault_service

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vault-trap")]


@pytest.fixture(scope="module")
def sprung(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultTrap]:
    """The trap after everything has been driven through it."""
    with HostileProvider("a good answer") as hostile:
        service, canaries = make_vault_service(tmp_path_factory.mktemp("vault-trap"), hostile)
        with service:
            trap = VaultTrap(service, hostile, canaries)
            trap.spring()
            yield trap


def test_the_trap_works(sprung: VaultTrap) -> None:
    """The secrets were used: the vault opened, providers got its keys, pages failed and showed their reports."""
    assert any(sprung.canaries["sealed-openai"] in key for key in sprung.hostile.keys)
    assert any(sprung.canaries["sealed-anthropic"] in key for key in sprung.hostile.keys)
    walked = [name for name in sprung.answers if name.startswith("session GET ")]
    assert len(walked) == len(set(list_routes()) - set(LEFT_OUT))
    assert {200, 302, 400, 401, 403, 404, 405, 500} <= set(sprung.statuses)
    assert sprung.statuses.count(500) > 20
    assert sprung.reports > 20
    assert "Traceback" in sprung.sinks()["log"]
    assert len(sprung.sinks()["database"]) > 100_000
    assert len(sprung.canaries) > 30
    run, away = sprung.commands, sprung.commands_away
    assert set(run) == set(away) == set(COMMANDS)
    assert "System check identified" in run["check"]
    assert "Traceback" in away["vault status"]
    assert "Traceback" in away["audit verify"]


def test_the_search_finds_a_canary_in_each_disguise() -> None:
    value = "canaryé+7c3f-0123456789"
    for name, form in list_disguises(value).items():
        assert form, name
    assert len(set(list_disguises(value).values())) > 9


def test_no_sink_holds_a_secret_in_any_disguise(sprung: VaultTrap) -> None:
    sinks = sprung.sinks()
    # Pages repeat each other: each distinct line is searched once, and no canary has a line break in it.
    places = {line: name for name, text in sinks.items() for line in text.split("\n")}
    text = "\n".join(places)
    hits, searched = [], 0
    for slot, value in sprung.canaries.items():
        for disguise, form in list_disguises(value).items():
            assert "\n" not in form
            searched += 1
            at = text.find(form)
            if at >= 0:
                line = text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0]
                hits.append(f"{slot} as {disguise} in {places[line]}: …{text[max(0, at - 60) : at]!r}")
    size = sum(map(len, sinks.values()))
    print(
        f"{len(sprung.canaries)} canaries, {searched} disguises, {len(sinks)} places, {size:,} characters: {len(hits)} hits"
    )
    assert "\n".join(hits) == ""
