"""The answers of the production server over real sockets: what leaves when, framing, keep-alive, faults of applications."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvloop
from uvicorn.server import Server

from tests.server.raw_http import read_all
from tokenhub.http_protocol import ServerConfig

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
KEEP_ALIVE_SECONDS = 1


def start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def answer_whole(send: Send) -> None:
    await send(start(200, (b"Content-Length", b"5"), (b"X-Name", b"value")))
    await send(body(b"whole"))


async def answer_head_alone(send: Send) -> None:
    await send(start(200, (b"content-type", b"text/event-stream")))
    await asyncio.sleep(0.6)
    await send(body(b"late"))


async def answer_in_pieces(send: Send) -> None:
    await send(start(200))
    await send(body(b"one", more=True))
    await send(body(b"", more=True))
    await send(body(b"two"))


async def answer_nothing(send: Send) -> None:
    await send(start(204))
    await send(body())


async def answer_too_much(send: Send) -> None:
    await send(start(200, (b"content-length", b"2")))
    await send(body(b"three"))


async def answer_too_little(send: Send) -> None:
    await send(start(200, (b"content-length", b"9")))
    await send(body(b"three"))


async def answer_split_header(send: Send) -> None:
    await send(start(200, (b"x-evil", b"a\r\nset-cookie: b")))
    await send(body(b"never"))


async def answer_bad_name(send: Send) -> None:
    await send(start(200, (b"x evil", b"a")))
    await send(body(b"never"))


async def answer_and_close(send: Send) -> None:
    await send(start(200, (b"content-length", b"3"), (b"connection", b"close")))
    await send(body(b"bye"))


async def break_before(send: Send) -> None:
    raise RuntimeError("on purpose")


async def break_after(send: Send) -> None:
    await send(start(200))
    await send(body(b"begun", more=True))
    raise RuntimeError("on purpose")


ANSWERS: dict[str, Callable[[Send], Awaitable[None]]] = {
    f"/{answer.__name__}": answer
    for answer in (
        answer_whole,
        answer_head_alone,
        answer_in_pieces,
        answer_nothing,
        answer_too_much,
        answer_too_little,
        answer_split_header,
        answer_bad_name,
        answer_and_close,
        break_before,
        break_after,
    )
}


async def application(scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
    if scope["path"] == "/echo":
        whole, more = b"", True
        while more:
            message = await receive()
            whole, more = whole + message["body"], message["more_body"]
        await send(start(200, (b"content-length", b"%d" % len(whole))))
        await send(body(whole))
        gone = await receive()
        assert gone["type"] == "http.disconnect"
        return
    await ANSWERS[scope["path"]](send)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server in a thread, with a keep-alive of a second."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = ServerConfig(
        app=application,
        head_timeout=10,
        max_head_bytes=65536,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
    )
    server = Server(config)
    thread = threading.Thread(target=lambda: uvloop.run(server.serve(sockets=[listener])))
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def request(path: str, *, method: str = "GET", close: bool = True) -> bytes:
    ending = "connection: close\r\n" if close else ""
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\n{ending}\r\n".encode()


def ask(port: int, path: str, method: str = "GET") -> bytes:
    with connect(port) as connection:
        connection.sendall(request(path, method=method))
        return read_all(connection)


def test_a_whole_answer_is_framed_by_its_length(port: int) -> None:
    assert ask(port, "/answer_whole") == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-name: value\r\nconnection: close\r\n\r\nwhole"
    )


def test_a_head_does_not_wait_for_a_body_that_comes_later(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(request("/answer_head_alone"))
        began = time.monotonic()
        assert connection.recv(4096).endswith(b"\r\n\r\n")
        assert time.monotonic() - began < 0.5
        assert read_all(connection) == b"4\r\nlate\r\n0\r\n\r\n"


def test_pieces_are_chunks_and_an_empty_piece_is_none(port: int) -> None:
    head, _, rest = ask(port, "/answer_in_pieces").partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert rest == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


def test_no_content_has_no_framing(port: int) -> None:
    assert ask(port, "/answer_nothing") == b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


def test_head_gets_the_head_alone(port: int) -> None:
    answer = ask(port, "/answer_whole", "HEAD")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 5" in answer


def test_two_requests_in_one_segment_are_answered_in_their_order(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(request("/answer_in_pieces", close=False) + request("/answer_whole"))
        answer = read_all(connection)
    assert answer.index(b"two") < answer.index(b"whole")
    assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_a_body_in_pieces_arrives_whole(port: int) -> None:
    data = b"x" * 300_000
    with connect(port) as connection:
        connection.sendall(
            b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(data)
        )
        for begin in range(0, len(data), 50_000):
            connection.sendall(data[begin : begin + 50_000])
            time.sleep(0.01)
        assert read_all(connection).endswith(b"\r\n\r\n" + data)


def test_a_client_that_asks_first_is_told_to_continue(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(
            b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        )
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"hi")
        assert read_all(connection).endswith(b"\r\n\r\nhi")


@pytest.mark.parametrize("path", ["/break_before", "/answer_split_header", "/answer_bad_name"])
def test_an_application_that_breaks_before_its_answer_is_a_500(port: int, path: str) -> None:
    answer = ask(port, path)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in answer
    assert answer.endswith(b"Internal Server Error")


@pytest.mark.parametrize("path", ["/break_after", "/answer_too_much", "/answer_too_little"])
def test_an_answer_that_breaks_off_has_no_false_end(port: int, path: str) -> None:
    with connect(port) as connection:
        connection.sendall(request(path, close=False))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not answer.endswith(b"0\r\n\r\n")


def test_an_answer_may_close_the_connection(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(request("/answer_and_close", close=False))
        assert read_all(connection).endswith(b"bye")


def test_an_idle_connection_is_closed_a_while_after_its_last_answer(port: int) -> None:
    with connect(port) as connection:
        for _ in range(3):
            connection.sendall(request("/answer_whole", close=False))
            assert connection.recv(4096).endswith(b"whole")
            time.sleep(0.6 * KEEP_ALIVE_SECONDS)
        began = time.monotonic()
        assert connection.recv(4096) == b""
        assert 0.1 * KEEP_ALIVE_SECONDS < time.monotonic() - began < 5 * KEEP_ALIVE_SECONDS


def test_a_slow_answer_is_not_taken_for_an_idle_connection(port: int) -> None:
    with connect(port) as connection:
        for path in ("/answer_whole", "/answer_head_alone", "/answer_head_alone", "/answer_whole"):
            connection.sendall(request(path, close=False))
            answer = b""
            while not answer.endswith((b"whole", b"0\r\n\r\n")):
                answer += (piece := connection.recv(4096))
                assert piece
