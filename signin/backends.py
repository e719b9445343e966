"""Django's own accounts, loaded with their door: a request asks the database once for both. Control plane."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User

from signin.models import SignIn


class Accounts(ModelBackend):
    """Passwords as Django keeps them. An unknown name costs a hash too, so that time tells nothing."""

    def get_user(self, user_id: Any) -> User | None:
        """The active user with this id, its door loaded."""
        user = User.objects.select_related("sign_in").filter(pk=user_id).first()
        return user if user is not None and self.user_can_authenticate(user) else None


def find_sign_in(user: Any) -> SignIn | None:
    """A user's door, or None where nothing is kept of it."""
    try:
        found: SignIn = user.sign_in
    except (AttributeError, SignIn.DoesNotExist):
        return None
    return found
