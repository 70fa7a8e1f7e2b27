"""Expressions of a declaration (`where: …`): what may stand in one, and its check.

Belongs here: the language, which is one DuckDB expression without side effects over the columns of
a row, and the locked database that it is parsed, bound and evaluated in. How it is evaluated over
rows is in `flow.dataset.choosing.expressions`. DuckDB is imported only where an expression is
declared.

What is allowed is listed, not what is forbidden: DuckDB marks functions that look at the clock or
aggregate as consistent, and `true) from t where (true` is one statement without a subquery. What is
evaluated is therefore never the declared text, but what DuckDB writes of the checked syntax tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT = "256MB"
# Beyond this a text is no rule that a person wrote; it bounds what nested functions can do.
MOST_CHARACTERS = 10_000
# Of a row each column is text; see `flow.dataset.choosing.expressions`.
TEXT, NUMBER = "VARCHAR", "BIGINT"

# Each does to a text or a number what it says, in time and memory linear in its arguments. `repeat`
# and `lpad` make a gigabyte of one letter, `replace` and `regexp_replace` do when they are nested.
_FUNCTION_NAMES = """
    length len strlen char_length character_length lower upper lcase ucase trim ltrim rtrim left
    right substr substring contains starts_with ends_with prefix suffix instr strpos position
    concat concat_ws || ^@ ~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape ilike_escape
    not_ilike_escape regexp_matches regexp_full_match regexp_extract split string_split str_split
    string_to_array split_part list_contains list_has translate reverse strip_accents nfc_normalize
    unicode ascii md5 sha256
    + - * / // % ^ ** abs ceil ceiling floor round trunc sign sqrt cbrt ln log log2 log10 exp pow
    power mod greatest least isnan isinf isfinite
    year month day hour minute second quarter week dayofweek weekday isodow dayofyear date_part
    datepart date_diff datediff date_trunc datetrunc last_day make_date strptime try_strptime epoch
    to_years to_months to_weeks to_days to_hours to_minutes to_seconds
    ->> json_extract json_extract_string json_extract_path_text json_value json_exists
    json_array_length json_type json_valid json_contains
    ifnull nullif if
"""
FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_TYPE_NAMES = """
    boolean bool tinyint smallint int2 integer int4 bigint int8 long hugeint utinyint usmallint
    uinteger ubigint float float4 real double float8 decimal numeric varchar text string date time
    timestamp datetime interval json
"""
TYPES = frozenset(_TYPE_NAMES.split())
_OPERATORS = frozenset({
    "OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE",
    "OPERATOR_NULLIF", "COMPARE_IN", "COMPARE_NOT_IN",
})  # fmt: skip
# The nodes of a syntax tree that may occur, and what each may hold beside its type and place. The
# operator `->` of JSON is parsed as a lambda; no function that is allowed takes a real one.
_NODES = {
    "COLUMN_REF": {"column_names"},
    "CONSTANT": {"literal"},
    "COMPARISON": {"left", "right"},
    "CONJUNCTION": {"children"},
    "BETWEEN": {"input", "lower", "upper"},
    "CASE": {"case_checks", "else_expr"},
    "CAST": {"child", "try_cast", "type_expr"},
    "TYPE": {"type_name", "children", "qualified_name"},
    "OPERATOR": {"children"},
    "FUNCTION": {"function_name", "order_bys", "is_operator", "arguments", "qualified_name"},
    "LAMBDA": {"lhs", "expr", "syntax_type"},
}  # fmt: skip
_OF_ANY_NODE = {"class", "type", "query_location", "query_location_length"}
_OF_THE_QUERY = {"type", "cte_map", "select_list", "from_table", "aggregate_handling"}
_LITERALS = {"STRING", "INTEGER", "NUMERIC", "BOOLEAN", "NULL_LITERAL"}
# What is allowed instead of functions that people are used to.
_INSTEAD = {
    "replace": "translate",
    "regexp_replace": "regexp_extract",
    "word_count": "string_split",
}
# What people write most often that is not allowed, by the class of its node.
_IN_WORDS = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a reference by position",
    "COLLATE": "a collation",
}


@dataclass(frozen=True)
class Expression:
    """A checked expression: as declared, as the SQL that is evaluated, and the columns it reads."""

    text: str
    sql: str
    columns: tuple[str, ...]


@contextmanager
def locked_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database that can read no file, load nothing and keep nothing, in bounded memory.

    Opening one takes about 40 ms.
    """
    import duckdb  # noqa: PLC0415  # heavy, and few jobs declare an expression

    config: dict[str, Any] = {
        "memory_limit": MEMORY_LIMIT,
        "threads": 1,
        "temp_directory": "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        # A table of an unknown name is no variable of the Python program.
        "python_enable_replacements": False,
    }
    with closing(duckdb.connect(config=config)) as connection:
        # It would move what two parts of an expression share out of TRY and of CASE, to where a
        # failure of one row fails all rows.
        connection.execute("SET disabled_optimizers = 'common_subexpressions'")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


