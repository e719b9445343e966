"""The cast of the vault's state machine: worker processes that take turns in this one, and what the model knows of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from django.db import DatabaseError, connection
from django.utils import timezone

from providers.adapters.registry import get_adapter
from snapshots.models import ConfigRevision, WorkerStatus
from tokenhub.core.snapshot import decode_snapshot
from tokenhub.core.specs import CredentialSpec, SealedSpec, Snapshot
from vault.agent import Agent, Headless
from vault.engine.buffers import SecretBuffer
from vault.engine.grants import ClusterKey
from vault.engine.hierarchy import Root
from vault.engine.passwords import Argon2Parameters, encode_password
from vault.engine.recovery import parse_key, parse_recovery_key
from vault.engine.slots import KeySecret, PasswordSecret, Slot, SlotKind, SlotSecret
from vault.keyring import Destination, Keyring
from vault.models import SealedSecret
from vault.opened import OpenedVault, opened_vault
from vault.slot_secrets import Given

CLUSTER = b"cluster-secret-of-the-machine-0123456789"


class CheapParameters(Argon2Parameters, frozen=True):
    """A thousand times less work than a vault's own, which refuses them: thousands of lives in minutes instead of days."""

    def check(self) -> None:
        """Takes them."""


CHEAP = CheapParameters(memory_kib=64, passes=1, lanes=1)


class CheapPassword(PasswordSecret):
    """A password that opens slots of CHEAP parameters."""

    def unwrap(self, slot: Slot) -> Root:
        """As a password does, past the floor."""
        return super().unwrap(msgspec.structs.replace(slot, argon2=CHEAP))


class CheapGiven(Given):
    """What somebody typed, likewise."""

    @contextmanager
    def as_secrets(self, parameters: Argon2Parameters = CHEAP) -> Iterator[tuple[SlotSecret, ...]]:
        """The secrets to try."""
        with super().as_secrets(parameters) as secrets:
            yield tuple(
                CheapPassword(one.password, one.pepper, parameters)
                if isinstance(one, PasswordSecret)
                else one
                for one in secrets
            )


class Killed(BaseException):
    """The process is gone."""


