#!/usr/bin/env python
"""Runs the project's commands: `manage.py serve`, `bootstrap`, `apply_config`, and Django's own. Control plane."""

import os
import sys

from django.core.management import execute_from_command_line

from tokenhub.core.errors import SettingInvalid
from tokenhub.logs import guard_tracebacks


def main() -> int:
    """Runs one command; a wrong setting is one clear line, not a traceback."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")
    guard_tracebacks()
    try:
        execute_from_command_line(sys.argv)
    except SettingInvalid as error:
        print(f"tokenhub: {error.message}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
