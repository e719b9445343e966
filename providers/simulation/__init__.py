"""The simulation engine: what the mock server and the built-in `simulated` provider answer. Data plane, no
I/O.
"""

from .answers import (
    Frame,
    Operation,
    Reply,
    Settings,
    SimulatedAnswer,
    SimulatedStream,
    SimulatedUsage,
)
from .engine import Simulator, surface_of, unreadable
from .failures import (
    SimulatedFailure,
    Surface,
    context_failure,
    error_event,
    is_anthropic,
    quota_failure,
    status_failure,
)
from .tokens import count_text

__all__ = [
    "Frame",
    "Operation",
    "Reply",
    "Settings",
    "SimulatedAnswer",
    "SimulatedFailure",
    "SimulatedStream",
    "SimulatedUsage",
    "Simulator",
    "Surface",
    "context_failure",
    "count_text",
    "error_event",
    "is_anthropic",
    "quota_failure",
    "status_failure",
    "surface_of",
    "unreadable",
]
