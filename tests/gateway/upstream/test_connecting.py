"""Name lookup, connecting, TLS: failing before anything is sent, and connecting only where the lookup said."""

import asyncio
import socket
import ssl
from typing import Any

import pytest

from gateway.upstream.seam import ConnectFailed, ConnectTimeout, Origin, UpstreamBroken, UpstreamTimeout
from tests.fakes.raw_server import RawConnection, serve
from tests.gateway.upstream.calls import (
    OK,
    MakeClient,
    answering,
    eventually,
    origin_of,
    send,
    silent,
    to_loopback,
    whole,
)
from tokenhub.core.tls import system_tls


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_a_refused_connection_is_named_so(make_client: MakeClient) -> None:
    client = make_client()
    with pytest.raises(ConnectFailed) as caught:
        await send(client, Origin("http", "127.0.0.1", unused_port()))
    assert (caught.value.reason, caught.value.sent) == ("refused", False)
    assert client.stats() == {}


async def test_a_name_that_cannot_be_resolved_is_named_so(make_client: MakeClient) -> None:
    async def unknown(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    client = make_client(resolve=unknown)
    with pytest.raises(ConnectFailed) as caught:
        await send(client, Origin("http", "nowhere.test", 80))
    assert (caught.value.reason, caught.value.sent) == ("dns", False)
    assert client.stats() == {}


@pytest.mark.parametrize("host", ["provider.test", "127.0.0.1"])
async def test_a_lookup_that_refuses_an_address_is_the_last_word(make_client: MakeClient, host: str) -> None:
    async def guarded(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
        raise PermissionError("address not allowed")

    client = make_client(resolve=guarded)
    async with serve(answering(OK)) as server:
        with pytest.raises(ConnectFailed) as caught:
            await send(client, origin_of(server, host=host))
        assert caught.value.reason == "dns"
        assert server.connections == []


async def test_the_connection_goes_to_the_address_that_was_looked_up(make_client: MakeClient) -> None:
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
        asked.append((host, port))
        return await to_loopback(host, port)

    hosts: list[bytes | None] = []

    async def script(connection: RawConnection) -> None:
        hosts.append((await connection.request()).header(b"host"))
        connection.send(OK)

    client = make_client(resolve=resolve)
    async with serve(script) as server:
        assert await whole(client, origin_of(server, host="provider.test")) == (200, b"ok")
        assert asked == [("provider.test", server.port)]
        assert hosts == [b"provider.test:%d" % server.port]


async def test_the_next_address_is_tried_when_one_refuses(make_client: MakeClient) -> None:
    dead = unused_port()

    async def resolve(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
        return [(socket.AF_INET, ("127.0.0.1", dead)), (socket.AF_INET, ("127.0.0.1", port))]

    client = make_client(resolve=resolve)
    async with serve(answering(OK)) as server:
        assert await whole(client, origin_of(server, host="provider.test")) == (200, b"ok")


async def test_a_lookup_that_hangs_runs_into_the_connect_timeout(make_client: MakeClient) -> None:
    async def hang(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
        await asyncio.Event().wait()
        return []

    client = make_client(resolve=hang)
    with pytest.raises(ConnectTimeout) as caught:
        await send(client, Origin("http", "provider.test", 80), connect_timeout=0.05)
    assert isinstance(caught.value, UpstreamTimeout)
    assert (caught.value.reason, caught.value.phase, caught.value.sent) == ("timeout", "connect", False)
    assert client.stats() == {}


async def test_a_handshake_that_hangs_runs_into_the_connect_timeout(
    make_client: MakeClient, client_tls: ssl.SSLContext
) -> None:
    client = make_client(tls=client_tls, resolve=to_loopback)
    async with serve(silent) as server:
        with pytest.raises(ConnectTimeout):
            await send(client, origin_of(server, host="provider.test", scheme="https"), connect_timeout=0.2)
        await server.all_closed()
        assert client.stats() == {}


async def test_a_cancelled_connect_closes_its_socket_and_frees_its_slot(
    make_client: MakeClient, client_tls: ssl.SSLContext
) -> None:
    client = make_client(tls=client_tls, resolve=to_loopback, max_connections_per_origin=1)
    async with serve(silent) as server:
        for count in range(1, 4):
            origin = origin_of(server, host="provider.test", scheme="https")
            task = asyncio.create_task(send(client, origin))
            await eventually(lambda: len(server.connections) == count)  # noqa: B023
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.stats() == {}
        await server.all_closed()


async def test_a_connection_that_opens_after_the_client_was_closed_carries_nothing(
    make_client: MakeClient,
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def resolve(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
        asked.set()
        await answer.wait()
        return await to_loopback(host, port)

    client = make_client(resolve=resolve)
    async with serve(answering(OK)) as server:
        task = asyncio.create_task(send(client, origin_of(server, host="provider.test")))
        await asked.wait()
        await client.aclose()
        answer.set()
        with pytest.raises(ConnectFailed) as caught:
            await task
        assert caught.value.reason == "closed"
        await server.all_closed()
        assert server.requests == 0
        assert client.stats() == {}


async def test_tls_connections_are_reused(
    make_client: MakeClient, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    client = make_client(tls=client_tls, resolve=to_loopback)
    async with serve(answering(OK), tls=server_tls) as server:
        origin = origin_of(server, host="provider.test", scheme="https")
        for _ in range(5):
            assert await whole(client, origin) == (200, b"ok")
        assert len(server.connections) == 1


async def test_large_bodies_pass_through_tls_both_ways(
    make_client: MakeClient, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    async def echo(connection: RawConnection) -> None:
        request = await connection.request()
        await connection.send_patiently(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(request.body))
        await connection.send_patiently(request.body)
        await connection.peer_gone.wait()

    client = make_client(tls=client_tls, resolve=to_loopback)
    body = bytes(range(256)) * (16 * 1024)
    async with serve(echo, tls=server_tls) as server:
        origin = origin_of(server, host="provider.test", scheme="https")
        assert await whole(client, origin, body=body) == (200, body)


async def test_a_certificate_for_another_host_is_refused(
    make_client: MakeClient, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    client = make_client(tls=client_tls, resolve=to_loopback)
    async with serve(answering(OK), tls=server_tls) as server:
        with pytest.raises(ConnectFailed) as caught:
            await send(client, origin_of(server, host="other.test", scheme="https"))
        assert (caught.value.reason, caught.value.sent) == ("tls", False)
        assert server.requests == 0
        assert client.stats() == {}


async def test_an_unknown_authority_is_refused(make_client: MakeClient, server_tls: ssl.SSLContext) -> None:
    client = make_client(tls=system_tls(), resolve=to_loopback)
    async with serve(answering(OK), tls=server_tls) as server:
        with pytest.raises(ConnectFailed) as caught:
            await send(client, origin_of(server, host="provider.test", scheme="https"))
        assert caught.value.reason == "tls"
        assert server.requests == 0


async def test_a_server_that_speaks_no_tls_is_refused(
    make_client: MakeClient, client_tls: ssl.SSLContext
) -> None:
    async def plain(connection: RawConnection) -> None:
        connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await connection.peer_gone.wait()

    client = make_client(tls=client_tls, resolve=to_loopback)
    async with serve(plain) as server:
        with pytest.raises(ConnectFailed) as caught:
            await send(client, origin_of(server, host="provider.test", scheme="https"))
        assert caught.value.reason == "tls"
        assert client.stats() == {}


async def test_a_body_ended_by_a_tls_farewell_is_whole(
    make_client: MakeClient, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    client = make_client(tls=client_tls, resolve=to_loopback)
    async with serve(answering(b"HTTP/1.1 200 OK\r\n\r\nwhole", close=True), tls=server_tls) as server:
        origin = origin_of(server, host="provider.test", scheme="https")
        assert await whole(client, origin) == (200, b"whole")


async def test_a_body_that_tls_did_not_end_is_cut(
    make_client: MakeClient, kind: str, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\n\r\npart")
        await read.wait()
        connection.cut()

    read = asyncio.Event()
    client = make_client(tls=client_tls, resolve=to_loopback)
    async with serve(script, tls=server_tls) as server:
        response = await send(client, origin_of(server, host="provider.test", scheme="https"))
        assert await response.read(5) == b"part"
        read.set()
        if kind == "aiohttp":
            # Known difference: anybody on the path can cut such a body short without aiohttp noticing.
            assert await response.read(5) == b""
            return
        with pytest.raises(UpstreamBroken):
            await response.read(5)


async def test_the_environments_proxies_and_key_log_are_ignored(
    make_client: MakeClient, monkeypatch: Any
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{unused_port()}")
    monkeypatch.setenv("SSLKEYLOGFILE", "/nonexistent/keys")
    assert system_tls().keylog_filename is None
    client = make_client()
    async with serve(answering(OK)) as server:
        assert await whole(client, server) == (200, b"ok")
