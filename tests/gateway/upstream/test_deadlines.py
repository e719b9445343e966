"""Every wait on a provider ends: by a deadline, by a cancel, or by a break; and each leaves nothing behind."""

import asyncio

import pytest

from gateway.upstream.seam import ResponseTooLarge, UpstreamBroken, UpstreamTimeout
from tests.fakes.raw_server import PATIENCE, RawConnection, serve
from tests.gateway.upstream.calls import (
    OK,
    Client,
    MakeClient,
    answering,
    eventually,
    origin_of,
    send,
    silent,
    whole,
)

HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf"


async def half(connection: RawConnection) -> None:
    await connection.request()
    connection.send(HALF)
    await connection.peer_gone.wait()


async def test_a_head_that_does_not_come_in_time_closes_the_connection(client: Client) -> None:
    async with serve(silent) as server:
        with pytest.raises(UpstreamTimeout) as caught:
            await send(client, server, head_timeout=0.05)
        assert (caught.value.phase, caught.value.sent) == ("head", True)
        assert str(caught.value)
        await server.all_closed()
        assert client.stats() == {}


async def test_a_head_that_drips_does_not_move_its_deadline(client: Client) -> None:
    async def drip(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await connection.send_patiently(b"X: y\r\n")
            await asyncio.sleep(0.01)

    async with serve(drip) as server:
        with pytest.raises(UpstreamTimeout):
            await send(client, server, head_timeout=0.1)
        await server.all_closed()


async def test_a_silent_body_times_out_and_can_still_be_read(client: Client) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(HALF)
        await timed_out.wait()
        connection.send(b"x" * 16)
        await connection.peer_gone.wait()

    timed_out = asyncio.Event()
    async with serve(script) as server:
        response = await send(client, server)
        assert await response.read(5) == b"half"
        for _ in range(2):
            with pytest.raises(UpstreamTimeout) as caught:
                await response.read(0.03)
            assert caught.value.phase == "read"
        timed_out.set()
        assert await response.read_all(100, 5) == b"x" * 16


async def test_silence_counts_from_the_last_bytes(client: Client) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0.02)
            connection.send(b"x")
        await connection.peer_gone.wait()

    async with serve(script) as server:
        response = await send(client, server)
        received = b""
        while data := await response.read(0.3):
            received += data
        assert received == b"x" * 20


async def test_reading_a_body_whole_has_one_deadline_for_all_of_it(client: Client) -> None:
    async def drip(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            await connection.send_patiently(b"x")
            await asyncio.sleep(0.01)

    async with serve(drip) as server:
        response = await send(client, server)
        with pytest.raises(UpstreamTimeout) as caught:
            await response.read_all(1 << 20, 0.1)
        assert caught.value.phase == "read"
        await server.all_closed()


async def test_a_body_larger_than_asked_for_is_not_read_on(client: Client) -> None:
    async with serve(half) as server:
        response = await send(client, server)
        with pytest.raises(ResponseTooLarge) as caught:
            await response.read_all(3, PATIENCE)
        assert caught.value.limit == 3
        await server.all_closed()
        assert client.stats() == {}


async def test_a_body_of_exactly_the_limit_is_read(client: Client) -> None:
    async with serve(answering(OK)) as server:
        assert await (await send(client, server)).read_all(2, PATIENCE) == b"ok"
        with pytest.raises(ResponseTooLarge):
            await (await send(client, server)).read_all(1, PATIENCE)


async def test_closing_an_unfinished_response_closes_its_socket_at_once(client: Client) -> None:
    async with serve(half) as server:
        response = await send(client, server)
        response.close()
        response.close()
        await server.all_closed()
        assert client.stats() == {}


async def test_a_cancelled_send_closes_its_socket(client: Client) -> None:
    async with serve(silent) as server:
        task = asyncio.create_task(send(client, server))
        await eventually(lambda: server.requests == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.all_closed()
        assert client.stats() == {}


async def test_a_cancelled_read_closes_its_socket(client: Client) -> None:
    async with serve(half) as server:
        response = await send(client, server)
        assert await response.read(5) == b"half"
        task = asyncio.create_task(response.read(None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.all_closed()
        assert client.stats() == {}


@pytest.mark.parametrize("way", ["close", "cut", "reset"])
async def test_a_body_that_breaks_off_is_never_a_clean_end(client: Client, way: str) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(HALF)
        await read.wait()
        getattr(connection, way)()

    read = asyncio.Event()
    async with serve(script) as server:
        response = await send(client, server)
        assert await response.read(5) == b"half"
        read.set()
        with pytest.raises(UpstreamBroken) as caught:
            await response.read(5)
        assert (caught.value.phase, caught.value.sent) == ("read", True)
        with pytest.raises(UpstreamBroken):
            response.read_nowait()
        assert client.stats() == {}


async def _shuffle(client: Client, server: object, turn: int) -> None:
    """A request that is cancelled at one of many moments: waiting, connecting, writing, reading, just served."""
    task = asyncio.create_task(whole(client, server))  # type: ignore[arg-type]
    for _ in range(turn % 23):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))


@pytest.mark.slow
async def test_ten_thousand_cancels_at_twice_the_pools_size_leave_nothing_behind(
    make_client: MakeClient,
) -> None:
    size, cancels = 16, 10_000

    async def script(connection: RawConnection) -> None:
        number = 0
        while True:
            await connection.request()
            number += 1
            if calm.is_set():
                connection.send(OK)
            elif (connection.number + number) % 3:
                connection.send(OK if number % 2 else HALF)

    async def worker(first: int) -> None:
        for turn in range(first, cancels, 2 * size):
            await _shuffle(client, server, turn // (2 * size) + first)

    calm = asyncio.Event()
    client = make_client(max_connections_per_origin=size)
    async with serve(script) as server:
        async with asyncio.timeout(120):
            await asyncio.gather(*(worker(first) for first in range(2 * size)))
        # What rests may rest; everything else is closed, nobody waits, and the pool has all its slots.
        stats = client.stats().get(origin_of(server))
        assert stats is None or (stats.in_use, stats.waiting) == (0, 0)
        await eventually(lambda: server.open == (stats.idle if stats else 0))
        assert server.requests > size
        calm.set()
        held = [await send(client, server, connect_timeout=5) for _ in range(size)]
        for response in held:
            response.close()
        await client.aclose()
        await server.all_closed()
        assert client.stats() == {}
