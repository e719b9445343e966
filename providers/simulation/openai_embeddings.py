"""OpenAI's `POST /v1/embeddings`, simulated: the same text always has the same unit vector. Data plane, pure."""

import math
from array import array
from base64 import b64encode
from hashlib import shake_128
from sys import byteorder

import msgspec

from .answers import Call, Json, Reply, SimulatedUsage
from .failures import SimulatedFailure
from .openai_input import EMBEDDING_FIELDS, check_common, check_window, missing, wrong_type
from .tokens import count_text

DEFAULT_DIMENSIONS = 1536
_LARGEST_DIMENSIONS = 4096


def respond(call: Call) -> Reply:
    """One vector for each input, as floats or as base64 of little-endian 32-bit floats."""
    request = call.request
    check_common(call, EMBEDDING_FIELDS)
    inputs = _inputs(request)
    dimensions = _dimensions(request)
    encoding = request.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        message = f"Invalid value: '{encoding}'. Supported values are: 'float' and 'base64'."
        raise SimulatedFailure(400, message, param="encoding_format", code="invalid_value")
    tokens = sum(count for _, count in inputs)
    check_window(call, tokens)
    data = []
    for index, (seed, _) in enumerate(inputs):
        values = vector(call.model.encode() + b"\0" + seed, dimensions)
        shown: object = _base64(values) if encoding == "base64" else values.tolist()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body: Json = {"object": "list", "data": data, "model": call.model, "usage": usage}
    return call.answer(body, SimulatedUsage(input=tokens))


def vector(seed: bytes, dimensions: int) -> array[float]:
    """A vector of length 1, by the seed; a shorter one is the start of a longer one, scaled to length 1
    again.
    """
    raw = array("h")
    raw.frombytes(shake_128(seed).digest(2 * dimensions))
    if byteorder == "big":
        raw.byteswap()
    length = math.sqrt(sum(value * value for value in raw)) or 1.0
    return array("f", [value / length for value in raw])


def _base64(values: array[float]) -> str:
    if byteorder == "big":
        values = array("f", values)
        values.byteswap()
    return b64encode(values.tobytes()).decode()


def _dimensions(request: Json) -> int:
    dimensions = request.get("dimensions")
    if dimensions is None:
        return DEFAULT_DIMENSIONS
    if isinstance(dimensions, bool) or not isinstance(dimensions, int):
        raise wrong_type("dimensions", "an integer", dimensions)
    if not 1 <= dimensions <= _LARGEST_DIMENSIONS:
        message = (
            f"Invalid value for 'dimensions' = {dimensions}. Must be less than or equal to "
            f"{_LARGEST_DIMENSIONS}."
        )
        raise SimulatedFailure(400, message, param="dimensions")
    return dimensions


def _inputs(request: Json) -> list[tuple[bytes, int]]:
    given = request.get("input")
    if given is None:
        raise missing("input")
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list):
        raise wrong_type("input", "one of a string or an array", given)
    if not given or given == [""]:
        raise SimulatedFailure(
            400,
            "'$.input' is invalid. Please check the API reference: "
            "https://platform.openai.com/docs/api-reference.",
        )
    if all(isinstance(token, int) for token in given):
        given = [given]
    return [
        (item.encode("utf-8", "replace"), count_text(item))
        if isinstance(item, str)
        else (msgspec.json.encode(item), len(item))
        for item in given
        if isinstance(item, str | list)
    ]
