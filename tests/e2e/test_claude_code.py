"""One turn of the unmodified Claude Code: large bodies, beta headers, thinking, tools, both key headers.

Not in the default run, since its package is large: `pytest -m claude_code`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.catalogue import VIA_ANTHROPIC, VIA_OPENAI, Accounts
from tests.e2e.npm import find_program, install_packages
from tests.e2e.service import Service

pytestmark = [pytest.mark.claude_code, pytest.mark.slow]

MODELS = ("sim-large", VIA_OPENAI, VIA_ANTHROPIC)
LAUNCHER = "node_modules/@anthropic-ai/claude-code/cli-wrapper.cjs"
QUIET = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_TELEMETRY": "1",
}


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder that Claude Code is installed in."""
    return install_packages(Path(__file__).parent / "claude_code")


def ask(packages: Path, home: Path, gateway: Service, prompt: str, model: str, variable: str) -> Any:
    """The outcome that `claude -p` prints. Its home is fresh, so that no login and no setting is found."""
    variables = {"ANTHROPIC_BASE_URL": gateway.url, variable: gateway.key, "HOME": str(home), **QUIET}
    done = subprocess.run(
        [
            find_program("node"),
            str(packages / LAUNCHER),
            "-p",
            prompt,
            "--output-format",
            "json",
            "--model",
            model,
        ],
        cwd=home,
        env={"PATH": os.environ["PATH"], **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
@pytest.mark.parametrize("model", MODELS)
def test_one_turn(
    gateway: Service, accounts: Accounts, packages: Path, tmp_path: Path, model: str, variable: str
) -> None:
    outcome = ask(packages, tmp_path, gateway, "say hi", model, variable)
    assert (outcome["subtype"], outcome["is_error"], outcome["stop_reason"]) == ("success", False, "end_turn")
    assert outcome["result"]
    # It tries its newest features first and does without those that a vendor refuses: a refused call is no failure here.
    rows = accounts.rows(1)
    assert {row["model"] for row in rows} == {model}
    last = rows[-1]
    assert (last["outcome"], last["streamed"]) == ("completed", 1), last
    assert last["output"] + last["reasoning"] == outcome["usage"]["output_tokens"]
    assert last["cost_nanos"] > 0
    assert all(row["status"] == 400 for row in rows[:-1]), rows


def test_a_tool_that_it_runs_itself(
    gateway: Service, accounts: Accounts, packages: Path, tmp_path: Path
) -> None:
    """The simulated model calls the tool that the prompt names, with made-up arguments; Claude Code sends back what came of it."""
    outcome = ask(packages, tmp_path, gateway, "use Read", "sim-large", "ANTHROPIC_API_KEY")
    assert outcome["subtype"] == "success"
    assert outcome["num_turns"] > 1
    assert len([row for row in accounts.rows(2) if row["outcome"] == "completed"]) >= 2


def test_the_root_answers_its_probe(gateway: Service) -> None:
    assert httpx.head(f"{gateway.url}/").status_code < 400
