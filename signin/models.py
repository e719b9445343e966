"""What signing in keeps of a user: since when sessions count, the second factor, recovery codes. Control plane."""

from __future__ import annotations

from django.conf import settings
from django.db import models


class SignIn(models.Model):
    """One user's door. `sealed_secret` is set once a second factor is confirmed; how it is sealed is in `signin.totp`."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="sign_in", primary_key=True
    )
    sessions_from = models.DateTimeField(null=True)
    """Sessions that began before have ended."""
    sealed_secret = models.TextField(blank=True)
    enrolled_at = models.DateTimeField(null=True)
    last_step = models.BigIntegerField(default=0)
    """The 30-second step of the last accepted code: none of it or before is taken again."""
    wrong_codes = models.PositiveIntegerField(default=0)
    wrong_since = models.DateTimeField(null=True)

    class Meta:
        verbose_name = "sign-in"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.user)

    @property
    def is_enrolled(self) -> bool:
        """Whether signing in asks for a second factor."""
        return bool(self.sealed_secret)


class RecoveryCode(models.Model):
    """The digest of a code that stands in for the authenticator once. The row goes when it is used."""

    sign_in = models.ForeignKey(SignIn, on_delete=models.CASCADE, related_name="recovery_codes")
    digest = models.CharField(max_length=64)

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["sign_in", "digest"], name="signin_recovery_code_unique")
        ]

    def __str__(self) -> str:
        return f"recovery code of {self.sign_in}"
