"""One worker's data plane: everything that lives as long as the process, built once and closed in order. Data plane."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable

import msgspec

from gateway.answer_cache import AnswerCache, AnswerCacheStore
from gateway.attempt import Dispatcher, Upstreams
from gateway.config import GatewayConfig
from gateway.decisions import DecisionLog
from gateway.failover import Failover
from gateway.guards.guarding import Guards
from gateway.guards.webhook import Webhooks
from gateway.health import HealthBoard
from gateway.idempotency import Idempotency, IdempotencyStore
from gateway.inner import InnerCalls
from gateway.metrics import Metrics, SharedCounts
from gateway.pipeline import Pipeline
from gateway.probes import watch_resting
from gateway.routing import Router
from gateway.settle import Ledger
from gateway.upstream.aiohttp_client import AiohttpClient
from gateway.upstream.guard import guarded
from gateway.upstream.http1 import Http1Client
from gateway.upstream.in_process import InProcessProviders
from gateway.upstream.seam import Upstream
from providers.adapters.registry import list_adapters
from tokenhub.core.current import Current
from tokenhub.core.errors import SettingInvalid
from tokenhub.core.specs import Snapshot
from usage.journal import Journal
from vault.keyring import Keyring

_LEAVE_COUNTS_SECONDS = 2.0


class Worker:
    """The data plane of one process. `wall` gives Unix seconds, `clock` monotonic seconds, `rng` numbers in [0, 1).

    `configuration_error` says why no newer snapshot arrives, "" if nothing is wrong; readiness shows it to anybody.
    """

    def __init__(
        self,
        config: GatewayConfig,
        current: Current,
        journal: Journal,
        keyring: Keyring,
        *,
        configuration_error: Callable[[], str] = lambda: "",
        idempotency: IdempotencyStore | None = None,
        answers: AnswerCacheStore | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.config = config
        self.current = current
        self.journal = journal
        self.wall = wall
        self.clock = clock
        self.metrics = Metrics()
        self.board = HealthBoard(clock)
        self.decisions = DecisionLog(config.decisions_per_second, wall=wall, clock=clock)
        self.ledger = Ledger(journal, self.metrics, wall, clock)
        self.network = make_upstream(config)
        simulated = InProcessProviders(key=os.urandom(32), now=wall)
        router = Router(self.board, wall=wall, clock=clock, rng=rng)
        dispatcher = Dispatcher(
            Upstreams(self.network, simulated),
            self.ledger,
            self.board,
            clock=clock,
            max_answer_bytes=config.max_answer_bytes,
        )
        self.failover = Failover(
            dispatcher, self.board, keyring, router, self.metrics, rng=rng, max_attempts=config.max_attempts
        )
        self.pipeline = Pipeline(
            config,
            current,
            journal,
            router,
            self.failover,
            InnerCalls(self.failover),
            Idempotency(idempotency, _newest_pepper(config), self.metrics),
            AnswerCache(answers, _newest_pepper(config), self.metrics, wall),
            Guards(Webhooks(self.network, keyring.find_variable, wall), self.metrics),
            self.metrics,
            wall=wall,
            clock=clock,
        )
        list_adapters()  # Imported now, not within the first request.
        self._configuration_error = configuration_error
        self._keyring = keyring
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop
        self.stopping = False

    def start(self, shared: SharedCounts) -> None:
        """Starts what runs beside the requests. Needs the running loop."""
        self._loop = loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(watch_resting(self.current, self.board, self.network)),
            loop.create_task(self._leave_counts(shared)),
        ]
        self.current.on_swap(self._tidy_soon)

    async def stop(self) -> None:
        """Ends what runs beside the requests and closes every upstream connection. The journal is the caller's."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        # What one of them died of must not keep the rest, the journal above all, from being closed.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.network.aclose()

    def readiness(self) -> tuple[int, bytes]:
        """Status and body of `/readyz`: whether this worker can serve, and with which revision.

        One that serves an older revision because no newer one arrives is ready; what keeps it is told.
        """
        snapshot = self.current.find()
        journal = self.journal
        reasons = []
        if snapshot is None:
            reasons.append("no configuration snapshot has been loaded yet")
        if not journal.available:
            reasons.append(f"the usage journal can't be written: {journal.last_error}")
        if self.stopping:
            reasons.append("shutting down")
        vault = self._keyring.vault_state
        if vault != "unlocked" and snapshot is not None and needs_vault(snapshot):
            reasons.append("the vault is locked, and no provider can be called without it")
        facts = {
            "status": "not ready" if reasons else "ready",
            "reasons": reasons,
            "revision": snapshot.revision if snapshot is not None else None,
            "snapshot_age_seconds": round(self.wall() - snapshot.created_at, 1)
            if snapshot is not None
            else None,
            "configuration_error": self._configuration_error() or None,
            "vault": vault,
            "vault_reason": self._keyring.vault_reason or None,
            "journal_depth": journal.depth,
            "in_flight_attempts": self.board.total_in_flight,
            "pid": os.getpid(),
        }
        return (503 if reasons else 200), msgspec.json.encode(facts)

    def gauged_metrics(self) -> Metrics:
        """The counts with the gauges of this moment."""
        snapshot = self.current.find()
        self.metrics.counters["decisions_dropped"][()] = self.decisions.dropped
        unlocked = self._keyring.vault_state == "unlocked"
        self.metrics.gauges.update(
            vault_unlocked=unlocked,
            vault_workers_unlocked=unlocked,
            in_flight_attempts=self.board.total_in_flight,
            journal_depth=self.journal.depth,
            snapshot_revision=snapshot.revision if snapshot is not None else 0,
        )
        return self.metrics

    def _tidy_soon(self, snapshot: Snapshot) -> None:
        """Snapshots come from the subscriber's thread; the board belongs to the loop's."""
        self._loop.call_soon_threadsafe(self._tidy, snapshot)

    def _tidy(self, snapshot: Snapshot) -> None:
        credentials = [credential for provider in snapshot.providers for credential in provider.credentials]
        versions = {f"{one.id}@{sealed.version}" for one in credentials for sealed in one.sealed}
        self.board.forget_missing(
            {endpoint.id for provider in snapshot.providers for endpoint in provider.endpoints},
            {credential.id for credential in credentials} | versions,
            set(snapshot.model_by_id),
        )
        self.failover.hedges.keep_only(snapshot.policy_by_name)
        self._keyring.keep_only(snapshot)

    async def _leave_counts(self, shared: SharedCounts) -> None:
        while True:
            await asyncio.sleep(_LEAVE_COUNTS_SECONDS)
            dumped = self.gauged_metrics().dump()
            with contextlib.suppress(OSError):  # A full disk costs other workers a fresh count, nothing else.
                await asyncio.to_thread(shared.leave, dumped)


def _newest_pepper(config: GatewayConfig) -> bytes:
    """Without a pepper no key can be checked, and so nothing be asked."""
    return config.peppers[max(config.peppers)] if config.peppers else b""


def needs_vault(snapshot: Snapshot) -> bool:
    """Whether every provider's every credential is sealed, so that nothing can be served while the vault is locked."""
    return bool(snapshot.providers) and all(
        provider.credentials and all(credential.source == "vault" for credential in provider.credentials)
        for provider in snapshot.providers
    )


def make_upstream(config: GatewayConfig) -> Upstream:
    """The upstream client that the setting names. It makes every outbound connection of the data plane."""
    resolve = guarded(config.private_origins)
    if config.upstream_client == "http1":
        return Http1Client(resolve=resolve, max_connections_per_origin=config.max_connections_per_origin)
    if config.upstream_client == "aiohttp":
        return AiohttpClient(resolve=resolve, max_connections_per_origin=config.max_connections_per_origin)
    raise SettingInvalid(f"TOKENHUB_UPSTREAM_CLIENT is {config.upstream_client!r}; it takes http1 or aiohttp")
