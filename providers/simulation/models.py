"""`GET /v1/models` in OpenAI's, Anthropic's and vLLM's shape, simulated. Data plane, pure."""

from .answers import Call, Json, Reply, SimulatedUsage
from .failures import SimulatedFailure

_CREATED = 1_772_323_200
_CREATED_TEXT = "2026-03-01T00:00:00Z"
_DEFAULT_WINDOW = 200_000
_LARGEST_ANSWER = 64_000


def respond(call: Call) -> Reply:
    """The list of models; or one, when the request names it (`{"model": ID}`)."""
    wanted = call.request.get("model")
    known = call.settings.models
    if wanted is not None and wanted not in known:
        raise _unknown(call, str(wanted))
    render = _anthropic if call.surface == "anthropic" else _openai
    if wanted is not None:
        return call.answer(render(call, str(wanted)), SimulatedUsage())
    data = [render(call, name) for name in known]
    if call.surface == "anthropic":
        ends = {"first_id": known[0] if known else None, "last_id": known[-1] if known else None}
        return call.answer({"data": data, "has_more": False, **ends}, SimulatedUsage())
    return call.answer({"object": "list", "data": data}, SimulatedUsage())


def _unknown(call: Call, name: str) -> SimulatedFailure:
    if call.surface == "anthropic":
        return SimulatedFailure(404, f"model: {name}", "not_found_error")
    message = f"The model '{name}' does not exist"
    return SimulatedFailure(404, message, param="model", code="model_not_found")


def _openai(call: Call, name: str) -> Json:
    if call.surface == "vllm":
        window = call.settings.context_window or _DEFAULT_WINDOW
        more: Json = {"root": name, "parent": None, "max_model_len": window, "permission": []}
        return {"id": name, "object": "model", "created": _CREATED, "owned_by": "vllm", **more}
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "simulation"}


def _anthropic(call: Call, name: str) -> Json:
    return {
        "type": "model",
        "id": name,
        "display_name": name.replace("-", " ").title(),
        "created_at": _CREATED_TEXT,
        "lifecycle": "active",
        "max_input_tokens": call.settings.context_window or _DEFAULT_WINDOW,
        "max_tokens": _LARGEST_ANSWER,
    }
