"""Long files as answers: made piece by piece while they are sent, so that no length needs more memory. Control plane."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

_PIECE_CHARACTERS = 65_536


def stream_file(
    request: HttpRequest, lines: Iterator[str], *, name: str, media_type: str
) -> StreamingHttpResponse:
    """An answer that downloads `lines` as a file. Under ASGI each piece is made in the request's own thread, off the loop."""
    pieces = _join(lines)
    content = _later(pieces) if isinstance(request, ASGIRequest) else pieces
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingHttpResponse(content, content_type=media_type, headers=headers)


def _join(lines: Iterator[str]) -> Iterator[bytes]:
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _PIECE_CHARACTERS:
            yield "".join(held).encode()
            held, size = [], 0
    yield "".join(held).encode()


async def _later(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Django would read the whole of an iterator that is not asynchronous before it sends the first byte."""
    take = sync_to_async(lambda: next(pieces, None))
    while (piece := await take()) is not None:
        yield piece
