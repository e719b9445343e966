"""JSON values that validate against a JSON Schema, made from the schema alone. Data plane, pure."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from .dice import Dice
from .pattern import matching

_DEPTH_LIMIT = 6
_WORDS = (
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbour",
    "iris",
    "juniper",
    "Zürich",
)
_FORMATS = {
    "date": "2026-03-14",
    "date-time": "2026-03-14T15:09:26Z",
    "time": "15:09:26Z",
    "duration": "P1DT2H",
    "email": "ada@example.org",
    "hostname": "host.example.org",
    "uri": "https://example.org/a",
    "url": "https://example.org/a",
    "uuid": "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    "ipv4": "192.0.2.7",
    "ipv6": "2001:db8::7",
}


def example(schema: object, dice: Dice) -> Any:
    """A value that validates against `schema` (draft 2020-12 as tools and structured outputs use it).

    Local `$ref`s are followed; recursion stops at the sixth level by leaving out what is optional.
    `not` and `if` are not considered.
    """
    return _value(schema, schema, dice, 0)


def _value(schema: object, root: object, dice: Dice, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth > 4 * _DEPTH_LIMIT:
        return dice.pick(_WORDS) if schema is not False else None
    schema = _flatten(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return dice.pick(schema["enum"])
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            return _value(_branch(schema, union, dice, depth), root, dice, depth + 1)
    maker = _MAKERS.get(_kind(schema, depth))
    return maker(schema, root, dice, depth) if maker else None


def _flatten(schema: Mapping[str, Any], root: object) -> Mapping[str, Any]:
    for _ in range(16):
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            break
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = _merge(_resolve(reference, root), rest)
    merged: Mapping[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema.get("allOf", ()):
        merged = _merge(merged, _flatten(part, root))
    return merged


def _resolve(reference: str, root: object) -> Mapping[str, Any]:
    node: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if name:
            node = node.get(name, {}) if isinstance(node, Mapping) else {}
    return node if isinstance(node, Mapping) else {}


def _merge(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**left, **right}
    if "properties" in left and "properties" in right:
        merged["properties"] = {**left["properties"], **right["properties"]}
    if "required" in left and "required" in right:
        merged["required"] = [*left["required"], *right["required"]]
    for bound, choose in (("minimum", max), ("minLength", max), ("minItems", max)):
        if bound in left and bound in right:
            merged[bound] = choose(left[bound], right[bound])
    for bound, choose in (("maximum", min), ("maxLength", min), ("maxItems", min)):
        if bound in left and bound in right:
            merged[bound] = choose(left[bound], right[bound])
    return merged


def _branch(schema: Mapping[str, Any], union: str, dice: Dice, depth: int) -> object:
    options = schema[union]
    if depth >= _DEPTH_LIMIT:
        # A recursive schema ends only through its leaves: null first, then whatever is not a container.
        options = sorted(options, key=_weight)[:1]
    chosen = dice.pick(options)
    if not isinstance(chosen, Mapping):
        return chosen
    return _merge({key: value for key, value in schema.items() if key != union}, chosen)


def _weight(option: object) -> int:
    kind = option.get("type") if isinstance(option, Mapping) else None
    if kind == "null":
        return 0
    return 1 if kind in ("string", "number", "integer", "boolean") else 2


def _kind(schema: Mapping[str, Any], depth: int) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        simple = [name for name in kind if name in ("null", "string", "integer", "number", "boolean")]
        return str((simple if depth >= _DEPTH_LIMIT and simple else kind)[0])
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "number" if "minimum" in schema or "maximum" in schema else "string"


def _object(schema: Mapping[str, Any], root: object, dice: Dice, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    required = schema.get("required") or []
    names = [*properties, *(name for name in required if name not in properties)]
    if depth >= _DEPTH_LIMIT:
        names = [name for name in names if name in required]
    made = {name: _value(properties.get(name, {}), root, dice, depth + 1) for name in names}
    extra = schema.get("additionalProperties", True)
    while extra is not False and len(made) < schema.get("minProperties", 0):
        made[f"key{len(made)}"] = _value(extra if isinstance(extra, Mapping) else {}, root, dice, depth + 1)
    return made


def _array(schema: Mapping[str, Any], root: object, dice: Dice, depth: int) -> list[Any]:
    prefix = schema.get("prefixItems") or []
    least = schema.get("minItems", 0)
    wanted = (
        least if depth >= _DEPTH_LIMIT else max(least, min(dice.between(1, 3), schema.get("maxItems", 3)))
    )
    made = [_value(item, root, dice, depth + 1) for item in prefix]
    items = schema.get("items", {})
    for _ in range(20 * (wanted + 1)):
        if len(made) >= wanted or items is False:
            break
        item = _value(items, root, dice, depth + 1)
        if not (schema.get("uniqueItems") and item in made):
            made.append(item)
    return made


def _string(schema: Mapping[str, Any], root: object, dice: Dice, depth: int) -> str:
    if "pattern" in schema:
        found = matching(schema["pattern"], dice)
        if found is not None:
            return found
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    text = dice.pick(_WORDS)
    while len(text) < schema.get("minLength", 0):
        text = f"{text} {dice.pick(_WORDS)}"
    return text[: schema["maxLength"]] if "maxLength" in schema else text


def _bounds(schema: Mapping[str, Any], step: float) -> tuple[float, float]:
    low = schema.get("minimum", -math.inf)
    high = schema.get("maximum", math.inf)
    if isinstance(above := schema.get("exclusiveMinimum"), int | float) and not isinstance(above, bool):
        low = max(low, above + step)
    if isinstance(below := schema.get("exclusiveMaximum"), int | float) and not isinstance(below, bool):
        high = min(high, below - step)
    if low == -math.inf:
        low = min(0, high - 40) if high != math.inf else 0
    return low, low + 40 if high == math.inf else high


def _integer(schema: Mapping[str, Any], root: object, dice: Dice, depth: int) -> int:
    low, high = _bounds(schema, 1)
    step = math.ceil(schema.get("multipleOf", 1))
    first, last = math.ceil(low / step), math.floor(high / step)
    return int(dice.between(first, max(first, last)) * step)


def _number(schema: Mapping[str, Any], root: object, dice: Dice, depth: int) -> float:
    step = schema.get("multipleOf")
    low, high = _bounds(schema, step or 1e-3)
    if step:
        return float(math.ceil(low / step) * step)
    return min(high, max(low, round(low + (high - low) * dice.below(1000) / 1000, 3)))


_Maker = Callable[[Mapping[str, Any], object, Dice, int], Any]
_MAKERS: dict[str, _Maker] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": lambda schema, root, dice, depth: dice.below(2) == 0,
}
