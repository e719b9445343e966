"""Large bodies in both directions: bounded memory, early answers, cancelling in the middle of a write."""

import asyncio
import hashlib
import os
import socket
from pathlib import Path

import pytest

from gateway.upstream.connection import Connection
from gateway.upstream.http1 import Http1Client
from gateway.upstream.seam import UpstreamBroken, UpstreamTimeout
from tests.fakes.raw_server import RawConnection, serve
from tests.gateway.upstream.calls import OK, Client, MakeClient, eventually, origin_of, send, whole

MIB = 1 << 20
STREAM = 200 * MIB
# What the two sockets' kernel buffers may hold on loopback, with room to spare; far below the stream.
IN_FLIGHT = 48 * MIB


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def flood(connection: RawConnection) -> None:
    await connection.request()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % STREAM)
    block = b"x" * (MIB // 4)
    for _ in range(STREAM // len(block)):
        await connection.send_patiently(block)
    await connection.peer_gone.wait()


async def test_a_reader_who_comes_late_slows_the_provider_and_costs_no_memory(client: Client) -> None:
    async with serve(flood) as server:
        before = resident_bytes()
        response = await send(client, server)
        connection = server.connections[0]
        sent = -1
        while sent != connection.sent:
            sent = connection.sent
            await asyncio.sleep(0.1)
        assert sent < IN_FLIGHT
        received, widest = 0, 0
        while data := await response.read(10):
            received += len(data)
            widest = max(widest, connection.sent - received)
            if received % 16 == 0:
                await asyncio.sleep(0)
        assert received == STREAM
        assert widest < IN_FLIGHT
        assert resident_bytes() - before < 2 * IN_FLIGHT


class GreedyTransport(asyncio.Transport):
    """A peer that takes whatever is written at once, so that nothing ever says pause."""

    def __init__(self) -> None:
        super().__init__({"socket": socket.socket()})
        self.taken = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.taken += len(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self.get_extra_info("socket").close()


class NoOwner:
    """Wants to know nothing."""

    def connection_rests(self, connection: Connection, seconds: float) -> None: ...

    def connection_ended(self, connection: Connection) -> None: ...


async def test_a_fast_peer_is_given_a_large_body_in_many_turns_of_the_loop() -> None:
    transport = GreedyTransport()
    connection = Connection(
        asyncio.get_running_loop(), NoOwner(), max_head_bytes=MIB, high_water=MIB, idle_seconds=1
    )
    connection.connection_made(transport)
    connection.start(b"head", b"x" * 20 * MIB, False)
    most, before = transport.taken, transport.taken
    while transport.taken < 20 * MIB + 4:
        await asyncio.sleep(0)
        most, before = max(most, transport.taken - before), transport.taken
    assert most <= MIB + 4
    connection.abort()


async def test_what_is_buffered_stays_near_the_high_water_mark() -> None:
    client = Http1Client(high_water=64 * 1024)
    async with serve(flood) as server:
        response = await send(client, server)
        await asyncio.sleep(0.2)
        # One segment of the loop may come on top.
        assert 64 * 1024 < response.buffered < 64 * 1024 + 512 * 1024  # type: ignore[attr-defined]
        response.close()
        await server.all_closed()
        await client.aclose()


async def test_a_paused_connection_that_was_read_empty_serves_again(make_client: MakeClient) -> None:
    size = 4 * MIB

    async def script(connection: RawConnection) -> None:
        while True:
            await connection.request()
            await connection.send_patiently(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
            )

    client = make_client(high_water=16 * 1024)
    async with serve(script) as server:
        for _ in range(5):
            response = await send(client, server)
            await asyncio.sleep(0.01)
            assert len(await response.read_all(size, 10)) == size
        assert len(server.connections) == 1


async def test_a_large_request_body_arrives_whole(client: Client) -> None:
    body = os.urandom(MIB) * 20

    async def script(connection: RawConnection) -> None:
        while True:
            request = await connection.request()
            digest = hashlib.sha256(request.body).hexdigest().encode()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + digest)

    expected = hashlib.sha256(body).hexdigest().encode()
    async with serve(script) as server:
        for _ in range(2):
            assert await whole(client, server, body=body) == (200, expected)
        assert len(server.connections) == 1


@pytest.mark.parametrize("then", ["keeps the connection", "closes it"])
@pytest.mark.parametrize("status", [b"413", b"200"])
async def test_an_answer_that_comes_before_the_body_is_written_is_read_and_its_connection_not_reused(
    client: Client, status: bytes, then: str
) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.head()
        connection.stop_reading()
        connection.send(b"HTTP/1.1 %s Early\r\nContent-Length: 5\r\n\r\nearly" % status)
        if then == "closes it":
            connection.close()
        await connection.peer_gone.wait()

    async with serve(script) as server:
        for count in (1, 2):
            assert await whole(client, server, body=b"x" * 20 * MIB) == (int(status), b"early")
            await eventually(lambda: client.stats() == {})
            assert len(server.connections) == count
        assert max(connection.total_received for connection in server.connections) < 20 * MIB


async def test_a_refusal_stops_the_body_while_its_own_is_still_to_come(client: Client, kind: str) -> None:
    size = 64 * MIB

    async def script(connection: RawConnection) -> None:
        await connection.head()
        connection.stop_reading()
        connection.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\n")
        await head_seen.wait()
        connection.transport.resume_reading()
        received = -1
        while received != connection.total_received:
            received = connection.total_received
            await asyncio.sleep(0.1)
        connection.send(b"too large")
        await connection.peer_gone.wait()

    head_seen = asyncio.Event()
    async with serve(script) as server:
        response = await send(client, server, body=b"x" * size)
        assert response.status == 413
        head_seen.set()
        assert await response.read_all(100, 10) == b"too large"
        # Known difference: aiohttp writes a refused body to its end.
        assert (server.connections[0].total_received < size) is (kind == "http1")


async def test_an_early_success_does_not_stop_the_body(client: Client) -> None:
    size = 8 * MIB

    async def script(connection: RawConnection) -> None:
        await connection.head()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        await connection.exactly(size)
        connection.send(b"done")
        await connection.peer_gone.wait()

    async with serve(script) as server:
        response = await send(client, server, body=b"x" * size)
        assert await response.read_all(10, 10) == b"done"


async def stuck(connection: RawConnection) -> None:
    await connection.head()
    connection.stop_reading()
    await stuck_reached(connection)


async def stuck_reached(connection: RawConnection) -> None:
    connection.server.requests += 1
    await asyncio.Event().wait()


async def test_cancelling_while_the_body_is_written_closes_the_socket(client: Client) -> None:
    async with serve(stuck) as server:
        task = asyncio.create_task(send(client, server, body=b"x" * 20 * MIB))
        await eventually(lambda: server.requests == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.stats() == {}
        server.connections[0].transport.resume_reading()
        await server.all_closed()
        assert server.connections[0].total_received < 20 * MIB


async def test_a_server_that_does_not_take_the_body_runs_into_the_head_timeout(client: Client) -> None:
    async with serve(stuck) as server:
        with pytest.raises(UpstreamTimeout) as caught:
            await send(client, server, body=b"x" * 20 * MIB, head_timeout=0.1)
        assert caught.value.phase == "head"
        server.connections[0].transport.resume_reading()
        await server.all_closed()


async def test_a_server_that_resets_during_the_body_breaks_the_request(client: Client) -> None:
    async def script(connection: RawConnection) -> None:
        await connection.head()
        connection.reset()

    async with serve(script) as server:
        with pytest.raises(UpstreamBroken) as caught:
            await send(client, server, body=b"x" * 20 * MIB)
        assert caught.value.sent
        assert len(server.connections) == 1


async def test_small_events_come_through_in_order_and_whole(client: Client) -> None:
    events = [b"data: %d\n\n" % number for number in range(500)]

    async def script(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, event in enumerate(events):
            connection.send(b"%x\r\n%s\r\n" % (len(event), event))
            if number % 3 == 0:
                await asyncio.sleep(0)
        connection.send(b"0\r\n\r\n")
        await connection.request()
        connection.send(OK)

    async with serve(script) as server:
        response = await send(client, server)
        assert await response.read_all(1 << 20, 10) == b"".join(events)
        assert await whole(client, server) == (200, b"ok")
        assert client.stats()[origin_of(server)].open == 1
