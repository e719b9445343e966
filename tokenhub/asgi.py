"""Wires the two planes into one ASGI application: the gateway's paths first, Django behind them. Nothing imports this.

Channels routes: `/v1/*` and the health pages are bare ASGI applications that Django never sees; `WS /v1/stream` likewise.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import django
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path, re_path
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")
django.setup()

from django.conf import settings  # noqa: E402 - Django must be set up before anything of its side is imported
from django.db import connection  # noqa: E402

from access.cached_answers import CachedAnswers  # noqa: E402
from access.idempotency import AnswerStore  # noqa: E402
from gateway.answer_cache import KeptAnswer  # noqa: E402
from gateway.app import CONSUMER_PATHS, PATHS, Gateway  # noqa: E402
from gateway.config import GatewayConfig  # noqa: E402
from gateway.idempotency import Claim  # noqa: E402
from gateway.keeping import StoreUnavailable  # noqa: E402
from gateway.metrics import SharedCounts  # noqa: E402
from gateway.websocket import StreamSocket  # noqa: E402
from gateway.worker import Worker  # noqa: E402
from routing.decision_store import DecisionWriter, answer_decision  # noqa: E402
from routing.health_reports import HealthTeller, Report, Told  # noqa: E402
from snapshots.subscribe import Subscriber  # noqa: E402
from tokenhub.bounded_body import BoundedBody  # noqa: E402
from tokenhub.core.current import current  # noqa: E402
from tokenhub.core.specs import Snapshot  # noqa: E402
from tokenhub.environment import VAULT_KEY, TokenhubSettings  # noqa: E402
from tokenhub.logs import guard_tracebacks  # noqa: E402
from tokenhub.redaction import watch  # noqa: E402
from usage.drain import Drainer  # noqa: E402
from usage.journal import Journal  # noqa: E402
from vault.agent import SETTLE_SECONDS, Agent  # noqa: E402
from vault.configured_kms import find_kms  # noqa: E402
from vault.engine.buffers import SecretBuffer  # noqa: E402
from vault.engine.grants import ClusterKey  # noqa: E402
from vault.headless import list_headless  # noqa: E402
from vault.keyring import Keyring  # noqa: E402
from vault.live import masker_of  # noqa: E402
from vault.new_keys import fetch_keys  # noqa: E402
from vault.trail import tell_head_once  # noqa: E402

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LAST_DRAIN_SECONDS = 10.0
_SWITCH_SECONDS = 0.0005
_LOOP_SECONDS = 2.0
_YOUNG_OBJECTS = 20_000
_YOUNG_COLLECTIONS = 20
_logger = logging.getLogger("tokenhub.wiring")
guard_tracebacks()


class DataPlane:
    """The data plane of this process and the three threads that tie it to the control plane.

    Built when the server starts (so that a forked or spawned worker has its own), closed in order when it stops: upstream
    connections, journal, the last drain into the ledger.
    """

    def __init__(self, options: TokenhubSettings) -> None:
        self._options = options
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._starting: asyncio.Lock | None = None
        self.gateway: Gateway | None = None
        self.socket: StreamSocket | None = None

    async def start(self) -> None:
        """Starts it once; later calls wait for that and return."""
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self.gateway is None:
                await self._start()

    async def _start(self) -> None:
        # The drainer and the subscriber are threads that compute; the loop must not wait 5 ms for its turn behind them.
        sys.setswitchinterval(_SWITCH_SECONDS)
        options = self._options
        self._loop = asyncio.get_running_loop()
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "local"
        folder = options.data_dir / "journal"
        folder.mkdir(parents=True, exist_ok=True)
        config = _gateway_config(options, f"{host}-{os.getpid()}")
        self._journal = Journal(folder, instance=host, sync_interval=config.journal_sync_interval)
        subscriber = Subscriber(
            on_snapshot=_take_over, last_good=options.data_dir / "snapshot.json", instance=config.instance
        )
        keyring = Keyring(os.environ, options.credentials_dir)
        watch(masker_of(keyring))
        answers = CachedAnswers(KeptAnswer, StoreUnavailable, most=options.cache_most)
        self._worker = Worker(
            config,
            current,
            self._journal,
            keyring,
            configuration_error=lambda: subscriber.public_error,
            idempotency=AnswerStore(Claim, StoreUnavailable, hours=options.idempotency_hours),
            answers=answers,
        )
        snapshot = await asyncio.to_thread(subscriber.load_initial)
        if snapshot is not None:
            current.swap(snapshot)
        self._drainer = Drainer(folder, instance=host, on_drained=self._journal.note_drained)
        shared = SharedCounts(options.data_dir / "metrics", host)
        await asyncio.to_thread(shared.retire)
        self._worker.start(shared)
        agent = Agent(
            keyring,
            instance=config.instance,
            cluster=_cluster_key(options),
            headless=list_headless(os.environ, VAULT_KEY, options.vault_key_file, find_kms()),
        )
        decisions = DecisionWriter(
            self._worker.decisions.take, days=options.decisions_days, most=options.decisions_most
        )
        health = HealthTeller(config.instance, self._report_health, self._take_told)
        for name, run in (
            ("subscriber", subscriber.run),
            ("drainer", self._drainer.run),
            ("vault", agent.run),
            ("audit", tell_head_once),
            ("decisions", decisions.run),
            ("health", health.run),
            ("answers", answers.run),
        ):
            thread = threading.Thread(target=run, args=(self._stop,), name=f"tokenhub-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)
        # A worker that is replaced while its peers are unlocked must not answer with `vault_locked` first.
        await asyncio.to_thread(agent.settled.wait, SETTLE_SECONDS)
        self.gateway = Gateway(self._worker, shared, _django_metrics, _find_decision)
        self.socket = StreamSocket(self.gateway, self._worker)
        _spare_the_collector()

    def _report_health(self) -> Report:
        """The board's report; the board belongs to the loop. Raises TimeoutError while the loop is busy or gone."""

        async def ask() -> Report:
            return self._worker.board.report()

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(_LOOP_SECONDS)

    def _take_told(self, told: Told) -> None:
        self._loop.call_soon_threadsafe(self._worker.board.take_told, told.endpoints, told.credentials)

    async def stop(self) -> None:
        """Ends it: nothing that was journalled is lost, and what the database takes now is in the ledger."""
        if self.gateway is None:
            return
        await self._worker.stop()
        self._stop.set()
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        for thread in self._threads:
            thread.join(LAST_DRAIN_SECONDS)
        self._journal.close()
        self._drainer.drain_until_empty(LAST_DRAIN_SECONDS)
        self._drainer.close()
        # psycopg's pool has threads that a process would otherwise wait for when it ends.
        if hasattr(connection, "close_pool"):
            connection.close_pool()

    async def http(self, scope: Message, receive: Receive, send: Send) -> None:
        """The gateway. Servers without the lifespan protocol (Daphne) start it with their first request."""
        if self.gateway is None:
            await self.start()
        await self.gateway(scope, receive, send)  # type: ignore[misc]

    async def websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        """The WebSocket application, likewise."""
        if self.socket is None:
            await self.start()
        await self.socket(scope, receive, send)  # type: ignore[misc]

    async def lifespan(self, scope: Message, receive: Receive, send: Send) -> None:
        """Starts and stops with the server."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.start()
                except Exception as error:
                    # The server must be told, or it would wait for ever; it logs the reason and exits.
                    _logger.exception("the data plane did not start")
                    await send(
                        {"type": "lifespan.startup.failed", "message": str(error) or type(error).__name__}
                    )
                    return
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _spare_the_collector() -> None:
    """What was imported stays for good: a full collection would walk its hundreds of thousands of objects within a request.

    Requests leave next to no cycles behind, so collections may be rare.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _YOUNG_COLLECTIONS, _YOUNG_COLLECTIONS)


