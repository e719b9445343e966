"""The faults that a caller can ask for, and how a request names one. Mock provider, no Django.

A fault is `name` or `name` with a number k. A request names it in the header `x-mock-fault: name:k`, in its
model (`fault-name`, `fault-name-k`, `anything@name:k`), or it was scheduled for the next calls. In that
order.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

# Each fault with the k it has when none is given: None where k means nothing or "at once".
DEFAULTS: dict[str, int | None] = {
    "reset": None,  # RST before any byte
    "silent": None,  # accepts, never answers
    "silent-after-head": None,  # 200 and headers, then nothing
    "cut": 3,  # connection closed after k content events, or after half a body
    "stall": 3,  # silence after k content events, or after half a body
    "malformed": 3,  # one unreadable event after k content events, then on as usual
    "malformed-cut": 3,  # one unreadable event after k content events, then the connection closes
    "truncated": 3,  # half an event after k content events, then a proper end
    "error-event": None,  # 200, then the vendor's error event: first, or after k content events
    "empty": None,  # 200 and no byte of body
    "bad-json": None,  # 200 and broken JSON
    "null-body": None,  # 200 and `null`
    "html": None,  # 200 and a web page
    "context": None,  # the vendor's 400 for too long a prompt
    "401": None,
    "403": None,
    "404": None,
    "429": 1,  # k: seconds in retry-after
    "429-no-header": None,
    "429-quota": None,  # OpenAI's insufficient_quota, which no retry helps
    "500": None,
    "502": None,
    "503": None,
    "529": None,
    "slow": 1000,  # k: milliseconds before the answer
    "huge-head": 128,  # k: KiB of one header
    "no-usage": None,  # usage left out
    "late-usage": 250,  # k: milliseconds between the last content and what follows
}
_SCHEDULE_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its name and its number k, the default filled in."""

    name: str
    k: int | None = None

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}:{self.k}"


def find_fault(text: str) -> Fault | None:
    """The fault that `name`, `name:k`, `name@k` or `name-k` means, or None."""
    if text in DEFAULTS:
        return Fault(text, DEFAULTS[text])
    for mark in (":", "@", "-"):
        name, found, number = text.rpartition(mark)
        if found and name in DEFAULTS and number.isdecimal():
            return Fault(name, int(number))
    return None


def find_in_model(model: str) -> Fault | None:
    """The fault that a model's name asks for, or None; a name such as `model@20240229` asks for none."""
    name = model.rpartition("/")[2].removeprefix("vllm-")
    if name.startswith("fault-"):
        return find_fault(name.removeprefix("fault-"))
    before, found, asked = model.rpartition("@")
    if not found:
        return None
    fault = find_fault(asked)
    # `model@cut@3` splits at the last mark; the fault's own name stands one mark earlier.
    return fault or find_fault(f"{before.rpartition('@')[2]}:{asked}")


@dataclass(slots=True)
class _Scheduled:
    fault: Fault
    left: int
    path: str | None
    model: str | None

    def matches(self, path: str, model: str, method: str) -> bool:
        # Without a path a fault waits for inference: a probe or a listing in between must not use it up.
        here = method == "POST" if self.path is None else self.path == path
        return here and self.model in (None, model)


class FaultSchedule:
    """Faults for the next calls that name none themselves, used up in the order in which they were set."""

    def __init__(self) -> None:
        self._waiting: deque[_Scheduled] = deque(maxlen=_SCHEDULE_LIMIT)

    def add(self, fault: Fault, count: int, path: str | None = None, model: str | None = None) -> None:
        """Schedules the fault for the next `count` calls, of this path and model when given."""
        self._waiting.append(_Scheduled(fault, count, path, model))

    def take(self, path: str, model: str, method: str = "POST") -> Fault | None:
        """The fault for a call that arrives now, or None; without a path only POSTs take one."""
        for entry in self._waiting:
            if entry.left > 0 and entry.matches(path, model, method):
                entry.left -= 1
                if not entry.left:
                    self._waiting.remove(entry)
                return entry.fault
        return None

    def clear(self) -> None:
        """Forgets what is scheduled."""
        self._waiting.clear()

    def listing(self) -> Iterable[dict[str, object]]:
        """What is still scheduled, as JSON-ready objects."""
        return [
            {"fault": str(entry.fault), "left": entry.left, "path": entry.path, "model": entry.model}
            for entry in self._waiting
        ]
