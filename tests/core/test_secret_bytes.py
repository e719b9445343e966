"""A secret on its way into a request: overwritten at its end, never shown, and made into more of its kind only."""

from __future__ import annotations

import copy
import gc
import json
import pickle

import pytest

from gateway.masking import MASK, mask_failure, mask_text, mask_usage
from gateway.upstream.framing import fixed_fields, render_head
from gateway.upstream.seam import Origin, UpstreamRequest
from providers.adapters.base import Failure, Inbound, Operation, Target
from providers.adapters.registry import get_adapter
from tests.providers.adapters.openai_cast import build_target
from tokenhub.core.secret_bytes import Secret, SecretBytes, mask_secret
from tokenhub.core.usage import Usage

KEY = b"sk-canary-0a1b2c"


def secret() -> SecretBytes:
    """A new one."""
    return SecretBytes.of((KEY,))


def test_it_is_zeros_when_nobody_uses_it_any_more_and_not_before() -> None:
    seen: list[bytes] = []

    class Watched(SecretBytes):
        __slots__ = ()

        def __del__(self) -> None:
            super().__del__()
            seen.append(bytes(self))

    made = Watched.of((b"Bearer ", KEY))
    view = memoryview(made)
    del made
    gc.collect()
    assert seen == []
    assert bytes(view) == b"Bearer " + KEY
    del view
    assert seen == [bytes(len(KEY) + 7)]


def test_it_is_put_together_of_anything_that_is_bytes() -> None:
    made = SecretBytes.of((b"a", bytearray(b"b"), memoryview(b"cd"), secret()))
    assert made == b"abcd" + KEY
    assert type(made) is SecretBytes
    assert not SecretBytes.of(())


def test_it_is_not_shown_copied_or_pickled() -> None:
    made = secret()
    shown = f"{made} {made!r} {made!s} {[made]} {(b'x', made)} {'%s' % made}"  # noqa: UP031
    assert "canary" not in shown
    for accident in (copy.copy, copy.deepcopy, pickle.dumps, json.dumps, hash):
        with pytest.raises(TypeError):
            accident(made)
    with pytest.raises(TypeError):
        made.copy()


@pytest.mark.parametrize("kind", [str, SecretBytes])
@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Incorrect API key: sk-canary-0a1b2c.", f"Incorrect API key: {MASK}."),
        ("sk-canary-0a1b2csk-canary-0a1b2c", MASK * 2),
        ("café sk-canary-0a1b2c \ud800", f"café {MASK} \ud800"),
        ("nothing of it", "nothing of it"),
        ("", ""),
    ],
)
def test_what_a_provider_repeats_of_it_is_masked(kind: type, text: str, masked: str) -> None:
    sent: Secret = KEY.decode() if kind is str else secret()
    assert mask_text(text, sent) == mask_secret(text, sent, MASK) == masked


def test_failures_and_usage_are_masked_by_bytes_too() -> None:
    failure = mask_failure(Failure("fatal", 400, f"no {KEY.decode()}", code=KEY.decode()), secret())
    assert (failure.message, failure.code) == (f"no {MASK}", MASK)
    usage = mask_usage(Usage(input=1, raw={"note": [f"{KEY.decode()}!"], KEY.decode(): 2}), secret())
    assert usage.raw == {"note": [f"{MASK}!"], MASK: 2}


@pytest.mark.parametrize(
    ("kind", "profile", "header"),
    [
        ("openai", {}, (b"authorization", b"Bearer " + KEY)),
        ("openai", {"auth_header": "api-key", "auth_scheme": ""}, (b"api-key", KEY)),
        ("vllm", {}, (b"authorization", b"Bearer " + KEY)),
        ("anthropic", {}, (b"x-api-key", KEY)),
        ("anthropic", {"auth": "bearer"}, (b"authorization", b"Bearer " + KEY)),
    ],
)
def test_from_the_adapter_to_the_socket_it_stays_what_it_is(
    kind: str, profile: dict[str, str], header: tuple[bytes, bytes]
) -> None:
    plain = build_target(kind, **profile)
    target = Target(plain.provider, plain.model, plain.endpoint, secret())
    operation = Operation.ANTHROPIC_MESSAGES if kind == "anthropic" else Operation.OPENAI_CHAT
    wire = get_adapter(kind).request(target, operation, b"{}", Inbound({}), stream=False)
    carried = [value for name, value in wire.headers if (name, value) == header]
    assert [type(value) for value in carried] == [SecretBytes]
    assert "canary" not in repr(wire.headers)
    origin = Origin("https", "api.example.com", 443)
    head = render_head(
        UpstreamRequest(origin, wire.method, wire.path, wire.headers, wire.body), fixed_fields(origin)
    )
    assert type(head) is SecretBytes
    assert b"%s: %s\r\n" % header in head


def test_a_line_break_in_it_is_refused() -> None:
    origin = Origin("https", "api.example.com", 443)
    headers = ((b"authorization", SecretBytes.of((b"a\r\nx-more: b",))),)
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        render_head(UpstreamRequest(origin, b"POST", b"/", headers, b""), fixed_fields(origin))
