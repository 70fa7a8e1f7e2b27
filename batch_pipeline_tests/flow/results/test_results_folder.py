"""The results folder as a whole: counted at a night's end, and built again where rows are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline.errors import LedgerError
from batch_pipeline.flow import paths
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    documents,
    ids_shown,
    job,
    write_rows,
)

ITEMS = 6


def _with_another_id(rows: pa.Table) -> pa.Table:
    ids = pa.array([*rows.column("id").to_pylist()[1:], "no item of the night"])
    return rows.set_column(0, "id", ids)


DAMAGES: dict[str, tuple[Callable[[pa.Table], pa.Table], int, int]] = {
    "a row is missing": (lambda rows: rows.slice(1), ITEMS - 1, 1),
    "a row is of no item": (_with_another_id, ITEMS, 1),
    "a row is there twice": (lambda rows: pa.concat_tables([rows, rows[:1]]), ITEMS + 1, 0),
    "a row stands for another": (
        lambda rows: pa.concat_tables([rows.slice(1), rows[-1:]]),
        ITEMS,
        1,
    ),
}


def test_rows_that_are_wrong_are_counted_and_built_again(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    pipeline = make_pipeline()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(ITEMS)), pilot={"size": 0})
    night, snapshot = plan.current(pipeline, run(pipeline, spec, PARTITION).night)
    results_folder.reconcile_counts(pipeline, night, snapshot)
    folder = Path(pipeline.settings.home) / paths.results(spec.name, PARTITION)
    shown = ids_shown(folder)
    assert len(shown) == ITEMS

    [file] = (path for path in folder.glob("*.parquet") if pq.read_metadata(path).num_rows)
    whole = pq.ParquetFile(file).read()
    for damage, (changed, rows, missing) in DAMAGES.items():
        pq.write_table(changed(whole), file)
        message = f"{ITEMS} items, the results {rows} rows, and {missing} items have none"
        with pytest.raises(LedgerError) as caught:
            results_folder.reconcile_counts(pipeline, night, snapshot)
        assert message in str(caught.value), damage

    assert run(make_pipeline(), spec, PARTITION).complete
    assert sorted(ids_shown(folder)) == sorted(shown)
    assert not accepted_twice(sim)
