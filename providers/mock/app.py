"""What the mock does with a request: which operation, which fault, which control page. Mock provider, no I/O."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs

import msgspec

from providers.simulation import (
    Operation,
    Reply,
    Settings,
    SimulatedAnswer,
    SimulatedFailure,
    Simulator,
    Surface,
    count_text,
    status_failure,
    surface_of,
)

from .calls import CallLog, CallRecord, RawHeaders
from .delivery import Delivery, Scene, answers_itself, deliver, refuse, spoil
from .faults import Fault, FaultSchedule, find_fault, find_in_model
from .options import MockOptions

_POSTS: dict[str, Operation] = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "messages.count_tokens",
}
_MODELS = "/v1/models"
_OPEN_PATHS = ("/", "/health", "/ping", "/version", "/metrics")
_JSON = ("content-type", "application/json")
_VLLM_VERSION = "0.32.0"
_DEFAULT_WINDOW = 200_000
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class Request:
    """One complete request: target split into path and query, headers as they came, the decoded body."""

    method: str
    path: str
    query: str
    raw_headers: RawHeaders = field(repr=False)
    body: bytes = field(repr=False)
    connection: int

    def headers(self) -> dict[str, str]:
        """The headers by lower-case name; of several with one name, the last."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.raw_headers}


class MockApp:
    """The mock without its sockets. `handle` counts a call and says what to deliver; control pages count
    nothing.
    """

    def __init__(self, options: MockOptions, *, key: bytes, now: Callable[[], float]) -> None:
        self.options = options
        self.log = CallLog()
        self.schedule = FaultSchedule()
        self.keys = frozenset(() if options.require_key is None else (options.require_key,))
        """The keys that callers may show; empty: any."""
        self.now = now
        self._simulator = Simulator(options.settings, key=key, now=now)

    def handle(self, request: Request) -> tuple[Delivery, CallRecord | None]:
        """What to send, and the call's record unless it is a control page."""
        if request.path.startswith("/_"):
            return self._control(request), None
        record = self.log.begin(
            request.method, request.path, request.raw_headers, request.body, self.now(), request.connection
        )
        delivery = self._answer(request, record)
        self.log.name(record)
        return delivery, record

    def _answer(self, request: Request, record: CallRecord) -> Delivery:
        headers = request.headers()
        operation, fields = self._operation(request)
        settings = self._settings(headers, record, fields)
        request_id = self._simulator.request_id()
        version = headers.get("anthropic-version", "")
        surface = surface_of(operation or "models", settings, version)
        scene = Scene(surface, request_id, _shown_key(headers))
        fault = self._fault(request, headers, record)
        record.fault = str(fault) if fault else None
        if fault is not None and answers_itself(fault):
            return refuse(fault, scene, settings.latency)
        if not self._allowed(request.path, scene):
            return self._failed(status_failure(surface, 401, key=scene.key), scene)
        if operation is None:
            reply: Reply = self._other(request, settings, surface, request_id)
        else:
            if fault is not None and fault.name == "no-usage":
                settings = replace(settings, reports_usage=False)
            reply = self._simulator.respond(
                operation, fields, version=version, settings=settings, request_id=request_id
            )
        if fault is not None:
            return spoil(fault, reply, scene, settings.latency)
        return deliver(reply, settings.latency)

    def _operation(self, request: Request) -> tuple[Operation | None, object]:
        if request.method == "POST":
            operation = _POSTS.get(request.path)
            return operation, _parsed(request.body) if operation else None
        if request.method == "GET" and request.path == _MODELS:
            return "models", {}
        if request.method == "GET" and request.path.startswith(_MODELS + "/"):
            return "models", {"model": request.path.removeprefix(_MODELS + "/")}
        return None, None

    def _settings(self, headers: dict[str, str], record: CallRecord, fields: object) -> Settings:
        settings = self.options.settings
        if isinstance(fields, dict):
            record.stream = fields.get("stream") is True
            if isinstance(fields.get("model"), str):
                record.model = fields["model"]
        if headers.get("x-mock-dialect") == "vllm" or record.model.startswith("vllm-"):
            settings = replace(settings, dialect="vllm")
        if "x-mock-tokens" in headers:
            settings = replace(settings, tokens=int(headers["x-mock-tokens"]))
        if "x-mock-latency-ms" in headers:
            settings = replace(settings, latency=float(headers["x-mock-latency-ms"]) / 1000)
        if "x-mock-gap-ms" in headers:
            settings = replace(settings, gap=float(headers["x-mock-gap-ms"]) / 1000)
        return settings

    def _fault(self, request: Request, headers: dict[str, str], record: CallRecord) -> Fault | None:
        asked = headers.get("x-mock-fault")
        if asked is not None:
            return find_fault(asked)
        return find_in_model(record.model) or self.schedule.take(request.path, record.model, request.method)

    def _allowed(self, path: str, scene: Scene) -> bool:
        return not self.keys or scene.key in self.keys or path in _OPEN_PATHS

    def _failed(self, failure: SimulatedFailure, scene: Scene) -> Delivery:
        body = failure.body(scene.surface, scene.request_id)
        return deliver(SimulatedAnswer(failure.status, (_JSON, *failure.headers), body))

    def _other(
        self, request: Request, settings: Settings, surface: Surface, request_id: str
    ) -> SimulatedAnswer:
        if request.method in ("GET", "HEAD") and request.path in ("/", "/health", "/ping"):
            return SimulatedAnswer(200, (), b"")
        if request.path == "/version":
            return _json(200, {"version": _VLLM_VERSION})
        if request.path == "/metrics":
            return SimulatedAnswer(
                200, (("content-type", "text/plain; version=0.0.4; charset=utf-8"),), self._metrics()
            )
        if request.path == "/tokenize" and request.method == "POST":
            return self._tokenize(_parsed(request.body), settings)
        known = request.path in _POSTS or request.path == _MODELS
        return _not_found(request, surface, request_id, 405 if known else 404)

    def _metrics(self) -> bytes:
        seen = self.log.document(0)
        usage = seen["usage"]
        tokens = usage if isinstance(usage, dict) else {}
        lines = (
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running {seen['in_progress']}",
            "# TYPE vllm:num_requests_waiting gauge",
            "vllm:num_requests_waiting 0",
            "# TYPE vllm:kv_cache_usage_perc gauge",
            "vllm:kv_cache_usage_perc 0.0",
            "# TYPE vllm:prompt_tokens_total counter",
            f"vllm:prompt_tokens_total {tokens.get('input_tokens', 0)}",
            "# TYPE vllm:generation_tokens_total counter",
            f"vllm:generation_tokens_total {tokens.get('output_tokens', 0)}",
        )
        return "\n".join((*lines, "")).encode()

    def _tokenize(self, fields: object, settings: Settings) -> SimulatedAnswer:
        given = fields if isinstance(fields, dict) else {}
        text = given.get("prompt")
        if not isinstance(text, str):
            text = "".join(
                message["content"]
                for message in given.get("messages") or ()
                if isinstance(message, dict) and isinstance(message.get("content"), str)
            )
        number = count_text(text)
        window = settings.context_window or _DEFAULT_WINDOW
        body = {"count": number, "max_model_len": window, "tokens": list(range(number)), "token_strs": None}
        return _json(200, body)

    def _control(self, request: Request) -> Delivery:
        asked = {name: values[-1] for name, values in parse_qs(request.query).items()}
        limit = int(asked["limit"]) if asked.get("limit", "").isdecimal() else None
        if request.path == "/_stats" and request.method == "GET":
            shown = deliver(_json(200, self.log.document(limit)))
            if asked.get("reset") == "1":
                self.log.reset()
            return shown
        if request.path == "/_bodies" and request.method == "GET":
            return deliver(_json(200, self.log.bodies_document(limit)))
        if request.path == "/_faults":
            return deliver(self._faults(request))
        if request.path == "/_keys" and request.method == "POST":
            return deliver(self._take_keys(request))
        return deliver(_json(404, {"error": "no such control page"}))

    def _take_keys(self, request: Request) -> SimulatedAnswer:
        """Other keys from now on, as when a vendor's are rotated: `{"keys": […]}`; empty takes any."""
        asked = _parsed(request.body)
        keys = asked.get("keys") if isinstance(asked, dict) else None
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            return _json(400, {"error": "keys is a list of texts"})
        self.keys = frozenset(keys)
        return _json(200, {"keys": len(keys)})

    def _faults(self, request: Request) -> SimulatedAnswer:
        if request.method == "DELETE":
            self.schedule.clear()
        elif request.method == "POST":
            asked = _parsed(request.body)
            fields = asked if isinstance(asked, dict) else {}
            fault = find_fault(str(fields.get("fault", "")))
            number = fields.get("count", 1)
            if fault is None or not isinstance(number, int) or number < 1:
                return _json(400, {"error": "a known fault and a count of 1 or more are needed"})
            self.schedule.add(fault, number, fields.get("path"), fields.get("model"))
        return _json(200, {"scheduled": self.schedule.listing()})


def _parsed(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None


def _json(status: int, body: object) -> SimulatedAnswer:
    return SimulatedAnswer(status, (_JSON,), _encode(body))


def _shown_key(headers: dict[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def _not_found(request: Request, surface: Surface, request_id: str, status: int) -> SimulatedAnswer:
    if surface == "vllm":
        return _json(status, {"detail": "Not Found" if status == 404 else "Method Not Allowed"})
    if surface == "anthropic":
        kind, message = (
            ("not_found_error", "Not found")
            if status == 404
            else ("invalid_request_error", "Method Not Allowed")
        )
        return _json(status, SimulatedFailure(status, message, kind).document(surface, request_id))
    if status == 405:
        message = (
            f"Not allowed to {request.method} on {request.path}. (HINT: Perhaps you meant to make your "
            f"HTTP request "
            "using a different http method?)"
        )
        failure = SimulatedFailure(405, message, code="method_not_supported")
    else:
        failure = SimulatedFailure(404, f"Invalid URL ({request.method} {request.path})")
    return _json(status, failure.document(surface, request_id))
