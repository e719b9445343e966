"""npm packages for the tests of clients, pinned by a lock file and installed once into the system's temporary folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

INSTALL_SECONDS = 300
MIN_NODE = 20


def find_program(name: str) -> str:
    """Where a program is. Fails, since a client that nobody tried must not look like one that works."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(
            f"{name} is not installed; install Node.js {MIN_NODE} or newer, which brings node and npm"
        )
    return found


def install_packages(source: Path) -> Path:
    """A folder with `node_modules` as `source`'s lock file says, and `source`'s scripts. No package's own script runs."""
    lock = (source / "package-lock.json").read_bytes()
    digest = hashlib.sha256(lock).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"tokenhub-npm-{os.getuid()}-{digest}"
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(source / name, folder)
        done = subprocess.run(
            [find_program("npm"), "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
        assert done.returncode == 0, f"npm ci failed:\n{done.stdout}{done.stderr}"
        (folder / "installed").touch()
    assert folder.stat().st_uid == os.getuid(), f"{folder} is somebody else's"
    for script in source.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def list_unpinned(lock_file: Path) -> list[str]:
    """Packages of a lock file that name a registry, or that no digest pins."""
    packages = json.loads(lock_file.read_text())["packages"]
    return [
        name
        for name, package in packages.items()
        if name and ("resolved" in package or "integrity" not in package)
    ]
