"""The mock provider: a real HTTP server that answers like the vendors and fails on request. No Django."""

from .options import MockOptions
from .server import MockProcess, MockProvider, closed_port, mock_process

__all__ = ["MockOptions", "MockProcess", "MockProvider", "closed_port", "mock_process"]
