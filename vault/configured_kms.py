"""The key management service that TOKENHUB_VAULT_KMS names, and the calls that it takes. Control plane.

Calls go out by `tokenhub.control.outbound`, like every other connection. Credentials for AWS are its standard variables,
read at each call: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN for temporary ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
from django.conf import settings

from tokenhub.control.outbound import AnswerRefused, OutboundRefused, make_client
from tokenhub.core.addresses import PrivateOrigins
from tokenhub.core.errors import InvalidRequest, TokenhubError
from tokenhub.redaction import remember
from tokenhub.setting_values import KmsSetting
from vault.engine.aws_kms import AwsCredentials, AwsKms, HttpRequest, HttpResponse, Send
from vault.engine.buffers import SecretBuffer
from vault.engine.errors import KmsFailed
from vault.engine.kms import Kms, KmsContext, SoftwareKms
from vault.headless import read_key

AWS_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 5.0
MAX_ANSWER_BYTES = 64 * 1024


class FileKms:
    """The stand-in: a wrapping key in a file, read at each call. For trials; it protects no better than a key file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def key_id(self) -> str:
        """The file's name."""
        return f"software:{self._path.name}"

    def wrap(self, key: SecretBuffer, context: KmsContext) -> bytes:
        """The key, sealed. Raises KmsFailed."""
        return self._ask(lambda kms: kms.wrap(key, context))

    def unwrap(self, wrapped: bytes, context: KmsContext) -> SecretBuffer:
        """The key. Raises DoesNotOpen, KmsFailed."""
        return self._ask(lambda kms: kms.unwrap(wrapped, context))

    def _ask[Result](self, call: Callable[[SoftwareKms], Result]) -> Result:
        try:
            key = read_key(self._path)
        except TokenhubError as error:
            raise KmsFailed(f"the stand-in for a KMS can't be used: {error.message}") from None
        with key:
            return call(SoftwareKms(self.key_id, key))


def make_kms(
    setting: KmsSetting,
    *,
    endpoint: str = "",
    private: PrivateOrigins | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Kms:
    """The service of a setting. Nothing is called yet. `endpoint` in place of AWS's public one."""
    if setting.provider == "software":
        return FileKms(Path(setting.key))
    return AwsKms(
        setting.key,
        setting.region,
        lambda: read_aws_credentials(environ),
        sender(private or PrivateOrigins()),
        now=lambda: datetime.now(UTC),
        endpoint=endpoint,
    )


def find_kms() -> Kms | None:
    """This installation's, None where none is set."""
    options = settings.TOKENHUB
    if options.vault_kms is None:
        return None
    return make_kms(
        options.vault_kms, endpoint=options.vault_kms_endpoint, private=options.allow_private_origins
    )


def get_kms() -> Kms:
    """The same. Raises InvalidRequest where none is set."""
    kms = find_kms()
    if kms is None:
        raise InvalidRequest(
            "no key management service is set", hint="set TOKENHUB_VAULT_KMS and restart", param="kind"
        )
    return kms


def read_aws_credentials(environ: Mapping[str, str]) -> AwsCredentials:
    """The standard variables'. Raises KmsFailed, naming the ones that are missing."""
    key_id, secret, token = (environ.get(name, "").strip() for name in AWS_VARIABLES)
    missing = [name for name, value in zip(AWS_VARIABLES, (key_id, secret), strict=False) if not value]
    if missing:
        raise KmsFailed(
            f"AWS KMS can't be asked: {' and '.join(missing)} not set", hint="set them and restart"
        )
    # No settings, which are taken out of everything that is written already.
    remember(value for value in (secret, token) if value)
    return AwsCredentials(key_id, SecretBuffer.copy_of(secret.encode()), token)


def sender(private: PrivateOrigins) -> Send:
    """How a signed request goes out: a connection for each, bounded in time and bytes. Raises KmsFailed."""

    def send(request: HttpRequest) -> HttpResponse:
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        try:
            with make_client(private, timeout=timeout, max_bytes=MAX_ANSWER_BYTES) as client:
                answer = client.post(request.url, headers=dict(request.headers), content=request.body)
                return HttpResponse(answer.status_code, answer.content)
        except OutboundRefused as error:
            raise KmsFailed(f"AWS KMS is not reached: {error}", hint=error.hint) from None
        except (AnswerRefused, httpx.HTTPError, httpx.InvalidURL) as error:
            # `from None`: the request in the cause holds what is wrapped.
            raise KmsFailed(
                f"AWS KMS does not answer: {type(error).__name__}", hint="try again later"
            ) from None

    return send
