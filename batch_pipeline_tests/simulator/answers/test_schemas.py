"""Values for schemas: they fit, and take words, dates and years from the text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema_rs import validator_for

from batch_pipeline.simulator.answers.schemas import SchemaWriter
from batch_pipeline.simulator.answers.source_text import Dice, SourceText

LICENCE = SourceText(
    "Which licence is it? MIT License, Copyright (c) 2011 Some Authors. Effective date 2024-02-29."
    " Permission is hereby granted, free of charge, under the terms of the MIT License."
)


def write(schema: dict[str, Any], seed: int = 0, source: SourceText = LICENCE) -> Any:
    return SchemaWriter(schema, Dice(seed), source).write()


def bounds(low: str, high: str, limit: int) -> st.SearchStrategy[dict[str, Any]]:
    """Neither, either or both of two bounds, in order."""
    pair = st.tuples(st.integers(0, limit), st.integers(0, limit)).map(sorted)
    return st.one_of(
        st.just({}),
        pair.map(lambda p: {low: p[0]}),
        pair.map(lambda p: {high: p[1]}),
        pair.map(lambda p: {low: p[0], high: p[1]}),
    )


scalars = st.one_of(
    st.sampled_from([
        {"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {"const": {"a": 1}},
        {"type": "string", "format": "date"}, {"type": "string", "format": "date-time"},
        {"type": "string", "format": "email"}, {"type": "string", "format": "uuid"},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
        {"type": "integer", "exclusiveMinimum": -3, "maximum": -2},
        {"type": "integer", "multipleOf": 7, "minimum": 8},
        {"allOf": [{"type": "integer", "minimum": 3}, {"type": "number", "maximum": 4}]},
        {"oneOf": [{"type": "number"}, {"type": "integer"}, {"type": "string"}]},
        {"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/tree"},
        {"type": "array", "uniqueItems": True, "minItems": 2, "items": {"enum": ["a", "b"]}},
        {"type": "array", "uniqueItems": True, "minItems": 3, "maxItems": 3,
         "items": {"type": "integer", "minimum": 1, "maximum": 3}},
        {},
    ]),
    st.lists(st.text(max_size=5) | st.integers() | st.none(), min_size=1, unique_by=repr).map(
        lambda values: {"enum": values}
    ),
    bounds("minLength", "maxLength", 60).map(lambda b: {"type": "string", **b}),
    bounds("minimum", "maximum", 500).map(lambda b: {"type": "integer", **b}),
    bounds("minimum", "maximum", 500).map(lambda b: {"type": "number", **b}),
)  # fmt: skip


def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def as_object(properties: dict[str, Any], all_of_them: bool) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties) if all_of_them else [],
            "additionalProperties": False,
        }

    names = st.sampled_from(["year", "holder", "licence", "is_open", "terms"])
    return st.one_of(
        st.builds(as_object, st.dictionaries(names, inner, max_size=4), st.booleans()),
        st.builds(
            lambda items, b: {"type": "array", "items": items, **b},
            inner,
            bounds("minItems", "maxItems", 4),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    )


DEFINITIONS = {
    "leaf": {"type": "string", "minLength": 3, "maxLength": 9},
    "tree": {
        "type": "object",
        "properties": {
            "name": {"$ref": "#/$defs/leaf"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            "twin": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
        },
        "required": ["name", "children", "twin"],
        "additionalProperties": False,
    },
}


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(scalars, nested, max_leaves=8),
    st.integers(0, 2**64),
    st.sampled_from([LICENCE, SourceText("x"), SourceText("日本語の文書 です。 " * 20)]),
)
def test_the_value_fits_the_schema(schema: dict[str, Any], seed: int, source: SourceText) -> None:
    whole = {"$defs": DEFINITIONS, **schema}
    value = write(whole, seed, source)
    problems = [str(e) for e in validator_for(whole, validate_formats=True).iter_errors(value)]
    assert problems == [], value
    assert write(whole, seed, source) == value


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"enum": ["Apache-2.0", "GPL-3.0", "MIT", "other"]}, "MIT"),
        ({"type": "string", "enum": ["none", "permission granted", "no"]}, "permission granted"),
        ({"type": "string", "format": "date"}, "2024-02-29"),
    ],
)
def test_values_that_the_text_names_are_preferred(schema: dict[str, Any], expected: str) -> None:
    assert {write(schema, seed) for seed in range(20)} == {expected}


def test_a_year_is_taken_from_the_text_within_its_bounds() -> None:
    def year(**bounds: int) -> Any:
        return write({"properties": {"year": {"type": "integer", **bounds}}, "required": ["year"]})

    assert year() == {"year": 2011}
    assert year(minimum=2020) == {"year": 2024}


def test_strings_are_words_of_the_text() -> None:
    text = write({"type": "string"})
    assert text
    assert text in LICENCE.text
