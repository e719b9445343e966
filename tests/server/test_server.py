"""The production server: bounded heads, a clean end, workers that are replaced. Real processes and sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.raw_http import ask, free_port, read_all, wait_until


class RunningServer:
    """One server process with its port and the file in which its application takes notes."""

    def __init__(self, folder: Path, repository: Path, **settings: str) -> None:
        self.port = free_port()
        self.notes = folder / "notes"
        self.notes.touch()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENHUB_")}
        environment |= {
            "NOTES": str(self.notes),
            "PYTHONPATH": str(repository),
            "TOKENHUB_PORT": str(self.port),
            "TOKENHUB_DATA_DIR": str(folder),
            **{f"TOKENHUB_{name}": value for name, value in settings.items()},
        }
        self.log = (folder / "log").open("wb")
        command = [sys.executable, "-m", "tests.server.run_server"]
        self.process = subprocess.Popen(command, env=environment, cwd=folder, stderr=self.log)
        wait_until(self._answers, 30, "the server answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, "the server ended while starting"
        try:
            return ask(self.port, "/").startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def connect(self) -> socket.socket:
        """A new connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def stop(self) -> None:
        """Ends whatever is left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=30)
        self.log.close()


@pytest.fixture
def start(tmp_path: Path, repository: Path) -> Iterator[Callable[..., RunningServer]]:
    """Starts a server with settings; ends it after the test."""
    started: list[RunningServer] = []

    def start_one(**settings: str) -> RunningServer:
        started.append(RunningServer(tmp_path, repository, **settings))
        return started[-1]

    yield start_one
    for server in started:
        server.stop()


def test_a_slow_head_is_closed_with_408(start: Any) -> None:
    server = start(HEAD_TIMEOUT="0.4")
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "request_timeout"' in answer


def test_a_dripping_head_is_closed_though_bytes_keep_coming(start: Any) -> None:
    server = start(HEAD_TIMEOUT="0.5")
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: ")
        connection.settimeout(0.05)
        for _ in range(200):
            try:
                connection.sendall(b"a")
                if (answer := connection.recv(4096)) is not None:
                    break
            except TimeoutError:
                continue
        else:
            pytest.fail("the server kept a head open that never ended")
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_silent_connection_is_closed_without_an_answer(start: Any) -> None:
    server = start(HEAD_TIMEOUT="0.3")
    with server.connect() as connection:
        assert read_all(connection) == b""


def test_empty_lines_between_requests_do_not_keep_a_connection_open(start: Any) -> None:
    server = start(HEAD_TIMEOUT="0.4")
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(b"\r\n")
        assert b"HTTP/1.1 200" not in read_all(connection)


def test_a_body_that_goes_on_after_its_answer_is_cut_off(start: Any) -> None:
    server = start(HEAD_TIMEOUT="0.4")
    with server.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nabc")
        assert read_all(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("ended", [True, False], ids=["whole", "unfinished"])
def test_a_long_head_is_refused_with_431(start: Any, ended: bool) -> None:
    server = start(MAX_HEAD_BYTES="4096")
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 5000)
        if ended:
            connection.sendall(b"\r\n\r\n")
        else:
            connection.sendall(b"a" * 5000)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"4096" in answer


def test_a_head_within_the_limit_is_served_on_a_kept_connection(start: Any) -> None:
    server = start(MAX_HEAD_BYTES="4096", HEAD_TIMEOUT="5")
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\nx: " + b"a" * 3000)
            connection.sendall(b"\r\n\r\n" + b"b" * 9000)
            answer = b""
            while not answer.endswith(b"0\r\n\r\n") and (part := connection.recv(4096)):
                answer += part
            assert answer.startswith(b"HTTP/1.1 200")


def test_an_answer_longer_than_the_head_timeout_is_not_cut(start: Any) -> None:
    server = start(HEAD_TIMEOUT="0.2")
    assert b"first " in (answer := ask(server.port, "/slow"))
    assert b"ok" in answer


def test_what_is_no_http_is_a_400_in_json(start: Any) -> None:
    server = start()
    with server.connect() as connection:
        connection.sendall(b"HELLO\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code": "invalid_request"' in answer


def test_the_server_does_not_say_what_it_runs_on(start: Any) -> None:
    assert b"server:" not in ask(start().port, "/").lower()


def test_forwarded_headers_are_believed_from_trusted_proxies_only(start: Any, tmp_path: Path) -> None:
    header = b"x-forwarded-proto: https\r\n"
    assert ask(start().port, "/scheme", header).endswith(b"http\r\n0\r\n\r\n")
    assert ask(start(TRUSTED_PROXIES="127.0.0.1").port, "/scheme", header).endswith(b"https\r\n0\r\n\r\n")


def test_sigterm_lets_a_running_answer_end_and_exits_with_zero(start: Any) -> None:
    server = start()
    with server.connect() as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = connection.recv(4096)
        assert b"HTTP/1.1 200" in answer
        server.process.send_signal(signal.SIGTERM)
        answer += read_all(connection)
    assert b"ok" in answer
    assert answer.endswith(b"0\r\n\r\n")
    assert server.process.wait(timeout=20) == 0
    assert "lifespan.shutdown" in server.notes.read_text()


def test_sigterm_refuses_new_connections(start: Any) -> None:
    server = start()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=20) == 0
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_a_dead_worker_is_replaced_and_sigterm_ends_all(start: Any) -> None:
    server = start(WORKERS="2")
    noted = server.notes.read_text

    def starts() -> list[int]:
        return [int(line.split()[1]) for line in noted().splitlines() if line.startswith("lifespan.startup")]

    wait_until(lambda: len(starts()) == 2, 30, "both workers started")
    first = starts()
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: len(starts()) == 3, 30, "the dead worker is replaced")
    assert ask(server.port, "/").startswith(b"HTTP/1.1 200")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=30) == 0
    assert noted().count("lifespan.shutdown") == 2
    for pid in starts():
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 10, "the worker is gone")


def test_workers_end_when_their_supervisor_is_killed(start: Any) -> None:
    server = start(WORKERS="2")
    wait_until(lambda: server.notes.read_text().count("lifespan.startup") == 2, 30, "both workers started")
    server.process.kill()
    server.process.wait(timeout=10)
    wait_until(lambda: server.notes.read_text().count("lifespan.shutdown") == 2, 30, "both workers ended")
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_an_application_that_does_not_start_ends_the_server_with_an_error(
    tmp_path: Path, repository: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository), "NOTES": str(tmp_path / "absent" / "notes")}
    environment["TOKENHUB_PORT"] = str(free_port())
    command = [sys.executable, "-m", "tests.server.run_server"]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 3, (done.stderr, time.monotonic() - started)
