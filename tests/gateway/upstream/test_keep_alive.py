"""Reusing connections, and never sending a request twice."""

import asyncio
import contextlib

import pytest

from gateway.upstream.seam import UpstreamBroken
from tests.fakes.raw_server import RawConnection, serve
from tests.gateway.upstream.calls import OK, Client, MakeClient, answering, eventually, origin_of, send, whole


async def test_a_connection_serves_many_requests(client: Client) -> None:
    async with serve(answering(OK)) as server:
        for _ in range(20):
            assert await whole(client, server) == (200, b"ok")
        assert len(server.connections) == 1
        stats = client.stats()[origin_of(server)]
        assert (stats.open, stats.idle, stats.in_use, stats.waiting) == (1, 1, 0, 0)


async def test_a_complete_response_frees_its_connection_before_it_is_read(make_client: MakeClient) -> None:
    client = make_client(max_connections_per_origin=1)
    async with serve(answering(OK)) as server:
        first = await send(client, server)
        await eventually(lambda: client.stats()[origin_of(server)].in_use == 0)
        second = await send(client, server, connect_timeout=5)
        assert await first.read_all(10, 5) == await second.read_all(10, 5) == b"ok"
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["Connection: close", "HTTP/1.0"],
)
async def test_a_connection_that_the_server_will_close_is_not_used_again(
    client: Client, answer: bytes
) -> None:
    async with serve(answering(answer)) as server:
        assert await whole(client, server) == (200, b"ok")
        await server.all_closed()
        assert await whole(client, server) == (200, b"ok")
        assert len(server.connections) == 2


async def test_a_server_that_closes_a_resting_connection_is_noticed(client: Client) -> None:
    async with serve(answering(OK, close=True)) as server:
        for _ in range(10):
            assert await whole(client, server) == (200, b"ok")
            await server.all_closed()
            await eventually(lambda: client.stats() == {})
        assert server.requests == len(server.connections) == 10


async def test_a_close_that_the_loop_has_not_seen_yet_is_noticed_before_writing(
    client: Client, kind: str
) -> None:
    """The server's end of file lies in the kernel, and the loop had no turn to read it."""
    async with serve(answering(OK)) as server:
        assert await whole(client, server) == (200, b"ok")
        # Written to the socket directly, so that no turn of the loop comes between the close and the send.
        server.connections[0].shut_down_now()
        if kind == "http1":
            assert await whole(client, server) == (200, b"ok")
        else:
            # aiohttp asks only its transport, so it depends on the loop whether the request goes into the closed
            # connection; it must not be repeated then.
            with contextlib.suppress(UpstreamBroken):
                await whole(client, server)
        assert server.requests == 2
        assert len(server.connections) <= 2


@pytest.mark.parametrize("method", [b"POST", b"GET"])
@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_request_whose_reused_connection_breaks_is_never_sent_again(
    client: Client, method: bytes, way: str
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(OK)
        await connection.request()
        connection.reset() if way == "reset" else connection.close()

    async with serve(script) as server:
        assert await whole(client, server, method=method) == (200, b"ok")
        with pytest.raises(UpstreamBroken) as caught:
            await send(client, server, method=method)
        assert caught.value.sent
        assert caught.value.phase == "head"
        assert server.requests == 2
        assert len(server.connections) == 1


async def test_a_connection_rests_no_longer_than_allowed(make_client: MakeClient) -> None:
    client = make_client(idle_seconds=0.1)
    async with serve(answering(OK)) as server:
        assert await whole(client, server) == (200, b"ok")
        await server.all_closed()
        assert client.stats() == {}


async def test_the_servers_own_keep_alive_timeout_is_honoured(client: Client, kind: str) -> None:
    answer = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=9\r\nContent-Length: 2\r\n\r\nok"
    async with serve(answering(answer)) as server:
        assert await whole(client, server) == (200, b"ok")
        assert await whole(client, server) == (200, b"ok")
        # Known difference: aiohttp does not read the field.
        assert len(server.connections) == (2 if kind == "http1" else 1)


async def test_no_more_than_the_allowed_connections_rest(make_client: MakeClient, kind: str) -> None:
    together = asyncio.Barrier(5)

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await together.wait()
        connection.send(OK)
        await connection.peer_gone.wait()

    # Known difference: aiohttp has no such limit.
    client = make_client(max_idle_per_origin=2) if kind == "http1" else make_client()
    async with serve(script) as server:
        tasks = [asyncio.create_task(whole(client, server)) for _ in range(5)]
        assert await asyncio.gather(*tasks) == [(200, b"ok")] * 5
        await eventually(lambda: server.open == (2 if kind == "http1" else 5))
        assert client.stats()[origin_of(server)].idle == server.open


async def test_closing_the_client_closes_every_connection(client: Client) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf")
        await connection.peer_gone.wait()

    async with serve(answering(OK)) as resting, serve(script) as streaming:
        await whole(client, resting)
        response = await send(client, streaming)
        assert await response.read(5) == b"half"
        await client.aclose()
        await resting.all_closed()
        await streaming.all_closed()
        with pytest.raises(UpstreamBroken):
            await response.read(5)
        assert client.stats() == {}
