"""The records of one upstream attempt: the intent before dispatch and the final after it. Both planes; values only.

One attempt has one `attempt_id`, made before dispatch. Writing the same record twice is harmless: the id is the ledger's key.
"""

from __future__ import annotations

from typing import Literal

from tokenhub.core.records import record
from tokenhub.core.usage import NOTHING_USED, Usage

Outcome = Literal["completed", "truncated", "cancelled", "failed", "unsettled"]
"""completed: a whole answer. truncated: broke off after content was relayed. cancelled: the caller went away.
failed: the provider refused or never answered. unsettled: the process died before the end was known."""


@record(frozen=True, slots=True)
class AttemptIntent:
    """What is known before dispatch. Times are Unix seconds; ids are text; `number` counts the request's attempts from 1.

    `price_rates` are nano-dollars per million by bucket, so that a row can be priced even if its process died.
    `input_estimate` is tokens.
    """

    attempt_id: str
    request_id: str
    number: int
    started_at: float
    key_id: str
    team: str
    project: str
    operation: str
    streamed: bool
    asked_model: str
    model_id: str
    model: str
    upstream_model: str
    provider_id: str
    provider: str
    endpoint: str
    credential_id: str
    snapshot_revision: int
    price_version: str = ""
    price_rates: tuple[tuple[str, int], ...] | None = None
    input_estimate: int = 0
    purpose: str = "request"


@record(frozen=True, slots=True)
class AttemptFinal:
    """How it ended. `cost_nanos` None: unpriced. Durations are milliseconds; `first_token_ms` -1: none came."""

    attempt_id: str
    outcome: Outcome
    ended_at: float
    usage: Usage = NOTHING_USED
    cost_nanos: int | None = 0
    status: int = 0
    error_class: str = ""
    error_detail: str = ""
    finish_reason: str = ""
    duration_ms: int = 0
    first_token_ms: int = -1
    relayed_events: int = 0
    client_disconnected: bool = False
    upstream_request_id: str = ""
    served_model: str = ""
    translated: bool = False
