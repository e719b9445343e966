"""The data plane's settings as plain values; the wiring fills them in from the environment. Data plane."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tokenhub.core.addresses import PrivateOrigins


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Limits in bytes, times in seconds. `peppers` are the key peppers by version, never shown."""

    data_dir: Path
    instance: str = "local"
    peppers: dict[int, bytes] = field(default_factory=dict, repr=False)
    max_body_bytes: int = 25_000_000
    max_inflight_body_bytes: int = 400_000_000
    body_timeout: float = 60.0
    max_answer_bytes: int = 64_000_000
    max_attempts: int = 6
    max_drains: int = 64
    idempotency_wait: float = 600.0
    decisions_per_second: float = 20.0
    upstream_client: str = "http1"
    private_origins: PrivateOrigins = field(default_factory=PrivateOrigins)
    max_connections_per_origin: int = 1000
    metrics_token: str = field(default="", repr=False)
    metrics_allow: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    journal_sync_interval: float = 0.05
