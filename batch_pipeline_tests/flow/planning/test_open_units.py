"""Which units of a night are open, before anything is answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline.flow.answers.answers import NightAnswers
from batch_pipeline.flow.answers.schemas import ANSWERS_SCHEMA
from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.dataset.choosing import decisions
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests, plan
from batch_pipeline.flow.planning.open_units import open_units
from batch_pipeline.flow.planning.variants import Ways
from batch_pipeline.flow.results import settled_rows
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline_tests.flow.dataset.prepared_rows import SNAPSHOT
from batch_pipeline_tests.support import PARTITION, documents, job, settings, write_rows


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """A pipeline without an API."""
    return Pipeline(settings(tmp_path / "home"))


def read(pipeline: Pipeline, spec: JobSpec) -> Snapshot:
    sources = find_input(pipeline, spec, PARTITION)
    found = input_dataset.read_snapshot(pipeline, spec, PARTITION, sources)
    return replace(SNAPSHOT, **vars(found))


def write(pipeline: Pipeline, path: str, table: pa.Table) -> None:
    with pipeline.files.staged() as staged:
        pq.write_table(table, staged)
        pipeline.files.publish(staged, path)


def test_a_row_is_open_unless_it_is_set_aside_answered_for_or_in_a_shard(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = documents(40) + [{**row, "id": f"{row['id']} again"} for row in documents(5)]
    spec = job(write_rows(tmp_path / "in.jsonl", [*rows, {"id": "bad", "text": None}]))
    snapshot = read(pipeline, spec)
    room = Ways(spec.retry, Declaration.of(spec))

    def found(answers: NightAnswers, planned: list[str]) -> list[pa.Table]:
        with open_units(pipeline.files, snapshot, answers, planned) as units:
            every = [plan._as_manifest(batch, room) for batch in units.all()]
            sample = plan._as_manifest(units.sample(7, seed=1), room)
            assert not units.of(["no such unit"])
            assert units.count() == sum(table.num_rows for table in every)
            return [pa.concat_tables(every), sample]

    write(pipeline, "answers", ANSWERS_SCHEMA.empty_table())
    new, without_rows = NightAnswers((), ()), NightAnswers(("answers",), ())
    every, sample = found(new, [])
    assert every.column("id").to_pylist() == [row["id"] for row in documents(40)]
    assert set(every.column("attempt").to_pylist()) == {1}
    assert set(every.column("attempts_before").to_pylist()) == {0}
    assert sample.num_rows == 7
    write(pipeline, "shard", every.slice(10, 5))
    write(pipeline, "empty shard", manifests.SCHEMA.empty_table())
    for planned, left in ([], 40), (["shard", "empty shard"], 35):
        # A file without answers is as good as none.
        for one, other in zip(found(new, planned), found(without_rows, planned), strict=True):
            assert one.equals(other)
        assert found(new, planned)[0].num_rows == left


def test_rows_with_a_decision_are_not_asked_for(pipeline: Pipeline, tmp_path: Path) -> None:
    """Rows that are set aside, and rows that take the answer of another unit."""
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    snapshot = replace(read(pipeline, spec), set_aside={"filtered": {"few words": 1}}, duplicates=1)
    ids = [row["id"] for row in documents(5)]
    with open_units(pipeline.files, snapshot, NightAnswers((), ()), []) as units:
        [every] = units.all()
    units_of = every.column("unit").to_pylist()
    decided = [
        {"ordinal": 0, "id": ids[0], "status": "filtered", "reason": "few words"},
        {"ordinal": 3, "id": ids[3], "reason": "near", "answered_by": 1, "unit": units_of[1]},
    ]
    write(
        pipeline,
        decisions.path_of(snapshot),
        pa.Table.from_pylist(decided, schema=decisions.SCHEMA),
    )
    with open_units(pipeline.files, snapshot, NightAnswers((), ()), []) as units:
        [manifest] = units.all()
    assert manifest.column("ordinal").to_pylist() == [1, 2, 4]
    asked = manifest.column("ordinal")
    assert decisions.followers(pipeline.files, snapshot, asked) == {0: [(3, ids[3])]}

    answer = {"unit": units_of[1], "final": True, "id": ids[1], "status": "succeeded"}
    write(pipeline, "answers", pa.Table.from_pylist([answer], schema=ANSWERS_SCHEMA))
    answered = NightAnswers(("answers",), ())
    with settled_rows.of_snapshot(pipeline.files, snapshot, answered, simulated=False) as rows:
        assert rows.write(tmp_path) == {"filtered": 1, "succeeded": 2}
