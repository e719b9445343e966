"""`manage.py apply_config`: brings the database in line with config.yaml and prints the difference. Control plane."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from console.declare import apply_declaration
from tokenhub.configfile import read_config_file
from tokenhub.control.actors import Actor
from tokenhub.core.errors import TokenhubError
from vault.keyring import Keyring


class Command(BaseCommand):
    """Applies the file, all of it or nothing."""

    help = "Applies the configuration file and prints the difference; a second run changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds `--dry-run`."""
        parser.add_argument(
            "--dry-run", action="store_true", help="only print; exit with 1 if something would change"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Runs it; an error is one line that names file and line."""
        try:
            config = read_config_file(settings.TOKENHUB.config, required=True)
            keyring = Keyring(os.environ, settings.TOKENHUB.credentials_dir)
            actor = Actor.command("apply_config")
            difference = apply_declaration(config, actor, keyring, dry_run=options["dry_run"])
        except TokenhubError as error:
            raise CommandError(error.message) from error
        self.stdout.write("\n".join(difference) or "no change")
        if options["dry_run"] and difference:
            sys.exit(1)