def _take_over(snapshot: Snapshot) -> None:
    """In the subscriber's thread: the configuration comes into force once the keys of its secrets are here."""
    fetch_keys(snapshot)
    current.swap(snapshot)


def _gateway_config(options: TokenhubSettings, instance: str) -> GatewayConfig:
    return GatewayConfig(
        data_dir=options.data_dir,
        instance=instance,
        peppers=dict(options.peppers),
        max_body_bytes=options.max_body_bytes,
        body_timeout=options.body_timeout,
        upstream_client=options.upstream_client,
        private_origins=options.allow_private_origins,
        decisions_per_second=options.decisions_per_second,
        metrics_token=options.metrics_token,
        metrics_allow=options.metrics_allow,
    )


def _cluster_key(options: TokenhubSettings) -> ClusterKey | None:
    if not options.cluster_secret:
        return None
    with SecretBuffer.copy_of(options.cluster_secret.encode()) as secret:
        return ClusterKey(secret)


async def _django_metrics() -> bytes:
    """Django's own metrics, of every worker where prometheus_client's multiprocess folder is set."""
    return await asyncio.to_thread(_collect_django_metrics)


async def _find_decision(request_id: str, key_id: str) -> bytes | None:
    return await asyncio.to_thread(answer_decision, request_id, key_id)


def _collect_django_metrics() -> bytes:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


async def _no_such_socket(scope: Message, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4404})


class Application:
    """Channels' routers, with a short way for what is asked most: they match patterns one by one and copy the scope."""

    def __init__(self, plane: DataPlane, routers: ProtocolTypeRouter) -> None:
        self._plane = plane
        self._routers = routers

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection, request or the server's life."""
        if scope["type"] == "http" and scope["path"] in CONSUMER_PATHS:
            await self._plane.http(scope, receive, send)
        else:
            await self._routers(scope, receive, send)


data_plane = DataPlane(settings.TOKENHUB)
_health = "|".join(page.removeprefix("/") for page in PATHS)
_routers = ProtocolTypeRouter(
    {
        "lifespan": data_plane.lifespan,
        "http": URLRouter(
            [
                re_path(rf"^(?:v1(?:/|$)|(?:{_health})$)", data_plane.http),
                re_path("", BoundedBody(get_asgi_application(), seconds=settings.TOKENHUB.body_timeout)),
            ]
        ),
        "websocket": URLRouter([path("v1/stream", data_plane.websocket), re_path("", _no_such_socket)]),
    }
)
application = Application(data_plane, _routers)
