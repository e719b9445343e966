"""The unmodified npm SDKs of OpenAI and Anthropic against a running installation: on their own format and across formats.

Their packages, pinned in `node/package-lock.json`, are installed once for each lock file into the system's temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.catalogue import CHAT_MODELS, Accounts
from tests.e2e.service import Service

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "node"
INSTALL_SECONDS = 300
MIN_NODE = 20
CALLS = 4
"""Each script makes a plain call, a streamed one, and two turns around a tool."""


def find_program(name: str) -> str:
    """Where a program is. Fails, since a client that nobody tried must not look like one that works."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(
            f"{name} is not installed; install Node.js {MIN_NODE} or newer, which brings node and npm"
        )
    return found


@pytest.fixture(scope="session")
def packages() -> Path:
    """A folder with the scripts and `node_modules`."""
    lock = (SCRIPTS / "package-lock.json").read_bytes()
    folder = (
        Path(tempfile.gettempdir()) / f"tokenhub-node-{os.getuid()}-{hashlib.sha256(lock).hexdigest()[:16]}"
    )
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SCRIPTS / name, folder)
        done = subprocess.run(
            [find_program("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
        assert done.returncode == 0, f"npm install failed:\n{done.stdout}{done.stderr}"
        (folder / "installed").touch()
    for script in SCRIPTS.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


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


def test_the_lock_file_names_no_registry() -> None:
    packages = json.loads((SCRIPTS / "package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert [name for name, package in packages.items() if name and "integrity" not in package] == []