@contextmanager
def killed_at(statement: int | None) -> Iterator[None]:
    """Raises in place of the given statement (from 0) and of every later one. None: nothing happens."""
    if statement is None:
        yield
        return
    left = statement

    def run(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return execute(sql, params, many, context)

    with connection.execute_wrapper(run):
        yield


class Away:
    """A database that can't be reached until `back`."""

    def __init__(self) -> None:
        self._stack: ExitStack | None = None

    @property
    def now(self) -> bool:
        """Whether it is away."""
        return self._stack is not None

    def go(self) -> None:
        """From now on each statement fails."""
        self._stack = ExitStack()
        self._stack.enter_context(connection.execute_wrapper(self._refuse))

    def back(self) -> None:
        """Statements run again."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    @staticmethod
    def _refuse(*query: Any) -> Any:
        raise DatabaseError("the server has gone")


class Clock:
    """Monotonic seconds that stand still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Opening:
    """A sealed secret in a worker's snapshot, and where that worker would send it."""

    credential: CredentialSpec
    sealed: SealedSpec
    destination: Destination


class Process:
    """A worker process: its agent, keyring and snapshot. What it holds is in `opened_vault` only while it runs."""

    def __init__(self, name: str, clock: Clock, ways: tuple[Headless, ...] = ()) -> None:
        self.name = name
        self.clock = clock
        self.held: OpenedVault | None = None
        self.keyring = Keyring({}, Path("absent"), clock=clock)
        with SecretBuffer.copy_of(CLUSTER) as secret:
            cluster = ClusterKey(secret)
        self.agent = Agent(self.keyring, instance=name, cluster=cluster, headless=ways, clock=clock)
        self.snapshot: Snapshot | None = None
        self.revision = 0
        self.seen = clock.now
        self.looked, self.coast = False, 180

    @contextmanager
    def running(self) -> Iterator[None]:
        """Its turn."""
        opened_vault._opened = self.held
        try:
            yield
        finally:
            self.held, opened_vault._opened = opened_vault._opened, None

    def poll(self, seconds: float) -> None:
        """Its agent's next look."""
        self.clock.now += seconds
        with self.running():
            self.agent.poll(connection)

    def follow(self) -> None:
        """Takes the newest published snapshot over, as the subscriber does."""
        last = ConfigRevision.objects.order_by("-revision").first()
        if last is None or last.revision == self.revision:
            return
        self.snapshot, self.revision = decode_snapshot(bytes(last.payload)), last.revision
        self.keyring.keep_only(self.snapshot)
        said = {"pid": 1, "host": "here", "revision": self.revision, "seen_at": timezone.now()}
        WorkerStatus.objects.update_or_create(instance=self.name, defaults=said)

    def die(self) -> None:
        """As a kill: nothing is tidied up but this test's own memory."""
        with self.running():
            opened_vault.drop()
        self.keyring.lock()
        self.agent._granting.close()

    def list_openings(self) -> Iterator[Opening]:
        """Everything sealed that it might send somewhere, and everywhere it might send that."""
        for provider in self.snapshot.providers if self.snapshot else ():
            header = get_adapter(provider.kind).auth_header(provider.profile)
            for endpoint in provider.endpoints:
                destination = Destination(endpoint.origin, provider.kind, header)
                for credential in provider.credentials:
                    for sealed in credential.sealed:
                        yield Opening(credential, sealed, destination)

    def __repr__(self) -> str:
        return f"Process({self.name})"


@dataclass(frozen=True)
class Way:
    """What opens a slot, as somebody keeps it: a password, a printed recovery key, or a key file's key."""

    kind: SlotKind
    text: str = field(repr=False)

    @property
    def given(self) -> Given:
        """As it is typed."""
        if self.kind is SlotKind.PASSWORD:
            return CheapGiven(password=self.text)
        return Given(recovery_key=self.text) if self.kind is SlotKind.RECOVERY else Given(key=self.text)

    def secret(self) -> SlotSecret:
        """As a rotation of the root or a start takes it."""
        if self.kind is SlotKind.PASSWORD:
            return CheapPassword(encode_password(self.text), parameters=CHEAP)
        if self.kind is SlotKind.RECOVERY:
            return KeySecret(self.kind, parse_recovery_key(self.text))
        return KeySecret(self.kind, parse_key(self.text))


@dataclass(frozen=True)
class Authentic:
    """What a record is, by our own hands: its row, its place, and the secret that it must open to."""

    row_id: str
    row_version: int
    place: Destination
    secret: str = field(repr=False)


class Truth:
    """What was sealed, by record: a record is random, so that one can't be another's."""

    def __init__(self) -> None:
        self.by_record: dict[bytes, Authentic] = {}
        self.entered: dict[tuple[int, int], str] = {}

    def learn(self) -> None:
        """Notes the rows that are there. To be called after changes by our own hands only."""
        for row in SealedSecret.objects.all():
            place = Destination(row.origin, row.provider_kind, row.auth_header)
            secret = self.entered[row.credential_id, row.version]
            fact = Authentic(row.id, row.row_version, place, secret)
            assert self.by_record.setdefault(bytes(row.record), fact) == fact

    def find(self, sealed: SealedSpec, destination: Destination) -> str | None:
        """What it must open to when it goes there; None: it must not open."""
        fact = self.by_record.get(sealed.record)
        if fact is None or (fact.row_id, fact.row_version) != (sealed.id, sealed.row_version):
            return None
        if sealed.origin != fact.place.origin:
            # A row that names another origin is not found for the true one.
            return None
        return fact.secret if fact.place == destination else None


class LogBook(logging.Handler):
    """Everything that is logged, at every level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps it, with its arguments and its exception."""
        self.lines.append(f"{self.format(record)} {record.args!r} {vars(record)!r}")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Listens to everything of ours."""
        loggers = [logging.getLogger(name) for name in ("vault", "snapshots", "tokenhub")]
        before = [logger.level for logger in loggers]
        for logger in loggers:
            logger.addHandler(self)
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.removeHandler(self)
                logger.setLevel(level)
                logger.propagate = True