@lru_cache(maxsize=256)
def _checked(text: str, known: tuple[tuple[str, str], ...] | None) -> Expression:
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"has {len(text):,} characters, at most {MOST_CHARACTERS:,} are read")
    if not text.isprintable() and any(c < " " and c not in "\t\n\r" for c in text):
        raise ValueError("holds a control character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is no valid text") from None
    with locked_database() as connection:
        tree, sql = _parse(connection, text)
        found: dict[str, None] = {}
        _check(tree, found)
        columns = tuple(found)
        types = _types(columns, None if known is None else dict(known))
        _bind(connection, sql, types)
    return Expression(text, sql, columns)


def parse(text: str, known: Mapping[str, str] | None = None) -> Expression:
    """Check that a text is one expression that is true, false or NULL for a row.

    `known` are the columns that there are, with their types; None where only the data can tell:
    then each column that is named counts as text. Raises ValueError with what is wrong, as a
    message that goes on from the name of a key.
    """
    return _checked(text, None if known is None else tuple(known.items()))


def quoted(column: str) -> str:
    """A column's name as SQL."""
    return '"' + column.replace('"', '""') + '"'


def _parse(connection: duckdb.DuckDBPyConnection, text: str) -> tuple[Any, str]:
    """The syntax tree of an expression, and the expression as DuckDB writes that tree."""
    query = "SELECT json_serialize_sql(?, skip_default := true, skip_empty := true)"
    # The line ends for a text that ends in a comment.
    [(written,)] = connection.execute(query, [f"SELECT {text}\n"]).fetchall()
    try:
        found = orjson.loads(written)
    except orjson.JSONDecodeError:  # nested deeper than orjson reads
        raise ValueError("is nested too deeply; write it with fewer parentheses") from None
    if found["error"]:
        raise ValueError(f"is no expression that DuckDB can read: {_first_line(found)}")
    statements = [statement.get("node", {}) for statement in found["statements"]]
    node = statements[0] if len(statements) == 1 else {}
    items = node.get("select_list", ())
    alone = (
        node.get("type") == "SELECT_NODE"
        and node.keys() <= _OF_THE_QUERY
        and node["from_table"] == {"type": "EMPTY"}
        and node["aggregate_handling"] == "STANDARD_HANDLING"
        and not node.get("cte_map")
        and len(items) == 1
    )
    if not alone:
        raise ValueError(
            "is more than one expression; write one condition like length(text) > 100, and join "
            "several with AND or OR"
        )
    [(sql,)] = connection.execute("SELECT json_deserialize_sql(?)", [written]).fetchall()
    return items[0], str(sql).removeprefix("SELECT ")


def _first_line(found: Mapping[str, Any]) -> str:
    return str(found.get("error_message", "")).splitlines()[0]


