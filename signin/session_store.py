"""Sessions in the database under a digest of their key: who reads the database can't take a session over. Control plane.

The key is in the browser's cookie only; it has 32 random characters, so that it can't be found from the digest. What a session
holds is signed for its own row: a copy of somebody's row under another key is no session.
"""

from __future__ import annotations

import hashlib
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.sessions.backends import db
from django.utils import timezone


def digest_of(session_key: str) -> str:
    """The name of a session's row: 40 hexadecimal digits of SHA-256, as many as the column has."""
    return hashlib.sha256(session_key.encode()).hexdigest()[:40]


class SessionStore(db.SessionStore):
    """Django's store of sessions in the database, with another name and signature for each row."""

    @property
    def key_salt(self) -> str:
        """What the signature of this session's content is for."""
        return f"signin.session_store.{digest_of(self.session_key or '')}"

    def exists(self, session_key: str) -> bool:
        """Whether there is such a session."""
        return bool(super().exists(digest_of(session_key)))

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        """The row to save."""
        row = super().create_model_instance(data)
        row.session_key = digest_of(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        """Ends a session: this one, unless another's key is given."""
        key = session_key or self.session_key
        if key:
            super().delete(digest_of(key))

    def _get_session_from_db(self) -> Any:
        key = self.session_key
        if key:
            rows = self.model.objects.filter(session_key=digest_of(key), expire_date__gt=timezone.now())
            if (row := rows.first()) is not None:
                return row
        # As Django does: a key that has no row is not taken over from the browser.
        self._session_key = None
        return None

    # Django's own asynchronous versions would look for the key itself.

    async def _aget_session_from_db(self) -> Any:
        return await sync_to_async(self._get_session_from_db)()

    async def aexists(self, session_key: str) -> bool:
        """As `exists`."""
        return await sync_to_async(self.exists)(session_key)

    async def acreate_model_instance(self, data: dict[str, Any]) -> Any:
        """As `create_model_instance`."""
        return await sync_to_async(self.create_model_instance)(data)

    async def adelete(self, session_key: str | None = None) -> None:
        """As `delete`."""
        await sync_to_async(self.delete)(session_key)
