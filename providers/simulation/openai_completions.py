"""OpenAI's legacy `POST /v1/completions`, simulated. Data plane, pure."""

from collections.abc import Iterator

import msgspec

from .answers import Call, Frame, Json, Reply, SimulatedUsage
from .dice import digest
from .generation import Generation, Wish, generate
from .openai_chat import DONE, fingerprint, usage_document
from .openai_input import COMPLETION_FIELDS, check_common, check_window, missing, stops, wrong_type
from .tokens import count_text, pieces

_DEFAULT_LIMIT = 16
_FINISH = {"stop": "stop", "stop_sequence": "stop", "length": "length"}
_encode = msgspec.json.encode


def respond(call: Call) -> Reply:
    """The answer or the stream; one choice for each prompt and each of `n`. The limit is 16 tokens unless
    given.
    """
    request = call.request
    check_common(call, COMPLETION_FIELDS)
    prompts = _prompts(request)
    input_tokens = sum(count for _, count in prompts)
    check_window(call, input_tokens)
    made = [
        generate(_wish(call, seed, index)) for seed, _ in prompts for index in range(request.get("n") or 1)
    ]
    usage = SimulatedUsage(input=input_tokens, output=sum(generation.tokens for generation in made))
    if request.get("stream"):
        return call.stream(_frames(call, made, usage), usage)
    choices = [_choice(index, one.text, _FINISH[one.finish]) for index, one in enumerate(made)]
    body = {**_shared(call), "choices": choices, "usage": usage_document(usage)}
    return call.answer(body, usage)


def _prompts(request: Json) -> list[tuple[bytes, int]]:
    prompt = request.get("prompt")
    if prompt is None:
        raise missing("prompt")
    if isinstance(prompt, str):
        return [(prompt.encode("utf-8", "replace"), count_text(prompt))]
    if not isinstance(prompt, list) or not prompt:
        raise wrong_type(
            "prompt", "one of a string, array of strings, array of integers or array of arrays", prompt
        )
    if all(isinstance(token, int) for token in prompt):
        return [(_encode(prompt), len(prompt))]
    return [
        (_encode(item), count_text(item) if isinstance(item, str) else len(item))
        for item in prompt
        if isinstance(item, str | list)
    ]


def _wish(call: Call, prompt: bytes, index: int) -> Wish:
    request = call.request
    limit = request.get("max_tokens")
    if limit is None:
        limit = call.settings.tokens or _DEFAULT_LIMIT
    seed = digest(call.model.encode(), prompt, _encode([request.get("seed"), index]))
    return Wish(seed=seed, limit=limit, tokens=call.settings.tokens, stops=stops(request))


def _shared(call: Call) -> Json:
    return {
        "id": f"cmpl-{call.request_id.removeprefix('req_')}",
        "object": "text_completion",
        "created": int(call.now()),
        "model": call.model,
        "system_fingerprint": fingerprint(call),
    }


def _choice(index: int, text: str, finish: str | None) -> Json:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": finish}


def _frames(call: Call, made: list[Generation], usage: SimulatedUsage) -> Iterator[Frame]:
    options = call.request.get("stream_options") or {}
    asked = bool(options.get("include_usage")) and call.settings.reports_usage
    start = b"data: " + _encode(_shared(call))[:-1] + b',"choices":['
    end = b'],"usage":null}\n\n' if asked else b"]}\n\n"
    for index, one in enumerate(made):
        for piece in pieces(one.text):
            data = start + _encode(_choice(index, piece, None)) + end
            yield Frame(data, call.settings.gap, 1, content=True)
        yield Frame(start + _encode(_choice(index, "", _FINISH[one.finish])) + end)
    if asked:
        yield Frame(start + b'],"usage":' + _encode(usage_document(usage)) + b"}\n\n")
    yield Frame(DONE)
