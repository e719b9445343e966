"""Nothing connects to a denied address: both upstream clients and the control plane's, against real listening sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import httpx
import pytest
import trustme

from gateway.config import GatewayConfig
from gateway.upstream.aiohttp_client import AiohttpClient
from gateway.upstream.guard import guarded
from gateway.upstream.http1 import Http1Client
from gateway.upstream.seam import AddressDenied, ConnectFailed, Origin, Upstream, UpstreamFault
from gateway.worker import make_upstream
from tests.fakes.raw_server import RawConnection, serve
from tests.gateway.upstream.calls import OK, a_request, answering
from tests.outbound.listening import Listeners, listening
from tests.outbound.origins import LEGACY, list_denied
from tokenhub.control.outbound import AnswerRefused, OutboundRefused, make_client
from tokenhub.core.addresses import PrivateOrigins, read_private_origins

STAND_IN = "127.0.0.9"
"""Stands for a public address in these tests, which may connect to this machine only: the setting names it."""

PRIVATE = read_private_origins([f"{STAND_IN}/32"])
UPSTREAMS: dict[str, Callable[..., Http1Client | AiohttpClient]] = {
    "http1": Http1Client,
    "aiohttp": AiohttpClient,
}
PATIENCE = httpx.Timeout(5.0)


class Names:
    """A resolver whose answers are given in turn, the last one for ever; literal addresses resolve to themselves."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def look_up(self, host: str, port: int) -> list[str]:
        """As the control plane's client wants it."""
        self.asked.append(host)
        try:
            ip_address(host.partition("%")[0])
        except ValueError:
            return self.answers[min(len(self.asked), len(self.answers)) - 1]
        return [host]

    async def resolve(self, host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
        """As the upstream clients want it."""
        return [
            (socket.AF_INET6, (text, port, 0, 0)) if ":" in text else (socket.AF_INET, (text, port))
            for text in self.look_up(host, port)
        ]


async def ask_upstream(make: Callable[..., Upstream], names: Names, host: str, port: int) -> UpstreamFault:
    """What one request of an upstream client fails with."""
    client = make(resolve=guarded(PRIVATE, names.resolve))
    try:
        with pytest.raises(UpstreamFault) as caught:
            await client.send(a_request(Origin("http", host, port)), connect_timeout=5, head_timeout=5)
        return caught.value
    finally:
        await client.aclose()


def ask_outbound(names: Names, host: str, port: int) -> httpx.TransportError:
    """What one request of the control plane's client fails with."""
    shown = f"[{host}]" if ":" in host else host
    with (
        make_client(PRIVATE, timeout=PATIENCE, resolve=names.look_up) as client,
        pytest.raises(httpx.TransportError) as caught,
    ):
        client.get(f"http://{shown}:{port}/v1/models")
    return caught.value


@pytest.fixture(scope="module")
def doors() -> Iterator[Listeners]:
    """This machine, listening wherever a denied address could lead."""
    with listening("127.0.0.1", "127.0.0.2", STAND_IN, "::1") as found:
        yield found


@pytest.mark.parametrize("address", list_denied())
async def test_a_denied_address_is_never_connected_to(doors: Listeners, address: str) -> None:
    ways = (
        (address, Names()),
        ("provider.test", Names([address])),
        ("provider.test", Names([STAND_IN, address])),
        ("provider.test", Names([address, STAND_IN])),
    )
    before = len(doors.attempts())
    for host, names in ways:
        for make in UPSTREAMS.values():
            fault = await ask_upstream(make, names, host, doors.port)
            assert isinstance(fault, AddressDenied)
            assert (fault.sent, fault.reason) == (False, "denied")
            assert address not in str(fault)
        if "%" not in host:  # httpx itself refuses a zone in a URL
            assert isinstance(ask_outbound(names, host, doors.port), OutboundRefused)
    assert doors.attempts()[before:] == []
    assert doors.count() == 0


@pytest.mark.parametrize("host", LEGACY)
async def test_a_number_that_the_system_takes_for_an_address_leads_nowhere(
    doors: Listeners, host: str
) -> None:
    assert socket.inet_ntoa(socket.inet_aton(host)) == LEGACY[host]
    before = len(doors.attempts())
    for make in UPSTREAMS.values():
        fault = await ask_upstream(make, Names([LEGACY[host]]), host, doors.port)
        assert isinstance(fault, AddressDenied)
    with suppress(httpx.InvalidURL):  # Some of these httpx refuses by itself.
        assert isinstance(ask_outbound(Names([LEGACY[host]]), host, doors.port), OutboundRefused)
    assert doors.attempts()[before:] == []
    assert doors.count() == 0


@pytest.mark.parametrize("client", [*UPSTREAMS, "outbound"])
async def test_a_name_that_turns_private_after_its_check_gains_nothing(doors: Listeners, client: str) -> None:
    """What was checked is what is connected to; the next connection is checked anew."""
    names = Names([STAND_IN], ["127.0.0.1"])

    async def ask() -> object:
        if client == "outbound":
            with make_client(PRIVATE, timeout=httpx.Timeout(0.2), resolve=names.look_up) as outbound:
                try:
                    return outbound.get(f"http://provider.test:{doors.port}/")
                except httpx.TransportError as error:
                    return error
        upstream = UPSTREAMS[client](resolve=guarded(PRIVATE, names.resolve))
        try:
            return await upstream.send(
                a_request(Origin("http", "provider.test", doors.port)), connect_timeout=5, head_timeout=0.2
            )
        except UpstreamFault as fault:
            return fault
        finally:
            await upstream.aclose()

    first = await ask()
    assert not isinstance(first, AddressDenied | OutboundRefused)
    assert names.asked == ["provider.test"]
    assert (doors.count(STAND_IN), doors.count()) == (1, 0)
    assert isinstance(await ask(), AddressDenied | OutboundRefused)
    assert names.asked == ["provider.test"] * 2
    assert doors.count() == 0


@pytest.mark.parametrize("answer", ["localhost", "provider.test", "127.1", ""])
async def test_a_lookup_that_answers_with_a_name_is_not_looked_up_again(
    doors: Listeners, answer: str
) -> None:
    for make in UPSTREAMS.values():
        assert isinstance(await ask_upstream(make, Names([answer]), "h.test", doors.port), AddressDenied)
    assert isinstance(ask_outbound(Names([answer]), "h.test", doors.port), OutboundRefused)
    assert doors.count() == 0


@pytest.mark.parametrize("kind", UPSTREAMS)
async def test_the_data_plane_s_client_is_guarded_by_its_setting(
    doors: Listeners, kind: str, tmp_path: Any
) -> None:
    closed = make_upstream(
        GatewayConfig(data_dir=tmp_path, upstream_client=kind, private_origins=PrivateOrigins(()))
    )
    for host in ("127.0.0.1", "::1", "localhost"):
        with pytest.raises(AddressDenied):
            await closed.send(a_request(Origin("http", host, doors.port)), connect_timeout=5, head_timeout=5)
    await closed.aclose()
    assert doors.count() == 0
    async with serve(answering(OK)) as server:
        default = make_upstream(GatewayConfig(data_dir=tmp_path, upstream_client=kind))
        request = a_request(Origin("http", "localhost", server.port))
        answer = await default.send(request, connect_timeout=5, head_timeout=5)
        assert answer.status == 200
        answer.close()
        await default.aclose()


@pytest.mark.parametrize("kind", UPSTREAMS)
async def test_a_client_made_without_a_resolver_is_guarded_too(kind: str) -> None:
    client = UPSTREAMS[kind]()
    for host in ("10.0.0.1", "169.254.169.254", "fd00:ec2::254"):
        with pytest.raises(AddressDenied):
            await client.send(a_request(Origin("http", host, 80)), connect_timeout=5, head_timeout=5)
    await client.aclose()


REDIRECTS = (301, 302, 303, 307, 308)


@pytest.mark.parametrize("status", REDIRECTS)
async def test_a_redirect_is_not_followed_and_takes_no_key_along(status: int) -> None:
    keys = ((b"x-api-key", b"sk-canary"), (b"authorization", b"Bearer sk-canary"))
    async with serve(answering(OK)) as elsewhere:
        head = b"HTTP/1.1 %d Found\r\nLocation: http://localhost:%d/\r\nContent-Length: 0\r\n\r\n"
        async with serve(answering(head % (status, elsewhere.port))) as server:
            for make in UPSTREAMS.values():
                client = make()
                request = a_request(Origin("http", "127.0.0.1", server.port), headers=keys)
                answer = await client.send(request, connect_timeout=5, head_timeout=5)
                assert answer.status == status
                answer.close()
                await client.aclose()

            def ask() -> int:
                with make_client(PrivateOrigins(), timeout=PATIENCE) as outbound:
                    headers = {name.decode(): value.decode() for name, value in keys}
                    return outbound.get(f"http://127.0.0.1:{server.port}/", headers=headers).status_code

            assert await asyncio.to_thread(ask) == status
            assert server.requests == 3
        assert elsewhere.connections == []


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


async def test_the_environment_s_proxies_and_passwords_are_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password word\n")
    seen: list[bytes | None] = []

    async def script(connection: RawConnection) -> None:
        request = await connection.request()
        seen.append(request.header(b"authorization"))
        assert request.target.startswith(b"/")
        assert request.header(b"accept-encoding") == b"identity"
        connection.send(OK)
        await connection.peer_gone.wait()

    with listening("127.0.0.1") as proxy:
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("NO_PROXY", "")
        async with serve(script) as server:
            for make in UPSTREAMS.values():
                client = make()
                request = a_request(Origin("http", "127.0.0.1", server.port))
                answer = await client.send(request, connect_timeout=5, head_timeout=5)
                assert await answer.read_all(100, 5) == b"ok"
                await client.aclose()

            def ask() -> bytes:
                with make_client(PrivateOrigins(), timeout=PATIENCE) as outbound:
                    return outbound.get(f"http://127.0.0.1:{server.port}/").content

            assert await asyncio.to_thread(ask) == b"ok"
            assert seen == [None, None, None]
        assert proxy.count() == 0


async def test_certificate_and_host_header_are_for_the_name_and_the_connection_for_the_address() -> None:
    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(ours)
    authority.issue_cert("provider.test").configure_cert(theirs)
    hosts: list[bytes | None] = []

    async def script(connection: RawConnection) -> None:
        hosts.append((await connection.request()).header(b"host"))
        connection.send(OK)
        await connection.peer_gone.wait()

    async with serve(script, tls=theirs) as server:
        names = Names(["127.0.0.1"])

        def ask(host: str) -> bytes:
            with make_client(PrivateOrigins(), timeout=PATIENCE, resolve=names.look_up, tls=ours) as outbound:
                return outbound.get(f"https://{host}:{server.port}/").content

        assert await asyncio.to_thread(ask, "provider.test") == b"ok"
        assert hosts == [b"provider.test:%d" % server.port]
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await asyncio.to_thread(ask, "other.test")


async def test_the_next_address_is_tried_when_one_refuses_and_a_name_without_any_is_told() -> None:
    async with serve(answering(OK)) as server:

        def ask(*addresses: str) -> int:
            with make_client(
                PrivateOrigins(), timeout=PATIENCE, resolve=Names(list(addresses)).look_up
            ) as outbound:
                return outbound.get(f"http://provider.test:{server.port}/").status_code

        assert await asyncio.to_thread(ask, "127.0.0.77", "127.0.0.1") == 200
        for addresses in ((), ("127.0.0.77",)):
            with pytest.raises(httpx.ConnectError):
                await asyncio.to_thread(ask, *addresses)


def test_an_unknown_name_is_a_connect_error_and_the_upstream_s_too() -> None:
    with (
        make_client(PrivateOrigins(), timeout=PATIENCE) as outbound,
        pytest.raises(httpx.ConnectError, match="not known"),
    ):
        outbound.get("http://nowhere.invalid/")


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", "compressed"),
        (b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\nok", "compressed"),
        (b"Content-Length: 1001\r\n\r\n" + b"x" * 1001, "longer than 1000 bytes"),
        (
            b"Transfer-Encoding: chunked\r\n\r\n"
            + b"1F5\r\n"
            + b"x" * 501
            + b"\r\n1F5\r\n"
            + b"x" * 501
            + b"\r\n0\r\n\r\n",
            "longer than 1000 bytes",
        ),
    ],
)
async def test_an_answer_that_is_too_long_or_compressed_is_refused(head: bytes, told: str) -> None:
    async with serve(answering(b"HTTP/1.1 200 OK\r\n" + head)) as server:

        def ask() -> bytes:
            with make_client(PrivateOrigins(), timeout=PATIENCE, max_bytes=1000) as outbound:
                return outbound.get(f"http://127.0.0.1:{server.port}/").content

        with pytest.raises(AnswerRefused, match=told):
            await asyncio.to_thread(ask)


async def test_a_cut_answer_and_a_silent_one_are_httpx_s_errors() -> None:
    async def cut(connection: RawConnection) -> None:
        await connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart")
        connection.close()

    async def silent(connection: RawConnection) -> None:
        await connection.request()
        await connection.peer_gone.wait()

    for script, expected in ((cut, httpx.RemoteProtocolError), (silent, httpx.ReadTimeout)):
        async with serve(script) as server:

            def ask(port: int = server.port) -> bytes:
                with make_client(PrivateOrigins(), timeout=httpx.Timeout(0.3)) as outbound:
                    return outbound.get(f"http://127.0.0.1:{port}/").content

            with pytest.raises(expected):
                await asyncio.to_thread(ask)


def test_the_fault_is_one_of_the_seam_s_tree_and_says_the_mend() -> None:
    fault = AddressDenied()
    assert isinstance(fault, ConnectFailed)
    assert "TOKENHUB_ALLOW_PRIVATE_ORIGINS" in str(fault)
    assert "not allowed" in str(fault)
