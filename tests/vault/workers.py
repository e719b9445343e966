"""The cast of the worker agents' tests: workers with a clock of their own, a database that is away, others in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.db import DatabaseError, connection

from snapshots.compile import build_credential, build_sealed
from tests.vault.vaults import ADMIN, SECRET, a_credential
from tokenhub.core.specs import CredentialSpec
from vault.agent import Agent
from vault.engine.buffers import SecretBuffer
from vault.engine.grants import ClusterKey
from vault.keyring import Destination, Keyring
from vault.models import SealedSecret, VaultWorker
from vault.opened import VaultHolder, opened_vault
from vault.sealing import seal_secret

CLUSTER = "cluster-secret-of-the-tests-0123456789"
ORIGIN = "https://acme.example:443"


class Clock:
    """Monotonic seconds that stand still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Away:
    """A database that can't be reached."""

    def __enter__(self) -> None:
        self.wrapper = connection.execute_wrapper(self.refuse)
        self.wrapper.__enter__()

    def __exit__(self, *exc: object) -> None:
        self.wrapper.__exit__(None, None, None)

    @staticmethod
    def refuse(*query: Any) -> Any:
        raise DatabaseError("the server has gone")


class WhenAsked:
    """Does something once, in the middle of a query that holds a text."""

    def __init__(self, text: str, act: Callable[[], None]) -> None:
        self.text, self.act, self.done = text, act, False

    def __call__(self, execute: Any, sql: str, *rest: Any) -> Any:
        if self.text in sql and not self.done:
            self.done = True
            self.act()
        return execute(sql, *rest)


class WorkerCast:
    """A worker: its agent, what it holds, its keyring."""

    def __init__(
        self, name: str, secret: str | None = CLUSTER, holder: VaultHolder | None = None, **options: Any
    ) -> None:
        self.clock = Clock()
        self.holder = holder or VaultHolder()
        self.keyring = Keyring({}, Path("absent"), clock=self.clock)
        cluster = None
        if secret is not None:
            with SecretBuffer.copy_of(secret.encode()) as buffer:
                cluster = ClusterKey(buffer)
        self.agent = Agent(
            self.keyring, instance=name, cluster=cluster, holder=self.holder, clock=self.clock, **options
        )

    def poll(self, seconds: float = 1.0) -> None:
        """The next look."""
        self.clock.now += seconds
        self.agent.poll(connection)

    @property
    def row(self) -> VaultWorker:
        """What it says of itself."""
        return VaultWorker.objects.get(instance=self.agent._instance)

    @property
    def unlocked(self) -> bool:
        """Whether it holds keys, and its keyring too."""
        assert (self.keyring.vault_state == "unlocked") is (self.holder.find() is not None)
        return self.holder.find() is not None


def first(**options: Any) -> WorkerCast:
    """The worker that stands for this process: what somebody unlocks is held here."""
    return WorkerCast("first", holder=opened_vault, **options)


def several(count: int = 3, **options: Any) -> list[WorkerCast]:
    """The first and some more, each with a look behind it."""
    workers = [first(**options), *(WorkerCast(f"worker-{number}", **options) for number in range(1, count))]
    for worker in workers:
        worker.poll()
    return workers


def go_round(workers: list[WorkerCast], times: int = 2) -> None:
    """Everybody looks, so many times."""
    for _ in range(times):
        for worker in workers:
            worker.poll()


def a_sealed_key(secret: str = SECRET) -> CredentialSpec:
    """A provider's key in the vault, as the snapshot has it."""
    return as_spec(seal_secret(ADMIN, a_credential(), secret))


def as_spec(credential: Any) -> CredentialSpec:
    """As the snapshot has it."""
    rows = SealedSecret.objects.filter(credential=credential).order_by("-version", "origin")
    return build_credential(credential, tuple(build_sealed(row) for row in rows))


def to(origin: str = ORIGIN, kind: str = "openai", header: str = "authorization") -> Destination:
    """Where the key goes."""
    return Destination(origin, kind, header)
