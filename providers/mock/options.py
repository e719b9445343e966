"""What a mock server is told when it starts, and the command line for it. Mock provider, no Django."""

import argparse
from dataclasses import dataclass, field

from providers.simulation import Settings


@dataclass(frozen=True, slots=True)
class MockOptions:
    """Port (0: any free one), address, the simulated provider's settings, and a key that callers must show."""

    port: int = 0
    host: str = "127.0.0.1"
    settings: Settings = field(default_factory=Settings)
    require_key: str | None = field(default=None, repr=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the mock's options to a parser; times are in milliseconds, lengths in tokens."""
    parser.add_argument("--port", type=int, default=9100, help="0 takes a free port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--dialect", choices=("vendor", "vllm"), default="vendor")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="before an answer begins")
    parser.add_argument("--gap-ms", type=float, default=0.0, help="between the events of a stream")
    parser.add_argument(
        "--tokens", type=int, help="exact length of each text answer, one event each when streamed"
    )
    parser.add_argument("--models", help="names for /v1/models, separated by commas; any name is answered")
    parser.add_argument("--context-window", type=int, help="longest prompt that is accepted, in tokens")
    parser.add_argument(
        "--cache-minimum", type=int, default=1024, help="least tokens that the prompt cache keeps"
    )
    parser.add_argument(
        "--strict-fields", action="store_true", help="refuse unknown fields as the vendors do"
    )
    parser.add_argument("--require-key", help="answer 401 to any other key")


def from_arguments(given: argparse.Namespace) -> MockOptions:
    """The options of a parsed command line."""
    settings = Settings(
        dialect=given.dialect,
        latency=given.latency_ms / 1000,
        gap=given.gap_ms / 1000,
        tokens=given.tokens,
        models=tuple(given.models.split(",")) if given.models else Settings().models,
        context_window=given.context_window,
        strict_fields=given.strict_fields,
        cache_minimum=given.cache_minimum,
    )
    return MockOptions(given.port, given.host, settings, given.require_key)


def to_arguments(options: MockOptions) -> list[str]:
    """The command line that `from_arguments` reads as these options."""
    settings = options.settings
    line = [
        f"--port={options.port}",
        f"--host={options.host}",
        f"--dialect={settings.dialect}",
        f"--latency-ms={settings.latency * 1000}",
        f"--gap-ms={settings.gap * 1000}",
        f"--models={','.join(settings.models)}",
        f"--cache-minimum={settings.cache_minimum}",
    ]
    if settings.tokens is not None:
        line.append(f"--tokens={settings.tokens}")
    if settings.context_window is not None:
        line.append(f"--context-window={settings.context_window}")
    if settings.strict_fields:
        line.append("--strict-fields")
    if options.require_key is not None:
        line.append(f"--require-key={options.require_key}")
    return line
