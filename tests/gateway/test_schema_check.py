"""Answers checked against JSON Schema: what is wrong and where, under bounds, and without the network."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway.schema_check import MOST_ERRORS, SchemaCheck, SchemaFault, SchemaUnfit, make_repair

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name"],
    "additionalProperties": False,
}


def test_what_fits_has_no_faults() -> None:
    assert SchemaCheck(PERSON).check('{"name": "Ada", "children": [{"name": "Bob"}]}') == ()


def test_faults_have_their_path_and_reason() -> None:
    faults = SchemaCheck(PERSON).check('{"name": 1, "children": [{"name": "Bob"}, {"x": 1}]}')
    assert {fault.path for fault in faults} == {"children[1]", "name"}
    assert any('"name" is a required property' in fault.message for fault in faults)


def test_what_is_no_json_is_a_fault_of_the_whole() -> None:
    (fault,) = SchemaCheck(PERSON).check("{nope")
    assert fault.path == ""
    assert "not valid JSON" in fault.message


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True},
        {"$schema": "http://json-schema.org/draft-07/schema#", "exclusiveMaximum": 3},
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "prefixItems": [{}],
            "exclusiveMaximum": 3,
        },
        {"exclusiveMaximum": 3},
    ],
)
def test_each_draft_is_read_as_its_own(schema: dict[str, Any]) -> None:
    check = SchemaCheck(schema)
    assert check.check("2") == ()
    assert check.check("3") != ()


def doubling(levels: int) -> dict[str, Any]:
    """A schema whose steps double with each level."""
    twice = {f"n{n}": {"allOf": [{"$ref": f"#/$defs/n{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**twice, f"n{levels}": {"type": "string"}}, "$ref": "#/$defs/n0"}


def nested(levels: int) -> dict[str, Any]:
    """A schema of so many levels."""
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"properties": []},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"$ref": "file:///etc/hostname"},
        {"$schema": "http://127.0.0.1:9/meta"},
        {"$ref": "#/$defs/absent"},
        {"pattern": "("},
        {"$defs": {"n": {"$anchor": "n", "items": {"allOf": [{"$ref": "#n"}] * 2}}}, "$ref": "#n"},
        {"properties": {"a": {"$id": "http://127.0.0.1:9/a"}}},
        {"enum": ["x" * 70_000]},
        doubling(40),
        nested(300),
    ],
)
def test_a_schema_that_can_not_be_used_is_refused_at_once(schema: dict[str, Any]) -> None:
    began = time.monotonic()
    with pytest.raises(SchemaUnfit):
        SchemaCheck(schema)
    assert time.monotonic() - began < 2


def test_schemas_of_a_usual_size_are_taken() -> None:
    assert SchemaCheck(doubling(6)).check('"x"') == ()
    assert SchemaCheck(nested(60)).check("[[[]]]") == ()
    assert SchemaCheck({"$ref": "#"}).check("1") == ()
    assert SchemaCheck({"default": {"$id": "x", "$ref": "y"}, "properties": {"$id": {}}}).check("{}") == ()


TREE: dict[str, Any] = {"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"type": "integer"}]}}


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"items": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}, "[" * 60 + "]" * 60),
        ({"additionalProperties": {"allOf": [{"$ref": "#"}] * 3}}, '{"a":' * 40 + "1" + "}" * 40),
        (TREE, "[" * 150 + "]" * 150),
        ({"items": {"type": "string"}}, "[" + "[1]," * 300_000 + "1]"),
    ],
)
def test_a_value_that_would_take_too_long_is_told_so_at_once(schema: dict[str, Any], text: str) -> None:
    check = SchemaCheck(schema)
    began = time.monotonic()
    (fault,) = check.check(text)
    assert time.monotonic() - began < 3
    assert "too" in fault.message


def test_values_of_a_usual_depth_are_checked() -> None:
    assert SchemaCheck(TREE).check("[" * 40 + "1" + "]" * 40) == ()
    (fault,) = SchemaCheck({"items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "string"}}}).check("[1]")
    assert fault.path == "[0]"


def test_a_pattern_steps_back_a_bounded_number_of_times() -> None:
    check = SchemaCheck({"pattern": "^(a+)+\\1$"})
    began = time.monotonic()
    check.check(json.dumps("a" * 60 + "b"))
    assert time.monotonic() - began < 2


def test_faults_are_bounded() -> None:
    faults = SchemaCheck({"items": {"type": "string", "maxLength": 1}}).check(
        json.dumps([1, "x" * 5000] * 100)
    )
    assert len(faults) == MOST_ERRORS
    assert all(len(fault.message) < 400 for fault in faults)


def test_the_repair_has_the_answer_its_faults_and_the_schema() -> None:
    messages = make_repair("{}", (SchemaFault("", "no name"), SchemaFault("a[0]", "too long")), PERSON)
    assert messages[0] == {"role": "assistant", "content": "{}"}
    told = messages[1]["content"]
    assert messages[1]["role"] == "user"
    assert "- the whole: no name\n- a[0]: too long" in told
    assert '"additionalProperties":false' in told
