"""Inputs that are not files: what goes in comes out row for row, once, and changes are told."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa

from batch_pipeline import read_results
from batch_pipeline.errors import BatchPipelineError, InputDataError, UsageError
from batch_pipeline.flow import paths
from batch_pipeline.flow.control.prune import prune
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.reading.rows import read_rows
from batch_pipeline.flow.dataset.sources import copies
from batch_pipeline.flow.dataset.sources.find import find_input, shape_changes
from batch_pipeline.flow.dataset.sources.frames import FramesSource, keep
from batch_pipeline.flow.dataset.sources.value_types import ValueTypes
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.steps import open_night
from batch_pipeline.jobs.input.input_sources import SqlSourceSpec, query_problem
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import snapshots
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.support import PARTITION, by_id, documents, job, results, write_rows

DAYS = ("2026-03-28", "2026-03-29", "2026-03-30")
TABLE = pa.table(
    {
        "id": ["a", "b", "c"],
        "text": ["one", "zwei “quoted”", "trois\n"],
        "number": pa.array([1, None, 3], pa.int64()),
        "share": pa.array([0.1, 0.25, None], pa.float32()),
        "money": pa.array([Decimal("1.10"), Decimal("2.00"), None], pa.decimal128(9, 2)),
        "at": pa.array([datetime(2026, 3, 29, 1, 30, tzinfo=UTC)] * 3),
        "tags": [["x"], [], None],
    }
)


def cells(sources: Sources, id_column: str = "id") -> list[dict[str, Any]]:
    return [json.loads(row.input) for row in read_rows(sources, id_column, ["text"])]


def sql_job(url: str, monkeypatch: pytest.MonkeyPatch, query: str, **changes: Any) -> JobSpec:
    monkeypatch.setenv("WAREHOUSE", url)
    return job("", input={"sql": {"url_env": "WAREHOUSE", "query": query}}, **changes)


@pytest.fixture
def warehouse(ledger_url: str) -> str:
    """A table of tickets, three on each of three days, in SQLite and in PostgreSQL."""
    engine = sa.create_engine(ledger_url)
    with engine.begin() as connection:
        connection.execute(
            sa.text("CREATE TABLE tickets (id text, text text, day text, at timestamp)")
        )
        for day in DAYS:
            for number in range(3):
                values = {"id": f"{day}/{number}", "day": day, "at": f"{day} 12:00:00"}
                connection.execute(
                    sa.text("INSERT INTO tickets VALUES (:id, 'Ticket ' || :id, :day, :at)"), values
                )
    engine.dispose()
    return ledger_url


class TestSql:
    def test_rows_of_the_night_alone_are_asked_and_bought_once(
        self,
        sim: Simulator,
        pipeline: Pipeline,
        warehouse: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        query = "SELECT id, text FROM tickets WHERE day = :partition"
        spec = sql_job(warehouse, monkeypatch, query, partitions={"start": DAYS[0]})
        run(pipeline, spec, DAYS[1])
        run(pipeline, spec, DAYS[1])
        assert set(by_id(results(pipeline, spec, DAYS[1]))) == {f"{DAYS[1]}/{n}" for n in range(3)}
        assert sim.books.accepted_requests == 3
        engine = sa.create_engine(warehouse)
        with engine.begin() as connection:
            connection.execute(
                sa.text("INSERT INTO tickets VALUES ('new', 'new', :day, NULL)"), {"day": DAYS[1]}
            )
        engine.dispose()
        run(pipeline, spec, DAYS[1])
        assert sim.books.accepted_requests == 4

    def test_a_window_of_a_day_on_which_clocks_change_is_bound(
        self, pipeline: Pipeline, warehouse: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        query = "SELECT * FROM tickets WHERE at >= :partition_start AND at < :partition_end"
        partitions = {"start": DAYS[0], "timezone": "Europe/Zurich"}
        spec = sql_job(warehouse, monkeypatch, query, partitions=partitions)
        found = cells(find_input(pipeline, spec, DAYS[1]))
        assert [row["id"] for row in found] == [f"{DAYS[1]}/{n}" for n in range(3)]

    @pytest.mark.parametrize(
        ("query", "named"),
        [
            ("SELECT id, id FROM tickets", "two columns are named 'id'"),
            ("SELECT nothing FROM tickets", "the query failed: .*nothing"),
        ],
    )
    def test_a_query_that_cannot_be_an_input_sends_nothing(
        self,
        sim: Simulator,
        pipeline: Pipeline,
        warehouse: str,
        monkeypatch: pytest.MonkeyPatch,
        query: str,
        named: str,
    ) -> None:
        with pytest.raises(InputDataError, match=named):
            run(pipeline, sql_job(warehouse, monkeypatch, query), PARTITION)
        assert sim.books.accepted_requests == 0

    def test_what_its_words_do_not_show_to_write_is_stopped_by_the_database(
        self, pipeline: Pipeline, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = sa.create_engine(postgres_url)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE SEQUENCE written"))
        engine.dispose()
        spec = sql_job(postgres_url, monkeypatch, "SELECT nextval('written') AS id, 'x' AS text")
        with pytest.raises(InputDataError, match="read-only transaction"):
            find_input(pipeline, spec, PARTITION)

    def test_a_url_that_is_not_set_is_named(self, pipeline: Pipeline) -> None:
        spec = job("", input={"sql": {"url_env": "NO_SUCH_URL", "query": "SELECT 1 AS id"}})
        with pytest.raises(UsageError, match="NO_SUCH_URL is not set"):
            find_input(pipeline, spec, PARTITION)


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("SELECT id FROM t WHERE d = :partition", None),
        ("-- drop\n(SELECT 'delete; from' AS id, x::text, \"update\" FROM t);", None),
        ("WITH a AS (SELECT 1) SELECT * FROM a", None),
        ("DELETE FROM t", "begins with DELETE"),
        ("WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone", "holds DELETE"),
        ("SELECT * INTO copy FROM t", "holds INTO"),
        ("SELECT * FROM t FOR UPDATE", "holds UPDATE"),
        ("SELECT truncate(x, 2) AS id, insert (a, 1, 2, b) FROM t", None),
        ("SELECT 1 TRUNCATE TABLE t", "holds TRUNCATE"),
        ("SELECT 1; SELECT 2", "several statements"),
        ("SELECT 1 /*! INTO OUTFILE 'x' */", "MySQL"),
        ("SELECT * FROM t WHERE d = :day", "holds :day"),
        ("  -- nothing\n", "is empty"),
    ],
)
def test_a_query_that_writes_is_refused(query: str, problem: str | None) -> None:
    found = query_problem(query)
    assert (found is None) == (problem is None)
    assert (problem or "") in (found or "")


@pytest.mark.parametrize(
    ("query", "table"),
    [
        ("SELECT id FROM raw.tickets WHERE d = :partition ORDER BY a, b", "raw.tickets"),
        ("SELECT id, 'from x' FROM \"My Table\" t -- from z", '"My Table"'),
        ("SELECT * FROM t, u", None),
        ("SELECT * FROM t AS x, u", None),
        ("SELECT extract(year FROM d) FROM t", None),
        ("SELECT a FROM t JOIN u ON 1 = 1", None),
        ("WITH x AS (SELECT 1) SELECT * FROM x", None),
        ("SELECT * FROM (SELECT 1) y", None),
        ("SELECT * FROM generate_series(1, 2)", None),
    ],
)
def test_the_table_of_a_query_that_reads_one(query: str, table: str | None) -> None:
    assert SqlSourceSpec(url_env="WAREHOUSE_URL", query=query).table == table


def test_types_that_only_values_tell() -> None:
    zoned, day = datetime(2026, 3, 29, tzinfo=UTC), date(2026, 3, 29)
    at = zoned.replace(tzinfo=None)
    types = ValueTypes(["paid", "at", "zoned", "day", "mixed", "nothing", "text", "tags"])
    types.add({"paid": Decimal("1.5"), "at": at, "day": day, "mixed": day, "text": "x"})
    types.add({"paid": Decimal("2.25"), "zoned": zoned, "mixed": "soon", "tags": [1]})
    assert types.found == {
        "paid": "decimal128(38, 2)",
        "at": "timestamp[us]",
        "zoned": "timestamp[us, tz=UTC]",
        "day": "date32[day]",
        "text": "string",
        "tags": "json",
    }


class TestFrames:
    @pytest.mark.parametrize(
        ("frame", "named"),
        [
            (pd.DataFrame([[1, 2]], columns=["id", "id"]), "two columns are named 'id'"),
            (pd.DataFrame([[1, 2]]), "name of column 1 is 0"),
            (pd.DataFrame({"text": ["x"]}, index=pd.Index(["a"], name="id")), "index named 'id'"),
            (pd.DataFrame({"text": ["x"]}, index=["a"]), "has an index of type"),
            (pd.DataFrame({"id": ["a", 1], "text": ["x", "y"]}), "several types"),
            (pd.Series(["a"], name="id"), "Series"),
            ([{"id": "a"}], "not a frame"),
            (pa.table([["a"], ["b"]], names=["id", "id"]), "two columns"),
        ],
    )
    def test_a_frame_that_would_lose_something_is_refused(
        self, pipeline: Pipeline, frame: Any, named: str
    ) -> None:
        with pytest.raises(InputDataError, match=named) as caught:
            keep(pipeline.files, "review", "all", FramesSource("raw/x", [frame]), "v1")
        assert "nothing was sent" in str(caught.value)

    def test_rows_left_by_a_filter_have_no_index_that_matters(self, pipeline: Pipeline) -> None:
        frame = pd.DataFrame({"id": ["a", "b"], "text": ["x", "y"]})
        frame = frame[frame["id"] == "b"]
        found = keep(pipeline.files, "review", "all", FramesSource("raw/x", [frame]), "v1")
        assert [row["id"] for row in cells(found)] == ["b"]

    def test_the_command_line_says_what_it_cannot_load_and_goes_on_from_a_copy(
        self, sim: Simulator, pipeline: Pipeline
    ) -> None:
        declared = {"asset": {"key": "raw/x", "as": "arrow"}}
        spec = job("", input=declared, output={"carry": ["money", "at", "number"]})
        with pytest.raises(UsageError, match=r"only Dagster can load.*review/input_dataset"):
            run(pipeline, spec, PARTITION)
        keep(pipeline.files, "review", PARTITION, FramesSource("raw/x", [TABLE]), "v1")
        state = run(pipeline, spec, PARTITION)
        assert state.statuses == {"succeeded": 3}
        columns = ["input_money", "input_at", "input_number"]
        carried = read_results(
            "review", PARTITION, columns, as_="arrow",
            dataset="typed", incomplete="read", home=pipeline.settings.home,
        )  # fmt: skip
        given = TABLE.select(["money", "at", "number"]).rename_columns(columns)
        assert carried.sort_by("input_number").equals(given.sort_by("input_number"))
        # Another version of the same rows in another order buys nothing.
        other = TABLE.take([2, 0, 1])
        keep(pipeline.files, "review", PARTITION, FramesSource("raw/x", [other]), "v2")
        run(pipeline, spec, PARTITION)
        assert sim.books.accepted_requests == 3


class TestDelta:
    @pytest.fixture
    def table(self, tmp_path: Path) -> str:
        deltalake = pytest.importorskip("deltalake")
        uri = str(tmp_path / "lake")
        for day in DAYS:
            rows = [{"id": f"{day}/{n}", "text": f"Text {n}", "day": day} for n in range(3)]
            deltalake.write_deltalake(uri, pa.Table.from_pylist(rows), mode="append")
        return uri

    def spec(self, uri: str, **delta: Any) -> JobSpec:
        declared = {"uri": uri, "where": "day = '{partition}'", **delta}
        return job("", input={"delta": declared}, partitions={"start": DAYS[0]})

    def test_the_predicate_selects_the_night_and_the_version_is_kept(
        self, sim: Simulator, pipeline: Pipeline, table: str
    ) -> None:
        import deltalake  # noqa: PLC0415

        spec = self.spec(table)
        run(pipeline, spec, DAYS[1])
        assert set(by_id(results(pipeline, spec, DAYS[1]))) == {f"{DAYS[1]}/{n}" for n in range(3)}
        night = open_night(pipeline, spec, DAYS[1])
        with pipeline.ledger.read() as connection:
            source = snapshots.get_snapshot(connection, night.snapshot_id or 0).source
        assert source is not None
        assert (source["version"], source["rows"]) == ("2", 3)
        # A later version with the same rows of the night buys nothing.
        deltalake.DeltaTable(table).optimize.compact()
        run(pipeline, spec, DAYS[1])
        assert sim.books.accepted_requests == 3
        freed = prune(pipeline, spec, DAYS[2])
        assert list(freed.freed) == [DAYS[1]]
        assert pipeline.files.size(paths.input_copies(spec.name, DAYS[1])) == 0

    def test_a_version_that_was_vacuumed_sends_nothing(
        self, sim: Simulator, pipeline: Pipeline, table: str
    ) -> None:
        import deltalake  # noqa: PLC0415

        found = deltalake.DeltaTable(table)
        found.optimize.compact()
        found.vacuum(0, dry_run=False, enforce_retention_duration=False)
        with pytest.raises(InputDataError, match=r"version 1 .*gone.*VACUUM|cannot be opened"):
            run(pipeline, self.spec(table, version=1), DAYS[0])
        assert sim.books.accepted_requests == 0

    def test_no_table_is_told(self, pipeline: Pipeline, tmp_path: Path) -> None:
        pytest.importorskip("deltalake")
        with pytest.raises(InputDataError, match="no Delta table"):
            find_input(pipeline, self.spec(str(tmp_path / "nothing")), DAYS[0])


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "id": {"type": "integer"}},
    "required": ["label", "id"],
    "additionalProperties": False,
}


class TestJob:
    def test_accepted_answers_are_the_next_jobs_rows(
        self, sim: Simulator, pipeline: Pipeline, tmp_path: Path
    ) -> None:
        path = write_rows(tmp_path / "in.jsonl", documents(5))
        first = job(
            path,
            name="first",
            output_schema=SCHEMA,
            output={"carry": ["text"]},
            limits={"max_requests_per_batch": 2},
        )
        prompt = {"user": "{id} {label} {parsed_id} {input_text}"}
        second = job("", name="second", input={"job": "first"}, prompt=prompt)
        with pytest.raises(InputDataError, match="first --partition"):
            run(pipeline, second, PARTITION)
        run(pipeline, first, PARTITION)
        bought = sim.books.accepted_requests
        run(pipeline, second, PARTITION)
        assert sim.books.accepted_requests == bought + 5
        run(pipeline, second, PARTITION)
        assert sim.books.accepted_requests == bought + 5
        accepted = [row for row in results(pipeline, first) if row["status"] == "succeeded"]
        texts = {row["id"]: row["text"] for row in documents(5)}
        answered = results(pipeline, second)
        assert {row["id"] for row in answered} == {row["id"] for row in accepted}
        rows = {
            row.id: json.loads(row.input)
            for row in read_rows(find_input(pipeline, second, PARTITION), "id", ["label"])
        }
        for row in accepted:
            parsed = json.loads(row["parsed"])
            assert rows[row["id"]] == {
                "id": row["id"],
                "content": row["content"],
                "parsed": parsed,
                "label": parsed["label"],
                "parsed_id": parsed["id"],
                "input_text": texts[row["id"]],
            }


def test_another_shape_than_the_night_before_is_refused_until_it_is_meant(
    sim: Simulator, pipeline: Pipeline
) -> None:
    declared = {"asset": {"key": "raw/x", "as": "arrow"}}
    spec = job("", input=declared, partitions={"start": DAYS[0]})
    for day, table in zip(DAYS, (TABLE, TABLE, TABLE.drop_columns(["money"])), strict=True):
        keep(pipeline.files, "review", day, FramesSource("raw/x", [table]), "v1")
    run(pipeline, spec, DAYS[0])
    run(pipeline, spec, DAYS[1])
    before = sim.books.accepted_requests
    with pytest.raises(InputDataError, match="column 'money' is gone"):
        run(pipeline, spec, DAYS[2])
    assert sim.books.accepted_requests == before
    meant = job("", input={**declared, "shape": "any"}, partitions={"start": DAYS[0]})
    run(pipeline, meant, DAYS[2])
    assert sim.books.accepted_requests == before + 3


def test_a_shape_has_changed_where_a_column_is_gone_or_of_another_type() -> None:
    before = {"id": "string", "n": "number", "gone": None, "unknown": None}
    now = {"id": "number", "n": "null", "unknown": "string", "more": "string"}
    found = shape_changes(before, now)
    assert found == ["column 'gone' is gone", "column 'id' was string and is number"]
    values = {"a": "decimal128(3, 2)", "b": "timestamp[ns]", "c": "struct<x: string>"}
    others = {"a": "decimal128(5, 2)", "b": "timestamp[us, tz=UTC]", "c": "struct<y: int64>"}
    assert shape_changes(values, others) == []


def test_a_copy_of_many_parts_keeps_all_rows(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "PART_BYTES", 1_000)
    rows = [{"id": str(uuid.uuid4()), "text": "x" * 100} for _ in range(100)]
    table = pa.Table.from_pylist(rows)
    found = keep(pipeline.files, "review", "all", FramesSource("raw/x", [table]), "v1")
    assert len(found.files) > 5
    assert cells(found) == rows


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({}, "takes one of path, asset, sql, delta, job, and has none"),
        ({"path": "x.csv", "job": "other"}, "has path and job"),
        ({"job": "review"}, "is this job itself"),
    ],
)
def test_an_input_has_one_source(declared: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, BatchPipelineError), match=message):
        job("", input=declared)
