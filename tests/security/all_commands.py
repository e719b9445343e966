"""Runs many of `manage.py`'s commands in one process, with what each prints, tracebacks and all, on standard output.

A process for each would take a minute and a half: nearly all of it is Django's start.
"""

from __future__ import annotations

import os
import sys

from django.core.management import execute_from_command_line

COMMANDS = (
    "check", "check --deploy", "diffsettings", "diffsettings --all", "roles", "audit verify", "audit export",
    "audit export --format csv", "apply_config --dry-run", "usage_drain", "healthcheck", "showmigrations",
    "vault status", "bootstrap --wait 0", "clearsessions", "nonsense",
)  # fmt: skip


def run(command: str) -> None:
    """One command, as the interpreter would run it: what escapes is printed by the hook for that."""
    print(f"=== {command}", flush=True)
    try:
        name, *rest = command.split()
        execute_from_command_line(["manage.py", name, "--traceback", *rest])
    except SystemExit as ended:
        print(f"ended with {ended.code}")
    except BaseException:
        sys.excepthook(*sys.exc_info())


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tokenhub.settings")
    os.dup2(1, 2)
    for command in COMMANDS:
        run(command)
