"""The image: its instructions, and its own commands run in a folder that holds only what is copied into it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.server.raw_http import free_port, wait_until

NOT_SHIPPED = {"tests", "benchmarks", "docs", "k8s", ".ci", ".github"}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a Dockerfile with its continuation lines joined."""

    name: str
    text: str


def read_instructions(repository: Path) -> list[Instruction]:
    """The Dockerfile's instructions in their order."""
    text = re.sub(r"\\\n\s*", "", (repository / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Instruction(*line.split(None, 1)) for line in lines]


def last_stage(repository: Path) -> list[Instruction]:
    """The instructions of the image itself."""
    instructions = read_instructions(repository)
    start = max(index for index, item in enumerate(instructions) if item.name == "FROM")
    return instructions[start:]


def copies(instructions: list[Instruction]) -> Iterator[tuple[str, str]]:
    """(source, destination) of what comes from the repository."""
    for item in instructions:
        if item.name == "COPY" and "--from" not in item.text:
            *sources, destination = shlex.split(item.text)
            yield from ((source, destination) for source in sources)


def test_every_copied_source_exists_and_is_not_ignored(repository: Path) -> None:
    ignored = [
        line.rstrip("/")
        for line in (repository / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    for source, _ in copies(read_instructions(repository)):
        assert (repository / source).exists(), source
        assert not [pattern for pattern in ignored if fnmatch(source, pattern)], source


def test_every_package_is_in_the_image(repository: Path) -> None:
    copied = {source for source, _ in copies(last_stage(repository))}
    packages = {path.parent.name for path in repository.glob("*/__init__.py")} - NOT_SHIPPED
    assert packages <= copied


def test_the_image_runs_as_a_user_without_rights_and_installs_by_hash(repository: Path) -> None:
    stage = last_stage(repository)
    users = [item.text for item in stage if item.name == "USER"]
    assert users == ["10001:10001"]
    after = stage[[item.name for item in stage].index("USER") :]
    assert {item.name for item in after} <= {
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    installs = [item.text for item in read_instructions(repository) if "pip install" in item.text]
    assert installs
    assert all("--require-hashes" in text for text in installs)


def test_no_secret_is_baked_in(repository: Path) -> None:
    for item in read_instructions(repository):
        if item.name in {"ENV", "ARG"}:
            assert not re.search(r"(SECRET|PASSWORD|PEPPER|TOKEN|_KEY)=", item.text), item.text


def _environment(stage: list[Instruction], folder: Path) -> dict[str, str]:
    """The image's ENV, with its folders moved below `folder` and the test's interpreter first."""
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for item in stage:
        if item.name == "ENV":
            for name, value in (pair.split("=", 1) for pair in shlex.split(item.text)):
                if name != "PATH":
                    environment[name] = value.replace("/app", str(folder / "app")).replace(
                        "/data", str(folder / "data")
                    )
    return environment


@pytest.fixture
def image(repository: Path, tmp_path: Path) -> Path:
    """A folder as the image's: `app` with what is copied, built by the image's own RUN of collectstatic."""
    app = tmp_path / "app"
    app.mkdir()
    for source, destination in copies(last_stage(repository)):
        target = app / destination.removeprefix("./")
        if (repository / source).is_dir():
            shutil.copytree(repository / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(repository / source, target)
    (app / "config" / "config.yaml").unlink(missing_ok=True)
    (build,) = [
        item.text for item in last_stage(repository) if item.name == "RUN" and "collectstatic" in item.text
    ]
    moved = build.replace("/app", str(app)).replace("/tmp/build", str(tmp_path / "build"))
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(
        ["/bin/sh", "-euc", moved], cwd=app, env=environment, check=True, capture_output=True, timeout=300
    )
    return tmp_path


def test_the_images_own_commands_serve_answer_their_health_check_and_end_cleanly(
    repository: Path, image: Path
) -> None:
    stage = last_stage(repository)
    written_before = {path for path in (image / "app").rglob("*") if "__pycache__" not in path.parts}
    entrypoint = json.loads(next(item.text for item in stage if item.name == "ENTRYPOINT"))
    command = json.loads(next(item.text for item in stage if item.name == "CMD"))
    check = json.loads(next(item.text for item in stage if item.name == "HEALTHCHECK").partition("CMD ")[2])
    port = free_port()
    environment = {
        **_environment(stage, image),
        "TOKENHUB_PORT": str(port),
        "TOKENHUB_SIMULATED_PROVIDER": "true",
    }
    environment |= {"TOKENHUB_HOST": "127.0.0.1", "TOKENHUB_LOG_LEVEL": "warning"}
    with (image / "log").open("wb") as log:
        server = subprocess.Popen(
            [*entrypoint, *command], cwd=image / "app", env=environment, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: _is_healthy(port) or server.poll() is not None, 60, "the server answers")
        assert server.poll() is None, (image / "log").read_text()
        subprocess.run(check, cwd=image / "app", env=environment, check=True, timeout=60)
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/admin/login/", timeout=20).read().decode()
        asset = re.search(r'"(/static/[^"]+\.[0-9a-f]{12}\.(?:css|js))"', page)
        assert asset is not None, "the page refers to no collected file"
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}{asset[1]}", timeout=20).status == 200
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=60)
    assert code == 0, (image / "log").read_text()
    written = {path for path in (image / "app").rglob("*") if "__pycache__" not in path.parts}
    assert written == written_before, "the image's own folder must stay as it was: it is read-only"
    failed = subprocess.run(check, cwd=image / "app", env=environment, capture_output=True, timeout=60)
    assert failed.returncode == 1


def _is_healthy(port: int) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).status == 200)
    except OSError:
        return False
