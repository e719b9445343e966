"""Runs uvicorn in production: one process or several, bounded request heads, a clean end on SIGTERM. Both planes.

The application is named, not imported, so that each worker builds its own.
"""

from __future__ import annotations

import math
import os
import secrets
import signal
from functools import partial
from types import FrameType

from uvicorn.server import Server
from uvicorn.supervisors import Multiprocess

from tokenhub.environment import TokenhubSettings
from tokenhub.http_protocol import ServerConfig
from tokenhub.logs import build_logging
from tokenhub.process import harden_process

CLUSTER_SECRET = "TOKENHUB_CLUSTER_SECRET"  # noqa: S105 - the variable's name
APPLICATION = "tokenhub.asgi:application"
# Longer than load balancers keep idle connections (60 s is common), so that they close first and no request meets a
# connection that is just being closed here.
KEEP_ALIVE_SECONDS = 75


def build_config(settings: TokenhubSettings, application: str = APPLICATION) -> ServerConfig:
    """uvicorn's configuration for these settings."""
    return ServerConfig(
        app=application,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        lifespan="on",
        interface="asgi3",
        ws="websockets-sansio",
        log_config=build_logging(settings.log_level, settings.log_format),
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        backlog=settings.backlog,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_grace_seconds),
        callback_notify=partial(_follow_supervisor, os.getpid()) if settings.workers > 1 else None,
        timeout_notify=1,
        head_timeout=settings.head_timeout,
        max_head_bytes=settings.max_head_bytes,
        harden=not settings.debug,
    )


def run_server(config: ServerConfig) -> None:
    """Serves until SIGTERM or SIGINT: stops accepting, lets requests end, shuts the application down, returns.

    With several workers uvicorn's supervisor replaces a dead one. Exits with 3 where the application does not start.
    """
    if config.harden:
        harden_process()
    if config.workers > 1:
        # The workers inherit it. Replicas that are started apart need one that was set.
        if not any(os.environ.get(name) for name in (CLUSTER_SECRET, f"{CLUSTER_SECRET}_FILE")):
            os.environ[CLUSTER_SECRET] = secrets.token_urlsafe(48)
        Multiprocess(config, sockets=[config.bind_socket()]).run()
        return
    leave_on_signals()
    server = Server(config)
    server.run()
    if not server.started:
        raise SystemExit(3)


async def _follow_supervisor(supervisor: int) -> None:
    """Ends a worker whose supervisor was killed: it would keep the port, and nobody would replace it or pass signals on."""
    if os.getppid() != supervisor:
        os.kill(os.getpid(), signal.SIGTERM)


def leave_on_signals() -> None:
    """Makes SIGTERM and SIGINT end the process with 0 where uvicorn does not handle them.

    uvicorn raises the signal again after its own clean end; without this the process would end as if it had been killed.
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)
