"""`manage.py mockprovider`: starts the mock provider. Control plane only by name; the server needs no Django."""

import argparse
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from providers.mock.options import add_arguments, from_arguments
from providers.mock.run import run


class Command(BaseCommand):  # type: ignore[misc]  # Django has no type information
    """Runs the mock provider in the foreground."""

    help = "Runs the mock provider: OpenAI's and Anthropic's wire formats, with faults on request."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        run(from_arguments(argparse.Namespace(**options)))
