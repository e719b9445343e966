"""What the mock saw: one record a call, bounded, and the sums over all of them. Mock provider, no Django."""

from base64 import b64encode
from collections import Counter, deque
from dataclasses import dataclass, field

from providers.simulation import SimulatedUsage

KEPT_CALLS = 20_000
KEPT_BODIES = 1_024
KEPT_BODY_BYTES = 64 * 1024 * 1024
_SECRET_HEADERS = ("authorization", "x-api-key", "api-key", "proxy-authorization", "cookie")

RawHeaders = list[tuple[bytes, bytes]]
Json = dict[str, object]


@dataclass(slots=True)
class CallRecord:
    """One call, from the moment its request was complete. Times are seconds since 1970.

    The token counts grow as the answer goes out: input with the head, output with each event or whole body. A
    call is `finished` once its last byte was written; `closed_by_client` when the caller hung up before that.
    """

    id: int
    method: str
    path: str
    received_at: float
    body_bytes: int
    headers: RawHeaders = field(repr=False)
    connection: int = 0
    model: str = ""
    stream: bool = False
    fault: str | None = None
    status: int | None = None
    finished: bool = False
    closed_by_client: bool = False
    ended_at: float | None = None
    bytes_sent: int = 0
    events_sent: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    def book_prompt(self, usage: SimulatedUsage) -> None:
        """Books what the prompt costs."""
        self.input_tokens = usage.input
        self.cache_read = usage.cache_read
        self.cache_write_5m = usage.cache_write_5m
        self.cache_write_1h = usage.cache_write_1h

    def usage(self) -> Json:
        """The tokens by bucket; `input_tokens` excludes the cache's."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cache_read_input_tokens": self.cache_read,
            "cache_creation_5m_input_tokens": self.cache_write_5m,
            "cache_creation_1h_input_tokens": self.cache_write_1h,
        }

    def document(self) -> Json:
        """The record as JSON; secrets in headers shortened to their last four characters."""
        return {
            "id": self.id,
            "method": self.method,
            "path": self.path,
            "model": self.model,
            "stream": self.stream,
            "fault": self.fault,
            "status": self.status,
            "usage": self.usage(),
            "finished": self.finished,
            "closed_by_client": self.closed_by_client,
            "received_at": self.received_at,
            "ended_at": self.ended_at,
            "bytes_sent": self.bytes_sent,
            "events_sent": self.events_sent,
            "body_bytes": self.body_bytes,
            "connection": self.connection,
            "headers": dict(_shown(name, value) for name, value in self.headers),
        }


def _shown(name: bytes, value: bytes) -> tuple[str, str]:
    key, text = name.decode("latin-1").lower(), value.decode("latin-1")
    if key in _SECRET_HEADERS:
        return key, f"…{text[-4:]}"
    return key, text


@dataclass(frozen=True, slots=True)
class ReceivedBody:
    """The bytes of one request as they came, after transfer decoding."""

    id: int
    path: str
    body: bytes = field(repr=False)


class CallLog:
    """The calls of one server: totals over all, records of the last 20,000, bodies of the last 1,024 (64
    MiB).
    """

    def __init__(self) -> None:
        self.connections_open = 0
        self.connections_most = 0
        self.connections_total = 0
        self.unreadable_requests = 0
        self.reset()

    def reset(self) -> None:
        """Forgets all calls; connections stay counted. A call under way is no longer seen afterwards."""
        self._next = 1
        self._ended: Counter[str] = Counter()
        self._status: Counter[str] = Counter()
        self._path: Counter[str] = Counter()
        self._model: Counter[str] = Counter()
        self._fault: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._open: dict[int, CallRecord] = {}
        self.records: deque[CallRecord] = deque(maxlen=KEPT_CALLS)
        self._bodies: deque[ReceivedBody] = deque(maxlen=KEPT_BODIES)
        self._body_bytes = 0

    def begin(
        self, method: str, path: str, headers: RawHeaders, body: bytes, now: float, connection: int
    ) -> CallRecord:
        """Counts a call whose request is complete."""
        record = CallRecord(self._next, method, path, now, len(body), headers, connection)
        self._next += 1
        self.records.append(record)
        self._open[record.id] = record
        self._path[path] += 1
        self._keep_body(ReceivedBody(record.id, path, body))
        return record

    def name(self, record: CallRecord) -> None:
        """Counts the call's model and fault, now that they are known."""
        self._model[record.model] += 1
        if record.fault is not None:
            self._fault[record.fault] += 1

    def end(self, record: CallRecord, now: float, *, finished: bool, by_client: bool = False) -> None:
        """Closes a record; the second call for the same record changes nothing."""
        if record.ended_at is not None:
            return
        record.ended_at = now
        record.finished = finished
        record.closed_by_client = by_client
        if self._open.get(record.id) is not record:
            return
        del self._open[record.id]
        self._status[str(record.status)] += 1
        self._ended["finished"] += finished
        self._ended["closed_by_client"] += by_client
        self._add_tokens(self._tokens, record)

    @staticmethod
    def _add_tokens(sums: Counter[str], record: CallRecord) -> None:
        for name, value in record.usage().items():
            if isinstance(value, int):
                sums[name] += value

    def _keep_body(self, body: ReceivedBody) -> None:
        if len(self._bodies) == KEPT_BODIES:
            self._body_bytes -= len(self._bodies.popleft().body)
        self._bodies.append(body)
        self._body_bytes += len(body.body)
        while self._body_bytes > KEPT_BODY_BYTES and len(self._bodies) > 1:
            self._body_bytes -= len(self._bodies.popleft().body)

    def bodies(self, last: int | None = None) -> list[ReceivedBody]:
        """The bodies kept, oldest first; only the last few when told."""
        kept = list(self._bodies)
        return kept if last is None else kept[max(0, len(kept) - last) :]

    def bodies_document(self, last: int | None = None) -> Json:
        """The bodies as JSON, in base64."""
        shown = [
            {"id": one.id, "path": one.path, "body": b64encode(one.body).decode()}
            for one in self.bodies(last)
        ]
        return {"bodies": shown}

    def document(self, limit: int | None = None) -> Json:
        """Totals over every call, those under way included, and the last `limit` records, oldest first."""
        tokens = Counter(dict.fromkeys(CallRecord(0, "", "", 0, 0, []).usage(), 0))
        tokens.update(self._tokens)
        status = Counter(self._status)
        for record in self._open.values():
            self._add_tokens(tokens, record)
            if record.status is not None:
                status[str(record.status)] += 1
        shown = list(self.records)
        if limit is not None:
            shown = shown[max(0, len(shown) - limit) :]
        return {
            "calls": self._next - 1,
            "in_progress": len(self._open),
            "finished": self._ended["finished"],
            "closed_by_client": self._ended["closed_by_client"],
            "by_path": dict(self._path),
            "by_model": dict(self._model),
            "by_status": dict(status),
            "by_fault": dict(self._fault),
            "usage": dict(tokens),
            "connections": {
                "open": self.connections_open,
                "max_open": self.connections_most,
                "total": self.connections_total,
            },
            "unreadable_requests": self.unreadable_requests,
            "list": [record.document() for record in shown],
        }