def _check(node: Any, columns: dict[str, None]) -> None:
    """Refuse what is not allowed in a syntax tree; `columns` learns which columns it names."""
    if isinstance(node, list):
        for each in node:
            _check(each, columns)
    if not isinstance(node, dict):
        return
    kind = node.get("class")
    if kind is not None:
        held = node.keys() - _OF_ANY_NODE
        if kind not in _NODES:
            raise ValueError(f"holds {_IN_WORDS.get(kind, kind.lower())}, which is not allowed")
        _check_node(kind, node, columns)
        if not held <= _NODES[kind]:
            what = ", ".join(sorted(held - _NODES[kind]))
            raise ValueError(f"holds {what} where a condition on one row has none")
    elif "name" in node:
        raise ValueError(f"names the argument {node['name']!r} of a function; give it by position")
    for value in node.values():
        _check(value, columns)


def _check_node(kind: str, node: dict[str, Any], columns: dict[str, None]) -> None:
    if kind == "COLUMN_REF":
        names = node["column_names"]
        if len(names) != 1:
            dotted = ".".join(names)
            raise ValueError(
                f'names {dotted!r}; write "{dotted}" for a column of that name, or '
                f"{names[0]}->>'{names[-1]}' for what JSON in a column holds"
            )
        columns[names[0]] = None
    elif kind == "CONSTANT" and node["literal"].get("kind") not in _LITERALS:
        raise ValueError("holds a constant that is no text, number, true, false or NULL")
    elif kind == "OPERATOR" and node["type"] not in _OPERATORS:
        name = node["type"].removeprefix("OPERATOR_").lower()
        raise ValueError(f"holds the operator {name}, which is not allowed")
    elif kind == "LAMBDA" and node.get("syntax_type") != "SINGLE_ARROW":
        raise ValueError("holds a lambda, which is not allowed")
    elif kind == "FUNCTION":
        _check_path("function", "calls", "()", node, FUNCTIONS)
        [separator, *_] = node.get("arguments") or [{}]
        if node["function_name"].lower() == "concat_ws" and separator.get("class") != "CONSTANT":
            # Nested, long separators multiply.
            raise ValueError("calls concat_ws() with a separator that is no constant, like ', '")
    elif kind == "TYPE":
        _check_path("type", "casts to", "", node, TYPES)


def _check_path(
    what: str, does: str, after: str, node: dict[str, Any], allowed: frozenset[str]
) -> None:
    path = node["qualified_name"]["path"]
    name = ".".join(path)
    if len(path) == 1 and path[0].lower() in allowed and node[f"{what}_name"] == path[0]:
        return
    last = path[-1].lower()
    close = [_INSTEAD[last]] if last in _INSTEAD else get_close_matches(last, allowed, 1, 0.75)
    hint = f"; did you mean {close[0]}{after}?" if close else ""
    raise ValueError(
        f"{does} {name}{after}, which is none of the {what}s that an expression may use{hint}"
    )


def _types(columns: tuple[str, ...], known: Mapping[str, str] | None) -> dict[str, str]:
    """The type of each column that an expression names."""
    by_case: dict[str, str] = {}
    for name in columns:
        other = by_case.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"names {other!r} and {name!r}, which DuckDB takes for one column")
        if known is not None and name not in known:
            raise ValueError(f"names the column {name!r}; there are {', '.join(known)}")
    return {name: TEXT if known is None else known[name] for name in columns}


def _bind(connection: duckdb.DuckDBPyConnection, sql: str, types: Mapping[str, str]) -> None:
    import duckdb  # noqa: PLC0415

    empty = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in types.items())
    try:
        # The query is made of the checked syntax tree and of quoted names.
        query = f"SELECT {sql} FROM (SELECT {empty or 'NULL AS nothing'}) LIMIT 0"  # noqa: S608
        kind = str(connection.sql(query).types[0])
    except duckdb.Error as error:
        message = " ".join(str(error).split("LINE 1:")[0].split("You might need")[0].split())
        hint = ""
        if "explicit cast" in message:
            hint = "; a column is text: cast it, like pages::int > 10"
        elif "json_extract" in message and "BOOLEAN" in message:
            hint = "; put parentheses around it: (column->>'key') = 'x'"
        raise ValueError(f"cannot be evaluated: {message}{hint}") from None
    if kind != "BOOLEAN":
        raise ValueError(
            f"gives {kind} and not true or false; compare it with something, or cast it with "
            "::boolean"
        )
