"""The values of a schema's fields over all answers of a pilot."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.reporting import parsed_fields, value_distribution
from batch_pipeline.reporting.value_distribution import TELLING, Field

KINDS = {"type": "string", "enum": ["sale", "lease", "loan"]}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "$defs": {"party": {"type": "object", "properties": {"role": KINDS}}},
    "properties": {
        "kind": KINDS,
        "renews": {"type": ["boolean", "null"]},
        "months": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "fee": {"type": "object", "properties": {"usd": {"type": "number"}}},
        "parties": {"type": "array", "items": {"$ref": "#/$defs/party"}},
        "summary": {"type": "string"},
        "law": {"type": "string"},
    },
}


def answer(number: int, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": "sale",
        "renews": number % 2 == 0,
        "months": number,
        "fee": {"usd": number / 2},
        "parties": [{"role": "lease"}, {"role": "sale"}][: number % 3],
        "summary": f"text {number}",
        "law": "none stated",
    }
    return found | changes


def fields(answers: list[Any], schema: dict[str, Any] = SCHEMA) -> dict[str, Field]:
    return {field.path: field for field in value_distribution.of(schema, answers)}


def bars(field: Field) -> dict[str, int]:
    return {bar.value: bar.count for bar in field.bars}


def test_each_field_is_counted_by_its_kind() -> None:
    found = fields([answer(number) for number in range(20)])
    assert list(found) == ["kind", "renews", "months", "fee.usd", "parties[].role", "law"]
    assert bars(found["kind"]) == {"sale": 20}
    assert found["kind"].never == ("lease", "loan")
    assert bars(found["renews"]) == {"true": 10, "false": 10}
    assert found["months"].summary == "0 to 19, 9.5 in the middle"
    assert bars(found["months"])["0 to 2"] == 3
    assert sum(bars(found["fee.usd"]).values()) == 20
    assert bars(found["parties[].role"]) == {"lease": 13, "sale": 6}


def test_a_field_that_is_always_the_same_is_named() -> None:
    found = fields([answer(number) for number in range(TELLING)])
    assert {path: f.always for path, f in found.items() if f.always is not None} == {
        "kind": "sale",
        "law": "none stated",
    }
    fewer = fields([answer(number) for number in range(TELLING - 1)])
    assert not any(field.always for field in fewer.values())


def test_values_that_are_missing_are_told() -> None:
    found = fields([answer(n, months=None, law=None, summary=None) for n in range(TELLING)])
    assert (found["months"].nulls, found["months"].always) == (TELLING, "null")
    assert found["law"].always == "null"
    some = fields([answer(n, **({"summary": None} if n < 3 else {})) for n in range(40)])
    assert (some["summary"].nulls, some["summary"].summary) == (3, "37 different texts")


@pytest.mark.parametrize("schema", [None, {}, {"$ref": "#/nowhere"}])
def test_without_fields_nothing_is_counted(schema: dict[str, Any] | None) -> None:
    assert value_distribution.of(schema, [{"a": 1}]) == []


def test_a_schema_that_contains_itself_ends() -> None:
    node: dict[str, Any] = {"properties": {"on": {"type": "boolean"}, "next": {"$ref": "#"}}}
    assert list(fields([{"on": True, "next": {"on": False}}] * 3, node)) == ["on"]
    tree = {"$defs": {"node": node | {"properties": {"up": {"$ref": "#/$defs/node"}, "n": KINDS}}}}
    assert list(fields([{}], {**tree, "$ref": "#/$defs/node"})) == ["n"]


@given(st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_each_number_is_in_one_bar(numbers: list[float]) -> None:
    schema = {"properties": {"n": {"type": "number"}}}
    [field] = value_distribution.of(schema, [{"n": number} for number in numbers])
    assert sum(bar.count for bar in field.bars) == field.values == len(numbers)
    assert len(field.bars) <= value_distribution.MOST_BARS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(JSON))
def test_answers_of_any_shape_are_counted(answers: list[Any]) -> None:
    for field in value_distribution.of(SCHEMA, answers):
        assert sum(bar.count for bar in field.bars) <= field.values
    for each in answers:
        assert len(parsed_fields.of(each)) <= parsed_fields.MOST_FIELDS + 1


def test_an_answer_is_flat_for_reading() -> None:
    parsed = {"a": {"b": [1, 2], "c": []}, "d": [{"e": None}, {"e": ""}], "f": True}
    assert parsed_fields.of(parsed) == [
        ("a.b", "1; 2"),
        ("a.c", "(none)"),
        ("d[1].e", "(null)"),
        ("d[2].e", "(empty)"),
        ("f", "true"),
    ]
