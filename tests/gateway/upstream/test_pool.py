"""The bounded pool: order, deadlines, bulkheads between origins."""

import asyncio

import pytest

from gateway.upstream.seam import ConnectFailed, UpstreamTimeout
from tests.fakes.raw_server import PATIENCE, RawConnection, serve
from tests.gateway.upstream.calls import (
    OK,
    MakeClient,
    a_request,
    answering,
    eventually,
    origin_of,
    send,
    silent,
    whole,
)


async def test_callers_beyond_the_limit_wait_in_order(make_client: MakeClient) -> None:
    async def script(connection: RawConnection) -> None:
        while True:
            order.append(int((await connection.request()).body))
            await turns.acquire()
            connection.send(OK)

    order: list[int] = []
    turns = asyncio.Semaphore(0)
    client = make_client(max_connections_per_origin=1)
    async with serve(script) as server:
        origin = origin_of(server)
        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(whole(client, server, body=b"%d" % number)))
            await eventually(
                lambda: len(order) == 1 and client.stats()[origin].waiting == max(0, len(tasks) - 1)
            )
        for _ in tasks:
            turns.release()
        assert await asyncio.gather(*tasks) == [(200, b"ok")] * 6
        assert order == [0, 1, 2, 3, 4, 5]
        assert len(server.connections) == 1


async def test_a_caller_who_waits_gets_the_slot_of_a_connection_that_broke(make_client: MakeClient) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        if connection.number == 0:
            await leave.wait()
            connection.reset()
        else:
            connection.send(OK)

    leave = asyncio.Event()
    client = make_client(max_connections_per_origin=1)
    async with serve(script) as server:
        first = asyncio.create_task(whole(client, server))
        await eventually(lambda: server.requests == 1)
        second = asyncio.create_task(whole(client, server))
        await eventually(lambda: client.stats()[origin_of(server)].waiting == 1)
        leave.set()
        assert await second == (200, b"ok")
        await asyncio.wait((first,))
        assert first.exception() is not None


async def test_waiting_for_the_pool_counts_against_the_connect_timeout(make_client: MakeClient) -> None:
    client = make_client(max_connections_per_origin=1)
    async with serve(silent) as server:
        holder = asyncio.create_task(send(client, server))
        await eventually(lambda: server.requests == 1)
        with pytest.raises(UpstreamTimeout) as caught:
            await send(client, server, connect_timeout=0.05)
        assert (caught.value.phase, caught.value.sent) == ("pool", False)
        stats = client.stats()[origin_of(server)]
        assert (stats.open, stats.in_use, stats.waiting) == (1, 1, 0)
        holder.cancel()
        await asyncio.wait((holder,))
        assert client.stats() == {}
        assert server.requests == 1


async def test_a_cancelled_waiter_does_not_hold_up_those_behind_it(make_client: MakeClient) -> None:
    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            await go.wait()
            connection.send(OK)

    go = asyncio.Event()
    client = make_client(max_connections_per_origin=1)
    async with serve(script) as server:
        tasks = [asyncio.create_task(whole(client, server)) for _ in range(4)]
        await eventually(lambda: server.requests == 1 and client.stats()[origin_of(server)].waiting == 3)
        tasks[1].cancel()
        tasks[2].cancel()
        go.set()
        assert await tasks[0] == await tasks[3] == (200, b"ok")
        assert client.stats()[origin_of(server)].waiting == 0


async def test_a_waiter_cancelled_in_the_moment_it_is_served_passes_its_turn_on(
    make_client: MakeClient,
) -> None:
    async def half(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf")
        await connection.peer_gone.wait()

    client = make_client(max_connections_per_origin=1)
    async with serve(half) as server:
        response = await send(client, server)
        waiters = [asyncio.create_task(whole(client, server)) for _ in range(3)]
        await eventually(lambda: client.stats()[origin_of(server)].waiting == 3)
        server.script = answering(OK)
        response.close()
        # The slot has just been given to the first waiter, which has not run since.
        waiters[0].cancel()
        assert await asyncio.gather(*waiters[1:]) == [(200, b"ok")] * 2
        await asyncio.wait((waiters[0],))
        assert waiters[0].cancelled()


async def test_one_stalled_origin_does_not_hold_up_another(make_client: MakeClient) -> None:
    client = make_client(max_connections_per_origin=2)
    async with serve(silent) as stalled, serve(answering(OK)) as healthy:
        tasks = [asyncio.create_task(send(client, stalled)) for _ in range(10)]
        await eventually(lambda: stalled.requests == 2 and client.stats()[origin_of(stalled)].waiting == 8)
        for _ in range(20):
            assert await whole(client, healthy, connect_timeout=5) == (200, b"ok")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await stalled.all_closed()
        assert set(client.stats()) == {origin_of(healthy)}


async def test_the_limit_holds_under_a_crowd(make_client: MakeClient) -> None:
    peak = 0

    async def script(connection: RawConnection) -> None:
        nonlocal peak
        peak = max(peak, server.open)
        while True:
            await connection.request()
            connection.send(OK)

    client = make_client(max_connections_per_origin=3)
    async with serve(script) as server:
        answers = await asyncio.gather(*(whole(client, server) for _ in range(200)))
        assert answers == [(200, b"ok")] * 200
        assert peak <= 3
        assert len(server.connections) == 3


async def test_closing_the_client_fails_those_who_wait(make_client: MakeClient) -> None:
    client = make_client(max_connections_per_origin=1)
    async with serve(silent) as server:
        holder = asyncio.create_task(send(client, server))
        await eventually(lambda: server.requests == 1)
        waiter = asyncio.create_task(send(client, server))
        await eventually(lambda: client.stats()[origin_of(server)].waiting == 1)
        await client.aclose()
        with pytest.raises(ConnectFailed) as caught:
            await waiter
        assert caught.value.reason == "closed"
        await asyncio.wait((holder,))
        assert holder.exception() is not None
        with pytest.raises(ConnectFailed):
            await send(client, server)
        await server.all_closed()


async def test_whoever_cancels_a_call_was_told_whether_the_request_went_out(make_client: MakeClient) -> None:
    client = make_client(max_connections_per_origin=1)
    sent: list[str] = []
    async with serve(silent) as server:
        first, second = (
            asyncio.create_task(
                client.send(
                    a_request(origin_of(server)),
                    connect_timeout=PATIENCE,
                    head_timeout=PATIENCE,
                    on_sent=lambda name=name: sent.append(name),
                )
            )
            for name in ("first", "second")
        )
        await eventually(lambda: server.requests == 1 and client.stats()[origin_of(server)].waiting == 1)
        second.cancel()
        first.cancel()
        await asyncio.wait((first, second))
        assert sent == ["first"], "the second waited for a place in the pool"
