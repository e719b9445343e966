"""The simulated provider: a request of a wire operation in, the vendor's answer out. Data plane, no I/O.

The mock server and the built-in `simulated` provider both run this. It never sleeps: frames say how long the
transport should wait. Its only state is a prompt cache, a counter for ids and the key that signs thinking.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import count

from . import anthropic_messages, models, openai_chat, openai_completions, openai_embeddings
from .answers import Call, Operation, Reply, Settings, SimulatedAnswer, SimulatedStream
from .cache import PromptCache
from .dice import digest
from .failures import SimulatedFailure, Surface
from .generation import identifier

_RESPONDERS: dict[Operation, Callable[[Call], Reply]] = {
    "chat.completions": openai_chat.respond,
    "completions": openai_completions.respond,
    "embeddings": openai_embeddings.respond,
    "models": models.respond,
    "messages": anthropic_messages.respond,
    "messages.count_tokens": anthropic_messages.count,
}
DEFAULT_VERSION = "2023-06-01"
_ANTHROPIC_OPERATIONS = ("messages", "messages.count_tokens")


def surface_of(operation: Operation, settings: Settings, version: str = "") -> Surface:
    """Whose shapes this operation answers in; `models` follows the `anthropic-version` header when there is
    one.
    """
    anthropic = operation in _ANTHROPIC_OPERATIONS
    if settings.dialect == "vllm":
        return "vllm-messages" if anthropic else "vllm"
    return "anthropic" if anthropic or (operation == "models" and version) else "openai"


class Simulator:
    """One simulated provider. `key` signs thinking blocks and seeds request ids; `now` gives seconds since
    1970.
    """

    __slots__ = ("_cache", "_key", "_now", "_serial", "settings")

    def __init__(self, settings: Settings, *, key: bytes, now: Callable[[], float]) -> None:
        self.settings = settings
        self._key = key
        self._now = now
        self._cache = PromptCache()
        self._serial = count()

    def request_id(self) -> str:
        """A fresh id, `req_` and 24 letters; the same key gives the same sequence."""
        return "req_" + identifier(digest(self._key, b"%d" % next(self._serial)))

    def respond(
        self,
        operation: Operation,
        request: object,
        *,
        version: str | None = None,
        settings: Settings | None = None,
        request_id: str | None = None,
    ) -> Reply:
        """The answer to a parsed request: a SimulatedStream when it asks for one and is accepted, else a
        body.

        Never raises for what a client sent: refusals are answers with the vendor's status and body. `version`
        is the `anthropic-version` header, empty when a server saw none (a 400 for Anthropic), None when there
        is no header to speak of; `settings` replaces the simulator's for this call.
        """
        used = settings or self.settings
        surface = surface_of(operation, used, version or "")
        known = DEFAULT_VERSION if version is None else version
        return self._respond(operation, request, surface, known, used, request_id or self.request_id())

    def _respond(
        self,
        operation: Operation,
        request: object,
        surface: Surface,
        version: str,
        used: Settings,
        request_id: str,
    ) -> Reply:
        fields = request if isinstance(request, dict) else {}
        call = Call(fields, used, surface, version, request_id, self._now, self._key, self._cache)
        try:
            if not isinstance(request, dict):
                raise unreadable(surface)
            return _RESPONDERS[operation](call)
        except SimulatedFailure as failure:
            return call.fail(failure)
        except (AttributeError, KeyError, TypeError):
            # A value of a type that no check above names; the vendors answer those with a 400 too.
            return call.fail(unreadable(surface))

    def answer(
        self, operation: Operation, request: Mapping[str, object], *, version: str | None = None
    ) -> SimulatedAnswer:
        """The complete answer, whether or not the request asks to stream."""
        plain = {name: value for name, value in request.items() if name not in ("stream", "stream_options")}
        reply = self.respond(operation, plain, version=version)
        if isinstance(reply, SimulatedStream):
            raise TypeError("an operation streamed although it was asked not to")
        return reply

    def stream(
        self, operation: Operation, request: Mapping[str, object], *, version: str | None = None
    ) -> Iterator[bytes]:
        """The events of the streamed answer, without pacing; raises SimulatedFailure when the vendor would
        refuse.
        """
        reply = self.respond(operation, {**request, "stream": True}, version=version)
        if isinstance(reply, SimulatedAnswer):
            raise SimulatedFailure(reply.status, reply.body.decode())
        return (frame.data for frame in reply.frames)


def unreadable(surface: Surface) -> SimulatedFailure:
    """The vendor's 400 for a body that is not a JSON object of the expected types."""
    if surface == "anthropic":
        return SimulatedFailure(400, "The request body is not valid JSON: expected an object")
    return SimulatedFailure(
        400,
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your "
        "HTTP library "
        "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
    )
