"""What may stand in an expression of a declaration, and what its error says."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from batch_pipeline.jobs.expressions import FUNCTIONS, locked_database, parse

ALLOWED = [
    "length(text) > 40000 or kind = 'merger'",
    "(parsed->>'confidence')::double < 0.7",
    "kind in ('a', 'b') and not draft::boolean -- a remark",
    "a not like '%x!_' escape '!' or a ~ 'x+' or a ilike b",
    "case when try_cast(pages as int) is null then false else pages::int > 10 end",
    "coalesce(a, b) <> '' and a is not distinct from b",
    "signed::date between date '2026-01-01' and date '2026-06-30' + interval 3 days",
    "extract(year from signed::date) = 2026",
    "len(string_split(text, ' ')) > 3 and md5(id) < '4'",
    '"Größe in cm"::decimal(10, 2) > 3 or "select" = \'x\' or "a""b" = \'it\'\'s\'',
    "translate(price, ',', '')::double > 1e3 and trim(both 'x' from a) = ''",
    "if(a = 'x', true, null) and (a = 'y') is not true",
]


@pytest.mark.parametrize("text", ALLOWED)
def test_what_is_evaluated_is_written_by_duckdb_and_means_the_same(text: str) -> None:
    found = parse(text)
    assert parse(found.sql).sql == found.sql
    assert parse(found.sql).columns == found.columns


def test_an_expression_knows_its_columns() -> None:
    found = parse("\"Größe\"::int > 3 and kind = 'x' and (kind = 'y' or a->>'b' is null)")
    assert found.columns == ("Größe", "kind", "a")


REFUSED = {
    # More than one expression.
    "true) from t where (true": "no expression that DuckDB can read",
    "true from t": "more than one expression",
    "true from read_csv('/etc/passwd')": "more than one expression",
    "true where true": "more than one expression",
    "true limit 1": "more than one expression",
    "true order by 1": "more than one expression",
    "true group by all": "more than one expression",
    "true having true": "more than one expression",
    "true qualify true": "more than one expression",
    "true using sample 1": "more than one expression",
    "true union select false": "more than one expression",
    "distinct a = 'x'": "more than one expression",
    "a = 'x', b = 'y'": "more than one expression",
    "true; select 1": "more than one expression",
    "true; drop table x": "no expression",
    "with x as (select 1) select true": "no expression",
    "": "no expression",
    "a =": "no expression",
    "a = 'x": "no expression",
    "true /*": "no expression",
    "a = 'x' as b": "holds alias",
    # What reads more than the row.
    "exists (select 1)": "a subquery",
    "a in (select b from t)": "a subquery",
    "(select true)": "a subquery",
    "a = any(select 'x')": "a subquery",
    "sum(a::int) > 1": "calls sum()",
    "count(*) > 1": "calls count_star()",
    "length(a) filter (where true) > 1": "holds filter",
    "row_number() over () > 1": "a window function",
    "unnest([true])": "calls unnest()",
    "*": "a star",
    "columns('x') = 'y'": "a star",
    "#1 = 'x'": "a reference by position",
    "? = 1": "a parameter",
    "$x = '1'": "a parameter",
    "getvariable('x') = '1'": "calls getvariable()",
    # What is not the same each time.
    "random() > 0.5": "calls random()",
    "now() is null": "calls now()",
    "today() is null": "calls today()",
    "age(a::date) is null": "calls age()",
    "a::timestamptz is null": "casts to timestamptz",
    "a at time zone 'UTC' is null": "calls timezone()",
    "a = 'x' collate nocase": "a collation",
    # What reaches outside.
    "getenv('HOME') = 'x'": "calls getenv()",
    "current_setting('threads') = '1'": "calls current_setting()",
    "read_text('/etc/passwd') = 'x'": "calls read_text()",
    "nextval('x') = 1": "calls nextval()",
    "write_log('x') is null": "calls write_log()",
    "sleep_ms(1000) is null": "calls sleep_ms()",
    "json_execute_serialized_sql('x')": "calls json_execute_serialized_sql()",
    # What makes much of little, and other languages in the language.
    "repeat('x', 1000000000) = 'x'": "calls repeat()",
    "concat_ws(concat_ws('x', 'y', 'z'), a, a) = 'x'": "a separator that is no constant",
    "replace(a, 'a', 'bb') = 'x'": "did you mean translate()?",
    "list_transform([1], x -> x) is null": "calls list_transform()",
    "lambda x: x": "a lambda",
    "main.length(a) > 1": "calls main.length()",
    "text.length() > 1": "calls text.length()",
    "length(a, x := 1) > 0": "names the argument 'x'",
    "cast(a as enum('a')) is null": "casts to enum",
    "a::mytype is null": "casts to mytype",
    "a::main.\"INTEGER\" > 1": "casts to main.INTEGER",
    "a::int[] is null": "casts to list",
    "a::blob is null": "casts to blob",
    "x'00' is null": "holds a constant",
    "a[1] = 'x'": "the operator array_extract",
    "try(a::int) is null": "the operator try",
    "a = DEFAULT": "holds default",
    # What is no condition, and slips.
    "a": "gives VARCHAR and not true or false",
    "null": "not true or false",
    "pages > 10": "cast it, like pages::int > 10",
    "parsed->'a' = '1'": "put parentheses around it",
    "lenght(text) > 1": "did you mean length()?",
    "\u217cength(a) > 1": "did you mean length()?",
    "a.b = 'x'": "a->>'b' for what JSON in a column holds",
    "a = 'x' and A = 'y'": "which DuckDB takes for one column",
    "regexp_matches(a, '((((')": "cannot be evaluated: Invalid Input Error: missing )",
    "a ~ '(x{100}){100}'": "invalid repetition size",
    "a = '\x00'": "a control character",
    "a = '\ud800'": "no valid text",
    "a = '" + "x" * 10_000 + "'": "has 10,006 characters",
    "(" * 2_000 + "true" + ")" * 2_000: "depth",
    "not " * 900 + "true": "nested too deeply",
    "a" + " || a" * 900 + " = 'x'": "nested too deeply",
}  # fmt: skip


@pytest.mark.parametrize(("text", "why"), REFUSED.items(), ids=lambda text: ascii(text)[:30])
def test_what_is_no_condition_on_one_row_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)) as refused:
        parse(text)
    assert len(str(refused.value)) < 300


def test_known_columns_have_their_types() -> None:
    known = {"content": "VARCHAR", "output_tokens": "BIGINT"}
    assert parse("output_tokens > 10", known).columns == ("output_tokens",)
    with pytest.raises(ValueError, match=r"'confidence'; there are content, output_tokens"):
        parse("confidence > 10", known)


def test_each_allowed_function_exists() -> None:
    names = {name.lower() for name in FUNCTIONS}
    with locked_database() as connection:
        found = connection.execute("SELECT DISTINCT function_name FROM duckdb_functions()")
        there = {str(name).lower() for (name,) in found.fetchall()}
    # Parsed as operators.
    assert names - there <= {"!~~", "!~~*", "ifnull", "if", "nullif", "->>", "^@"}


@pytest.mark.parametrize(
    "query",
    [
        "FROM read_text('{file}')",
        "COPY (SELECT 1) TO '{file}'",
        "ATTACH '{file}'",
        "SET memory_limit = '100GB'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "FROM python_variable",
    ],
)
def test_the_database_of_expressions_reaches_nothing(tmp_path: Path, query: str) -> None:
    python_variable = pa.table({"a": [1]})  # noqa: F841
    file = tmp_path / "file"
    file.write_text("text")
    with locked_database() as connection, pytest.raises(duckdb.Error):
        connection.execute(query.format(file=file)).fetchall()
    assert file.read_text() == "text"
