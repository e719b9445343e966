"""People in browsers on the vault's pages, who keep all that they were sent; and workers that report."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from signin.sessions import CONFIRMED
from tests.console.cast import a_person_who_may
from vault.models import Vault, VaultWorker

VAULT_ADMIN = (
    *(f"vault.{name}_vault" for name in ("view", "unlock", "manage")),
    *(f"vault.{verb}_credential" for verb in ("view", "add", "change", "delete")),
    "providers.view_provider",
)


class Visitor:
    """Somebody signed in, with these permissions. `seen` is everything that pages, headers and URLs have told."""

    def __init__(self, *permissions: str, username: str = "vera", user: User | None = None) -> None:
        self.client = Client(raise_request_exception=False)
        self.client.force_login(user or a_person_who_may(*(permissions or VAULT_ADMIN), username=username))
        self.seen = ""

    def get(self, path: str, expect: int = 200, **extra: Any) -> str:
        """A page's text."""
        return self._keep(self.client.get(f"/admin/vault/{path}", **extra), expect)

    def post(self, path: str, expect: int = 302, **fields: Any) -> str:
        """What a form's answer says; after a redirect the page that it leads to."""
        answer = self.client.post(f"/admin/vault/{path}", fields)
        text = self._keep(answer, expect)
        if expect == 302:
            text = self._keep(self.client.get(answer["Location"]), 200)
        return text

    def forget_confirmation(self) -> None:
        """As if the last proof of who it is were an hour ago."""
        session = self.client.session
        session[CONFIRMED] = (timezone.now() - timedelta(hours=1)).timestamp()
        session.save()

    def session_text(self) -> str:
        """All that the session holds."""
        return repr(dict(self.client.session.items()))

    def _keep(self, answer: Any, expect: int) -> str:
        assert answer.status_code == expect, (
            answer.status_code,
            answer.get("Location"),
            plain(answer.content.decode()),
        )
        text = answer.content.decode()
        self.seen += text + repr(answer.headers)
        return text


def plain(html: str) -> str:
    """A page's text without its markup, spaces folded."""
    body = html.partition('id="content-main"')[2] or html
    text = re.sub(r"<[^>]+>", " ", body)
    for entity, sign in (("&#x27;", "'"), ("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        text = text.replace(entity, sign)
    return re.sub(r"\s+", " ", text)


def workers_of(number: int, *, unlocked: int, name: str = "gateway", **fields: Any) -> None:
    """So many workers that have reported just now, the first ones unlocked in the vault's present epoch."""
    vault = Vault.objects.get()
    for index in range(number):
        is_open = index < unlocked
        values: dict[str, Any] = {
            "instance": f"{name}-{index + 1}",
            "boot_id": f"{index:032x}",
            "state": "unlocked" if is_open else "locked",
            "lock_epoch": vault.lock_epoch if is_open else 0,
            "root_version": vault.root_version if is_open else 0,
            "key_versions": [vault.active_key] if is_open else [],
            "seen_at": timezone.now(),
        }
        VaultWorker.objects.create(**{**values, **fields})
