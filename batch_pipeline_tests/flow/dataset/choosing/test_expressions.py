"""The value of an expression for each row, and which rows it fails on."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.flow.dataset.choosing import expression_process, expressions
from batch_pipeline.flow.dataset.choosing.expressions import Evaluator, Failed, texts_of
from batch_pipeline.flow.dataset.reading.row_json import row_of_json
from batch_pipeline.jobs.expressions import locked_database, parse

TEXTS = ["1", "x", None, "12", "-3", "true", "", '{"a": 1}', "[1,2", "2026-01-01", "0"]
EXPRESSIONS = [
    "a::int > 1 or b = 'x'",
    "b = 'x' and a::int > 1",
    "case when b = 'x' then true else a::int > 1 and a::int < 20 end",
    "(a->>'a') = '1'",
    "a::int / b::int > 0",
    "a::int between 0 and b::int",
    "a::int in (1, 12, b::int)",
    "a::int % 2 = 0 or a::int % 2 = 1",
    "coalesce(a, b)::int = 1",
    "a::date > '2025-01-01' is not true",
    "try_cast(a as int) > 1",
    "'x'::int > 1",
    "true",
]


def alone(connection: duckdb.DuckDBPyConnection, sql: str, row: dict[str, Any]) -> object:
    """What DuckDB says of one row in a query of its own."""
    columns = {name: pa.array([value], pa.string()) for name, value in row.items()}
    connection.register("one", pa.table(columns))
    try:
        [(value,)] = connection.execute(f"SELECT {sql} FROM one").fetchall()
    except duckdb.Error:
        return Failed
    return value


@pytest.mark.parametrize("text", EXPRESSIONS)
@settings(max_examples=5, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries({"a": st.sampled_from(TEXTS), "b": st.sampled_from(TEXTS)}),
        max_size=40,
    )
)
def test_a_row_has_the_value_that_it_has_alone(text: str, rows: list[dict[str, Any]]) -> None:
    expression = parse(text)
    with locked_database() as connection:
        found = Evaluator(expression).of_rows(rows)
        expected = [alone(connection, expression.sql, row) for row in rows]
    assert [Failed if isinstance(value, Failed) else value for value in found] == expected


def test_a_failure_says_why_in_one_line() -> None:
    [good, bad] = Evaluator(parse("pages::int > 1")).of_rows(
        [{"pages": "2"}, {"pages": "two\npages" * 100}]
    )
    assert good is True
    assert isinstance(bad, Failed)
    assert "Could not convert string 'two pages" in bad.message
    assert "\n" not in bad.message
    assert len(bad.message) <= 200


def test_numbers_of_an_answer_are_numbers() -> None:
    known = {"output_tokens": "BIGINT", "parsed": "VARCHAR"}
    expression = parse("output_tokens > 9 and (parsed->>'sure')::double < 0.7", known)
    rows = pa.table({"output_tokens": [10, 9, 100], "parsed": ['{"sure": 0.5}', "{}", None]})
    assert Evaluator(expression).values(rows) == [True, False, None]


# The system ends the process at the first two, for its time and its memory; DuckDB tells the third.
BOMBS = {
    "regexp_matches(a, '((a?){30}){30}b') or a = '[1]'": "a" * 1_000_000,
    "length(split(a, '')) > 100": "a" * 30_000_000,
    "length(json_extract(a, '$..*')::varchar) > 100": "[" * 100_000 + "]" * 100_000,
}


@pytest.mark.parametrize(("text", "bomb"), BOMBS.items(), ids=["time", "memory", "json"])
def test_a_row_that_takes_too_much_fails_alone(
    monkeypatch: pytest.MonkeyPatch, text: str, bomb: str
) -> None:
    monkeypatch.setattr(expression_process, "MOST_SECONDS", 0)
    rows = [{"a": each} for each in ("[1]", bomb, "[2]")]
    first, fails, last = Evaluator(parse(text)).of_rows(rows)
    assert isinstance(fails, Failed)
    assert not isinstance(first, Failed)
    assert not isinstance(last, Failed)


def test_an_expression_that_takes_too_much_for_many_rows_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(expressions, "MOST_ENDED", 1)
    evaluator = Evaluator(parse("length(split(a, '')) > 100"))
    [found] = evaluator.of_rows([{"a": "a" * 30_000_000}])
    [not_tried] = evaluator.of_rows([{"a": "x"}])
    assert found == Failed(expressions.TOOK_TOO_MUCH)
    assert not_tried == Failed(expressions.NOT_TRIED)


def test_a_column_is_the_text_of_the_rows_json() -> None:
    row = row_of_json(b'{"t":"x","n":1.10,"b":true,"l":[1,"y"],"none":null}')
    assert texts_of(row, ["t", "n", "b", "l", "none", "missing"]) == {
        "t": "x",
        "n": "1.10",
        "b": "true",
        "l": '[1,"y"]',
        "none": None,
        "missing": None,
    }


def test_a_row_without_valid_text_fails() -> None:
    assert texts_of(row_of_json(b'{"t":"\xff"}'), ["t"]) == Failed("undecodable text in column 't'")
