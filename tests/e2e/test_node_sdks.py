"""The unmodified npm SDKs of OpenAI and Anthropic against a running installation: on their own format and across formats."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.catalogue import CHAT_MODELS, Accounts
from tests.e2e.npm import find_program, install_packages, list_unpinned
from tests.e2e.service import Service

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "node"
CALLS = 4
"""Each script makes a plain call, a streamed one, and two turns around a tool."""


@pytest.fixture(scope="session")
def packages() -> Path:
    """A folder with the scripts and `node_modules`."""
    return install_packages(SCRIPTS)


def run_script(folder: Path, script: str, model: str, variables: dict[str, str]) -> Any:
    """What a script printed."""
    done = subprocess.run(
        [find_program("node"), script, model],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_the_openai_sdk(gateway: Service, accounts: Accounts, packages: Path, model: str) -> None:
    variables = {"OPENAI_BASE_URL": f"{gateway.url}/v1", "OPENAI_API_KEY": gateway.key}
    said = run_script(packages, "openai.mjs", model, variables)
    assert said["text"]
    accounts.check(model, CALLS)


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_the_anthropic_sdk(gateway: Service, accounts: Accounts, packages: Path, model: str) -> None:
    variables = {"ANTHROPIC_BASE_URL": gateway.url, "ANTHROPIC_API_KEY": gateway.key}
    said = run_script(packages, "anthropic.mjs", model, variables)
    assert said["text"]
    accounts.check(model, CALLS)


@pytest.mark.parametrize("folder", ["node", "claude_code"])
def test_the_lock_files_pin_every_package_and_name_no_registry(folder: str) -> None:
    assert list_unpinned(SCRIPTS.parent / folder / "package-lock.json") == []
