"""How an answer goes out: its head, its frames, how it ends; and what a fault does to that. Mock provider, no
I/O.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from providers.simulation import (
    Frame,
    Reply,
    SimulatedAnswer,
    SimulatedFailure,
    SimulatedStream,
    SimulatedUsage,
    Surface,
    context_failure,
    error_event,
    is_anthropic,
    quota_failure,
    status_failure,
)

from .faults import Fault

_NOTHING = SimulatedUsage()


class Ending(Enum):
    """How a delivery ends: properly, by closing the connection, by silence, or by a TCP reset."""

    FINISH = "finish"
    CLOSE = "close"
    STALL = "stall"
    RESET = "reset"


Step = Frame | Ending


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the connection does: wait `delay` seconds, write the head (none when status is None), then the
    steps.

    `length` is the promised Content-Length; None means chunked. Steps without an Ending finish properly.
    `booked` is the usage that counts although no frame carries it: the prompt for streams, all for whole
    bodies.
    """

    status: int | None
    headers: tuple[tuple[str, str], ...]
    length: int | None
    steps: Iterable[Step]
    booked: SimulatedUsage = _NOTHING
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault needs to know besides the answer: whose shapes, the request's id, the caller's key."""

    surface: Surface
    request_id: str
    key: str = ""


_JSON = (("content-type", "application/json"),)
_PAGE = (
    b"<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad "
    b"Gateway</h1></center></body></html>"
)
_WINDOW = 200_000
_PROMPT_OVER_WINDOW = 213_462


def deliver(reply: Reply, delay: float = 0.0) -> Delivery:
    """The answer as it is."""
    if isinstance(reply, SimulatedStream):
        return Delivery(
            reply.status, reply.headers, None, reply.frames, replace(reply.usage, output=0), delay
        )
    return Delivery(reply.status, reply.headers, len(reply.body), (Frame(reply.body),), reply.usage, delay)


def answers_itself(fault: Fault) -> bool:
    """Whether the fault replaces the answer, so that none needs to be computed."""
    return fault.name.partition("-")[0].isdecimal() or fault.name in ("reset", "silent", "context")


def refuse(fault: Fault, scene: Scene, delay: float = 0.0) -> Delivery:
    """The delivery of a fault that replaces the answer."""
    if fault.name in ("reset", "silent"):
        ending = Ending.RESET if fault.name == "reset" else Ending.STALL
        return Delivery(None, (), 0, (ending,))
    failure = _failure(fault, scene)
    name = "request-id" if is_anthropic(scene.surface) else "x-request-id"
    headers = (*_JSON, (name, scene.request_id), *failure.headers)
    return deliver(
        SimulatedAnswer(failure.status, headers, failure.body(scene.surface, scene.request_id)), delay
    )


def _failure(fault: Fault, scene: Scene) -> SimulatedFailure:
    if fault.name == "context":
        return context_failure(scene.surface, _PROMPT_OVER_WINDOW, _WINDOW)
    if fault.name == "429-quota":
        return quota_failure()
    status = int(fault.name.partition("-")[0])
    return status_failure(scene.surface, status, fault.k if fault.name == "429" else None, scene.key)


def spoil(fault: Fault, reply: Reply, scene: Scene, delay: float) -> Delivery:
    """The delivery of an answer with this fault."""
    plain = deliver(reply, delay)
    change = _CHANGES.get(fault.name)
    if change is not None:
        return change(plain, fault)
    whole = _WHOLE.get(fault.name)
    if whole is not None:
        return replace(
            plain,
            headers=_JSON if whole is not _PAGE else (("content-type", "text/html"),),
            length=len(whole),
            steps=(Frame(whole),),
        )
    if isinstance(reply, SimulatedStream):
        return replace(plain, steps=_spoil_stream(fault, reply.frames, scene))
    return _spoil_body(fault, reply.body, plain, scene)


_WHOLE = {
    "bad-json": b'{"id":"broken","object":"chat.completion","choices":[{"index":0,"message":{"role":"assis',
    "null-body": b"null",
    "html": _PAGE,
}


def _slow(plain: Delivery, fault: Fault) -> Delivery:
    return replace(plain, delay=plain.delay + (fault.k or 0) / 1000)


def _huge_head(plain: Delivery, fault: Fault) -> Delivery:
    return replace(plain, headers=(*plain.headers, ("x-filler", "f" * 1024 * (fault.k or 0))))


def _silent_after_head(plain: Delivery, fault: Fault) -> Delivery:
    return replace(plain, steps=(Ending.STALL,))


def _empty(plain: Delivery, fault: Fault) -> Delivery:
    return replace(plain, length=None if plain.length is None else 0, steps=())


def _late_usage(plain: Delivery, fault: Fault) -> Delivery:
    return replace(plain, steps=_delayed_end(plain.steps, (fault.k or 0) / 1000))


def _unchanged(plain: Delivery, fault: Fault) -> Delivery:
    return plain


_CHANGES: dict[str, Callable[[Delivery, Fault], Delivery]] = {
    "slow": _slow,
    "huge-head": _huge_head,
    "silent-after-head": _silent_after_head,
    "empty": _empty,
    "late-usage": _late_usage,
    # The simulator was already told to leave usage out.
    "no-usage": _unchanged,
}


def _spoil_body(fault: Fault, body: bytes, plain: Delivery, scene: Scene) -> Delivery:
    half = Frame(body[: len(body) // 2])
    if fault.name == "cut" or fault.name == "malformed-cut":
        return replace(plain, steps=(half, Ending.CLOSE))
    if fault.name == "stall":
        return replace(plain, steps=(half, Ending.STALL))
    if fault.name == "error-event":
        failure = status_failure(scene.surface, 529 if scene.surface == "anthropic" else 500)
        broken = failure.body(scene.surface, scene.request_id)
        return replace(plain, length=len(broken), steps=(Frame(broken),), booked=_NOTHING)
    return replace(plain, length=len(half.data), steps=(half,))


def _spoil_stream(fault: Fault, frames: Iterator[Frame], scene: Scene) -> Iterator[Step]:
    broken = malformed_event(scene.surface)
    if fault.name == "error-event":
        event = Frame(error_event(scene.surface, scene.request_id))
        if fault.k is None:
            return iter((event,))
        return _interrupted(frames, fault.k, (event, Ending.FINISH))
    interruptions: dict[str, tuple[Step, ...]] = {
        "cut": (Ending.CLOSE,),
        "stall": (Ending.STALL,),
        "malformed": (Frame(broken),),
        "malformed-cut": (Frame(broken), Ending.CLOSE),
        "truncated": (Frame(broken[: len(broken) // 2]), Ending.FINISH),
    }
    return _interrupted(frames, fault.k or 0, interruptions[fault.name])


def malformed_event(surface: Surface) -> bytes:
    """An event whose data is not JSON."""
    if is_anthropic(surface):
        return (
            b"event: content_block_delta\n"
            b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"bro\n\n'
        )
    return (
        b"data: "
        b'{"id":"chatcmpl-broken","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"cont\n\n'
    )


def _interrupted(frames: Iterator[Frame], after: int, steps: tuple[Step, ...]) -> Iterator[Step]:
    """The frames with `steps` put in right after content event number `after`; for 0, before the first one.

    A stream with fewer content events is interrupted before its last frame.
    """
    seen, held, done = 0, None, False
    for frame in frames:
        if held is not None:
            yield held
        if frame.content and not done and seen == after == 0:
            yield from steps
            done = True
        seen += frame.content
        if frame.content and not done and seen == after:
            yield frame
            yield from steps
            held, done = None, True
            continue
        held = frame
    if not done:
        yield from steps
    if held is not None:
        yield held


def _delayed_end(steps: Iterable[Step], delay: float) -> Iterator[Step]:
    """Delays the event with the final usage (or, when none has it, the very last) by `delay` seconds."""
    held: Step | None = None
    begun = False
    for step in steps:
        if held is not None:
            yield held
        held = step
        if isinstance(step, Frame):
            if begun and not step.content and b'"usage":{' in step.data:
                held, delay = replace(step, delay=step.delay + delay), 0.0
            begun = begun or step.content
    if isinstance(held, Frame):
        yield replace(held, delay=held.delay + delay)
