"""What is written to a provider, what is refused before anything is written, and what errors say."""

import pytest

from gateway.upstream.seam import (
    ConnectFailed,
    ConnectTimeout,
    Origin,
    ProtocolViolation,
    ResponseTooLarge,
    UpstreamBroken,
    UpstreamFault,
    UpstreamTimeout,
)
from tests.fakes.raw_server import RawConnection, RawRequest, serve
from tests.gateway.upstream.calls import OK, Client, answering, origin_of, send, whole


def recording(into: list[RawRequest]) -> object:
    async def script(connection: RawConnection) -> None:
        while True:
            into.append(await connection.request())
            connection.send(OK)

    return script


async def test_a_request_is_written_as_given_with_the_clients_own_headers(client: Client) -> None:
    seen: list[RawRequest] = []
    async with serve(recording(seen)) as server:  # type: ignore[arg-type]
        headers = ((b"authorization", b"Bearer s3cret"), (b"X-Thing", b"one  1"), (b"X-Thing", b"two"))
        target = b"/v1/models/a%2Fb:generate?alt=sse&x=%20y"
        await whole(client, server, target=target, headers=headers, body=b'{"a":1}')
        (request,) = seen
        assert (request.method, request.target, request.body) == (b"POST", target, b'{"a":1}')
        sent = sorted((name.lower(), value) for name, value in request.headers)
        own = [
            (b"accept-encoding", b"identity"),
            (b"content-length", b"7"),
            (b"host", b"127.0.0.1:%d" % server.port),
        ]
        expected = sorted([*own, *((name.lower(), value) for name, value in headers)])
        assert sent == expected


@pytest.mark.parametrize(
    ("method", "length"), [(b"GET", None), (b"DELETE", None), (b"POST", b"0"), (b"PUT", b"0")]
)
async def test_an_empty_body_has_a_length_only_where_one_is_meant(
    client: Client, kind: str, method: bytes, length: bytes | None
) -> None:
    seen: list[RawRequest] = []
    async with serve(recording(seen)) as server:  # type: ignore[arg-type]
        await whole(client, server, method=method, body=b"", headers=())
        # Known difference, allowed by RFC 9110 8.6: aiohttp writes a zero for DELETE as well.
        expected = b"0" if kind == "aiohttp" and method == b"DELETE" else length
        assert seen[0].header(b"content-length") == expected
        assert seen[0].header(b"content-type") is None
        assert seen[0].header(b"user-agent") is None


@pytest.mark.parametrize(
    "headers",
    [
        ((b"x", b"a\r\nEvil: 1"),),
        ((b"x", b"a\nb"),),
        ((b"x", b"a\rb"),),
        ((b"x", b"a\0b"),),
        ((b"x\r\ny", b"a"),),
        ((b"x y", b"a"),),
        ((b"x:", b"a"),),
        ((b"", b"a"),),
        ((b"Content-Length", b"3"),),
        ((b"transfer-encoding", b"chunked"),),
        ((b"HOST", b"other"),),
        ((b"Connection", b"close"),),
        ((b"accept-encoding", b"gzip"),),
        ((b"expect", b"100-continue"),),
        ((b"upgrade", b"h2c"),),
    ],
    ids=repr,
)
async def test_headers_that_could_change_the_framing_are_refused(
    client: Client, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    async with serve(answering(OK)) as server:
        with pytest.raises(ValueError, match="header"):
            await send(client, server, headers=headers)
        assert server.connections == []
        assert client.stats() == {}


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"v1",
        b"/a b",
        b"/a\r\nX: y",
        b"/a\0",
        b"/a#b",
        b"/caf\xe9",
        b"http://other/",
        b"/a HTTP/1.1\r\n\r\n",
    ],
    ids=repr,
)
async def test_targets_that_are_no_path_are_refused(client: Client, target: bytes) -> None:
    async with serve(answering(OK)) as server:
        with pytest.raises(ValueError, match="target"):
            await send(client, server, target=target)
        assert server.connections == []


@pytest.mark.parametrize("method", [b"", b"GET /", b"PO ST", b"G\r\n", b"CONNECT", b"connect"], ids=repr)
async def test_methods_that_are_none_are_refused(client: Client, method: bytes) -> None:
    async with serve(answering(OK)) as server:
        with pytest.raises(ValueError, match="method"):
            await send(client, server, method=method)
        assert server.connections == []


@pytest.mark.parametrize(
    ("origin", "authority"),
    [
        (Origin("https", "api.example.com", 443), "api.example.com"),
        (Origin("http", "api.example.com", 80), "api.example.com"),
        (Origin("http", "api.example.com", 443), "api.example.com:443"),
        (Origin("https", "api.example.com", 8443), "api.example.com:8443"),
        (Origin("http", "::1", 80), "[::1]"),
        (Origin("http", "fe80::1%eth0", 8080), "[fe80::1]:8080"),
        (Origin("http", "10.0.0.1", 8000), "10.0.0.1:8000"),
    ],
)
def test_an_origins_authority_is_what_a_host_header_says(origin: Origin, authority: str) -> None:
    assert origin.authority == authority


@pytest.mark.parametrize(
    ("scheme", "host", "port"),
    [
        ("ftp", "a", 1),
        ("http", "", 80),
        ("http", "a b", 80),
        ("http", "a\r\nX: y", 80),
        ("http", "user@host", 80),
        ("http", "a/b", 80),
        ("http", "[::1]", 80),
        ("http", "münchen.de", 80),
        ("http", "a", 0),
        ("http", "a", 65536),
    ],
)
def test_an_origin_that_cannot_be_one_is_refused(scheme: str, host: str, port: int) -> None:
    with pytest.raises(ValueError, match="an origin's"):
        Origin(scheme, host, port)


def test_equal_origins_share_a_pool() -> None:
    assert len({Origin("http", "a", 1), Origin("http", "a", 1), Origin("https", "a", 1)}) == 2


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        (ConnectFailed("refused"), False),
        (ConnectTimeout(), False),
        (UpstreamTimeout("connect"), False),
        (UpstreamTimeout("pool"), False),
        (UpstreamTimeout("head"), True),
        (UpstreamTimeout("read"), True),
        (UpstreamBroken("connect", False), False),
        (UpstreamBroken("head", True), True),
        (ProtocolViolation(""), True),
        (ResponseTooLarge(5), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_fault_has_a_text_and_knows_whether_the_request_may_have_been_seen(
    fault: UpstreamFault, sent: bool
) -> None:
    assert str(fault)
    assert fault.sent is sent


async def test_errors_tell_no_secrets(client: Client) -> None:
    async with serve(
        answering(b"HTTP/1.1 200 OK\r\nX-Leak: s3cret\r\nContent-Length: s3cret\r\n\r\n")
    ) as server:
        with pytest.raises(ProtocolViolation) as caught:
            await send(client, server, headers=((b"authorization", b"Bearer s3cret"),))
        assert "s3cret" not in f"{caught.value} {caught.value!r}"


async def test_origins_with_the_same_port_but_another_name_do_not_share_connections(client: Client) -> None:
    async with serve(answering(OK)) as server:
        await whole(client, server)
        await whole(client, origin_of(server, host="localhost"))
        assert len(server.connections) == 2
