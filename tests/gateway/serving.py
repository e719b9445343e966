"""A gateway on a real socket without Django: uvicorn in the test's own loop, a journal in a folder, a snapshot by hand."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn

from gateway.answer_cache import AnswerCacheStore
from gateway.app import FindDecision, Gateway
from gateway.config import GatewayConfig
from gateway.idempotency import IdempotencyStore
from gateway.metrics import SharedCounts
from gateway.websocket import StreamSocket
from gateway.worker import Worker
from tests.builders import PEPPER, list_origins
from tokenhub.core.attempts import AttemptFinal, AttemptIntent
from tokenhub.core.current import Current
from tokenhub.core.specs import Snapshot
from usage.journal import Journal, read_records
from vault.keyring import Keyring

CREDENTIAL = "sk-test-credential-0123456789"


class RunningGateway:
    """A gateway that serves, and what its journal says."""

    def __init__(self, worker: Worker, current: Current, journal: Journal, port: int) -> None:
        self.worker = worker
        self.current = current
        self.journal = journal
        self.origin = f"http://127.0.0.1:{port}"
        self.port = port

    def records(self) -> tuple[list[AttemptIntent], list[AttemptFinal]]:
        """Every intent and every final in the journal, in order."""
        intents: list[AttemptIntent] = []
        finals: list[AttemptFinal] = []
        for path in sorted(self.journal.directory.glob("*.journal")):
            for _, record in read_records(path, 0):
                if isinstance(record, AttemptIntent):
                    intents.append(record)
                elif isinstance(record, AttemptFinal):
                    finals.append(record)
        return intents, finals

    async def settled(self, count: int, seconds: float = 30.0) -> list[AttemptFinal]:
        """The finals, once there are `count` of them and every intent has its own."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            intents, finals = self.records()
            if len(finals) >= count and len(intents) == len(finals):
                assert len(finals) == count
                assert {i.attempt_id for i in intents} == {f.attempt_id for f in finals}
                return finals
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(
                    f"{len(intents)} intents and {len(finals)} finals, {count} were expected"
                )
            await asyncio.sleep(0.02)


def credential_variables(snapshot: Snapshot) -> dict[str, str]:
    """The environment of a gateway with these providers."""
    return {
        "TOKENHUB_GUARD_REVIEW": "the guard's secret",
        "TOKENHUB_CRED_TESTS": CREDENTIAL,
        "TOKENHUB_CRED_TESTS__ORIGIN": list_origins(snapshot),
    }


@asynccontextmanager
async def running_gateway(
    snapshot: Snapshot,
    folder: Path,
    *,
    configuration_error: str = "",
    find_decision: FindDecision | None = None,
    idempotency: IdempotencyStore | None = None,
    answers: AnswerCacheStore | None = None,
    **options: Any,
) -> AsyncIterator[RunningGateway]:
    """A gateway in force with this snapshot. Its providers' credential `TOKENHUB_CRED_TESTS` is `CREDENTIAL`, for their origins."""
    current = Current()
    current.swap(snapshot)
    journal_folder = folder / "journal"
    journal_folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(journal_folder, instance="tests")
    config = GatewayConfig(data_dir=folder, peppers={1: PEPPER}, **options)
    keyring = Keyring(credential_variables(snapshot), folder)
    worker = Worker(
        config,
        current,
        journal,
        keyring,
        configuration_error=lambda: configuration_error,
        idempotency=idempotency,
        answers=answers,
    )
    shared = SharedCounts(folder / "metrics", "tests")
    gateway = Gateway(worker, shared, find_decision=find_decision)
    stream_socket = StreamSocket(gateway, worker)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await (stream_socket if scope["type"] == "websocket" else gateway)(scope, receive, send)

    # asyncio sends small writes at once only on sockets that say they are TCP; else each answer waits 40 ms for an ACK.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            lifespan="off",
            log_level="warning",
            ws="websockets-sansio",
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    worker.start(shared)
    try:
        yield RunningGateway(worker, current, journal, listener.getsockname()[1])
    finally:
        server.should_exit = True
        await serving
        await worker.stop()
        journal.close()
        listener.close()
