"""`manage.py reset_second_factor NAME`: for when no owner is left who could do it in the browser. Control plane."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from signin.actions import remove_second_factor
from tokenhub.control.actors import Actor
from tokenhub.core.errors import TokenhubError


class Command(BaseCommand):
    """Removes a user's second factor and ends the user's sessions; audited."""

    help = "Removes a user's second factor and ends the user's sessions. Audited."

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds the user's name."""
        parser.add_argument("username")

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises CommandError where there is no such user, or nothing to remove."""
        user = User.objects.filter(username=options["username"]).first()
        if user is None:
            raise CommandError("there is no such user")
        try:
            remove_second_factor(Actor.command("reset_second_factor"), user, timezone.now())
        except TokenhubError as refused:
            raise CommandError(refused.message) from refused
        self.stdout.write(f"{user} has no second factor any more")
