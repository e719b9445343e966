"""What counts as a response, where it ends, and whether its connection may be used again."""

import asyncio
from dataclasses import dataclass

import pytest

from gateway.upstream.seam import ProtocolViolation, UpstreamBroken, UpstreamFault
from tests.fakes.raw_server import RawConnection, serve
from tests.gateway.upstream.calls import OK, Client, MakeClient, answering, send, whole

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

Outcome = tuple[int, bytes] | type[UpstreamFault]

LENIENT = "aiohttp switches on llhttp's leniencies for responses: headers, bare LF, spaces after a chunk size"
TOO_LATE = "our rules see a head only after aiohttp has taken the connection of a complete response back"
NO_SUM = "aiohttp bounds a line and the number of headers, neither the whole head nor the number of 1xx"


@dataclass(frozen=True, slots=True)
class Case:
    """With aiohttp the outcome, or that the connection is closed after a fault, differs only where `because` is set."""

    name: str
    answer: bytes
    outcome: Outcome
    aiohttp: Outcome | None = None
    because: str = ""

    def expected(self, kind: str) -> Outcome:
        return self.aiohttp if kind == "aiohttp" and self.aiohttp is not None else self.outcome


GOOD = [
    Case("sized", HEAD + b"Content-Length: 3\r\n\r\nabc", (200, b"abc")),
    Case("chunked", CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", (200, b"abcde")),
    Case("chunk extensions", CHUNKED + b'3;a=b;c="d"\r\nabc\r\n0;last\r\n\r\n', (200, b"abc")),
    Case("trailers", CHUNKED + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n", (200, b"abc")),
    Case("upper-case coding", HEAD + b"Transfer-Encoding: Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", (200, b"a")),
    Case("empty", HEAD + b"Content-Length: 0\r\n\r\n", (200, b"")),
    Case("no reason phrase", b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", (200, b"a")),
    Case("space after length", HEAD + b"Content-Length: 1 \r\n\r\na", (200, b"a")),
    Case("204", b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
    Case("304 with length", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", (304, b"")),
    Case("529", b"HTTP/1.1 529 Overloaded\r\nContent-Length: 1\r\n\r\n!", (529, b"!")),
    Case(
        "redirect is not followed",
        b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",
        (302, b""),
    ),
    Case("100 first", b"HTTP/1.1 100 Continue\r\n\r\n" + OK, (200, b"ok")),
    Case("103 twice", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2 + OK, (200, b"ok")),
    Case("100 with a length", b"HTTP/1.1 100 Continue\r\nContent-Length: 9\r\n\r\n" + OK, (200, b"ok")),
    Case(
        "gzip stays packed",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08",
        (200, b"\x1f\x8b\x08"),
    ),
]

ENDED_BY_EOF = [
    Case("close-delimited", HEAD + b"Connection: close\r\n\r\nabc", (200, b"abc")),
    Case("HTTP/1.0", b"HTTP/1.0 200 OK\r\n\r\nabc", (200, b"abc")),
    Case("empty close-delimited", HEAD + b"\r\n", (200, b"")),
    Case("sized body cut", HEAD + b"Content-Length: 9\r\n\r\nabc", UpstreamBroken),
    Case("chunked body cut in a chunk", CHUNKED + b"9\r\nabc", UpstreamBroken),
    Case("chunked body cut between chunks", CHUNKED + b"3\r\nabc\r\n", UpstreamBroken),
    Case("chunked body cut before its last line", CHUNKED + b"3\r\nabc\r\n0\r\n", UpstreamBroken),
    Case("head cut", HEAD + b"Content-Le", UpstreamBroken),
    Case("nothing at all", b"", UpstreamBroken),
    Case("only a 100", b"HTTP/1.1 100 Continue\r\n\r\n", UpstreamBroken),
]

BAD = [
    Case("two lengths", HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", ProtocolViolation),
    Case(
        "the same length twice",
        HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        ProtocolViolation,
    ),
    Case("a list of lengths", HEAD + b"Content-Length: 3, 3\r\n\r\nabc", ProtocolViolation),
    Case("a signed length", HEAD + b"Content-Length: +3\r\n\r\nabc", ProtocolViolation),
    Case("an empty length", HEAD + b"Content-Length: \r\n\r\nabc", ProtocolViolation),
    Case("an endless length", HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", ProtocolViolation),
    Case(
        "length, then chunked",
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ProtocolViolation,
    ),
    Case(
        "chunked, then length",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        ProtocolViolation,
    ),
    Case(
        "gzip, chunked",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ProtocolViolation,
        ProtocolViolation,
        TOO_LATE,
    ),
    Case(
        "chunked, identity",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ProtocolViolation,
    ),
    Case(
        "chunked twice",
        HEAD + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n",
        ProtocolViolation,
        ProtocolViolation,
        TOO_LATE,
    ),
    Case(
        "chunked HTTP/1.0",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ProtocolViolation,
    ),
    Case("chunk size no number", CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n", ProtocolViolation),
    Case("chunk size negative", CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", ProtocolViolation),
    Case("chunk size overflow", CHUNKED + b"fffffffffffffffff\r\nabc", ProtocolViolation),
    Case("chunk longer than its size", CHUNKED + b"3\r\nabcX\r\n0\r\n\r\n", ProtocolViolation),
    Case(
        "space in chunk size", CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", ProtocolViolation, (200, b"abc"), LENIENT
    ),
    Case("chunks with bare LF", CHUNKED + b"3\nabc\n0\n\n", ProtocolViolation),
    Case("trailer without colon", CHUNKED + b"3\r\nabc\r\n0\r\nGARBAGE\r\n\r\n", ProtocolViolation),
    Case("trailer with framing", CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n", ProtocolViolation),
    Case(
        "head with bare LF", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", ProtocolViolation, (200, b""), LENIENT
    ),
    Case("two-digit status", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("four-digit status", b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case(
        "status 099",
        b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
        ProtocolViolation,
        ProtocolViolation,
        TOO_LATE,
    ),
    Case(
        "status 999",
        b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
        ProtocolViolation,
        ProtocolViolation,
        TOO_LATE,
    ),
    Case("HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("HTTP/0.9", b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("RTSP", b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", ProtocolViolation, (200, b""), LENIENT),
    Case(
        "blank line first",
        b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ProtocolViolation,
        (200, b""),
        LENIENT,
    ),
    Case("TLS bytes", b"\x15\x03\x01\x00\x02\x02\x46", ProtocolViolation),
    Case(
        "folded header",
        HEAD + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        ProtocolViolation,
        (200, b""),
        LENIENT,
    ),
    Case("space before colon", HEAD + b"X : a\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("NUL in a value", HEAD + b"X: a\0b\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("CR in a value", HEAD + b"X: a\rb\r\nContent-Length: 0\r\n\r\n", ProtocolViolation),
    Case("101", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", ProtocolViolation),
    Case(
        "endless 1xx", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9 + OK, ProtocolViolation, (200, b"ok"), NO_SUM
    ),
    Case("head too large", HEAD + b"X: %s\r\n\r\n" % (b"x" * 70_000), ProtocolViolation),
    Case(
        "head too long in sum",
        HEAD + b"X: %s\r\n" % (b"x" * 900) * 80 + b"Content-Length: 0\r\n\r\n",
        ProtocolViolation,
        (200, b""),
        NO_SUM,
    ),
    Case(
        "1xx too long in sum",
        b"HTTP/1.1 103 E\r\nX: %s\r\n\r\n" % (b"x" * 20_000) * 4 + OK,
        ProtocolViolation,
        (200, b"ok"),
        NO_SUM,
    ),
    Case("endless trailer", CHUNKED + b"3\r\nabc\r\n0\r\nX: " + b"x" * 1_000_000, ProtocolViolation),
]


async def outcome_of(client: Client, server: object) -> Outcome:
    try:
        return await whole(client, server)  # type: ignore[arg-type]
    except UpstreamFault as fault:
        return type(fault)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
async def test_a_well_framed_response_is_read_and_its_connection_used_again(
    client: Client, kind: str, case: Case
) -> None:
    async with serve(answering(case.answer)) as server:
        assert await outcome_of(client, server) == case.expected(kind)
        assert await outcome_of(client, server) == case.expected(kind)
        assert len(server.connections) == 1


@pytest.mark.parametrize("case", ENDED_BY_EOF, ids=lambda case: case.name)
async def test_the_end_of_the_connection_ends_only_a_body_without_a_length(
    client: Client, kind: str, case: Case
) -> None:
    async with serve(answering(case.answer, close=True)) as server:
        assert await outcome_of(client, server) == case.expected(kind)
        await server.all_closed()
        assert client.stats() == {}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
async def test_a_response_that_cannot_be_framed_is_refused_and_its_connection_closed(
    client: Client, kind: str, case: Case
) -> None:
    async with serve(answering(case.answer)) as server:
        assert await outcome_of(client, server) == case.expected(kind)
        if kind == "http1" or not case.because:
            await server.all_closed()
            assert client.stats() == {}


@pytest.mark.parametrize(
    "case", [case for case in GOOD if len(case.answer) < 200], ids=lambda case: case.name
)
async def test_bytes_that_come_one_at_a_time_mean_the_same(client: Client, kind: str, case: Case) -> None:
    async def drip(connection: RawConnection) -> None:
        await connection.request()
        for value in case.answer:
            connection.send(bytes((value,)))
            await asyncio.sleep(0)

    async with serve(drip) as server:
        assert await outcome_of(client, server) == case.expected(kind)


async def test_a_head_request_has_no_body_whatever_its_head_says(client: Client) -> None:
    async with serve(answering(HEAD + b"Content-Length: 500\r\n\r\n")) as server:
        response = await send(client, server, method=b"HEAD", body=b"")
        assert (response.status, await response.read(5)) == (200, b"")
        response = await send(client, server, method=b"HEAD", body=b"")
        assert (response.status, await response.read(5)) == (200, b"")


@pytest.mark.parametrize(
    ("garbage", "aiohttp_connections"),
    [
        (OK, 2),
        # aiohttp drops a half head that came too early and goes on with the connection.
        (b"HTTP/1.1 200 OK\r\n", 1),
    ],
    ids=["a second response", "half a head"],
)
async def test_bytes_after_a_response_never_reach_the_next_request(
    client: Client, kind: str, garbage: bytes, aiohttp_connections: int
) -> None:
    async with serve(answering(HEAD + b"Content-Length: 5\r\n\r\nfirst" + garbage)) as server:
        assert await whole(client, server) == (200, b"first")
        assert await whole(client, server) == (200, b"first")
        assert len(server.connections) == (2 if kind == "http1" else aiohttp_connections)


async def test_letters_after_a_response_spoil_its_connection(client: Client, kind: str) -> None:
    async with serve(answering(HEAD + b"Content-Length: 5\r\n\r\nfirstxyz")) as server:
        # aiohttp throws the complete response away with them; our own client delivers it.
        expected = (200, b"first") if kind == "http1" else ProtocolViolation
        assert await outcome_of(client, server) == expected
        assert await outcome_of(client, server) == expected
        assert len(server.connections) == 2


async def test_a_response_that_nobody_asked_for_is_not_given_to_the_next_request(
    client: Client, kind: str
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(HEAD + b"Content-Length: 5\r\n\r\nfirst")
        await poison.wait()
        connection.send(HEAD + b"Content-Length: 8\r\n\r\npoisoned")
        await connection.peer_gone.wait()

    poison = asyncio.Event()
    async with serve(script) as server:
        assert await whole(client, server) == (200, b"first")
        poison.set()
        if kind == "aiohttp":
            # aiohttp 3.14 parses what came while the connection rested as the next request's response. Nothing in
            # its public interface forbids it: one of the reasons why the gateway has a client of its own.
            await asyncio.sleep(0.05)
            assert await whole(client, server) == (200, b"poisoned")
            return
        await server.all_closed()
        assert client.stats() == {}
        assert await whole(client, server) == (200, b"first")
        assert len(server.connections) == 2


async def test_header_names_come_in_lower_case_and_values_as_sent(client: Client) -> None:
    answer = (
        HEAD
        + b"X-Request-Id: AbC\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX: \xe9 \t\r\nContent-Length: 0\r\n\r\n"
    )
    async with serve(answering(answer)) as server:
        response = await send(client, server)
        assert response.headers == (
            (b"x-request-id", b"AbC"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
            (b"x", b"\xe9"),
            (b"content-length", b"0"),
        )


async def test_a_head_limit_is_exact(make_client: MakeClient, kind: str) -> None:
    head = HEAD + b"Content-Length: 100000\r\n\r\n"
    async with serve(answering(head + b"x" * 100_000)) as server:
        assert await whole(make_client(max_head_bytes=len(head)), server) == (200, b"x" * 100_000)
        if kind == "aiohttp":
            return  # its limit is one line's, not the head's: "head too long in sum" covers what it does refuse
        with pytest.raises(ProtocolViolation, match="head too large"):
            await whole(make_client(max_head_bytes=len(head) - 1), server)


async def test_a_body_in_one_segment_with_its_head_needs_no_wait(client: Client) -> None:
    async with serve(answering(OK)) as server:
        response = await send(client, server)
        assert response.read_nowait() == b"ok"
        assert response.read_nowait() == b""
        assert await response.read(0.0) == b""


async def test_reads_coalesce_what_has_arrived(client: Client) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(CHUNKED)
        await first_read.wait()
        for word in (b"a", b"b", b"c"):
            connection.send(b"1\r\n%s\r\n" % word)
        connection.send(b"0\r\n\r\n")
        await connection.peer_gone.wait()

    first_read = asyncio.Event()
    async with serve(script) as server:
        response = await send(client, server)
        assert response.read_nowait() is None
        first_read.set()
        received = b""
        while len(received) < 3:
            received += await response.read(5)
        assert received == b"abc"
        assert await response.read(5) == b""
