"""A home in an object store: the same night, with files in fsspec's memory."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    dead_letters,
    documents,
    job,
    results,
    statuses,
    write_rows,
)


def test_a_whole_night_on_a_remote_home(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    home = f"memory://home-{uuid.uuid4().hex}"
    ledger = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    pipeline = make_pipeline(home=home, ledger_url=ledger)
    source = write_rows(tmp_path / "in.jsonl", [*documents(40), {"id": "bad", "text": None}])
    spec = job(
        source, pilot={"size": 4, "max_error_rate": 0.5}, limits={"max_requests_per_batch": 15}
    )
    with pytest.raises(GateClosedError):
        run(pipeline, spec.model_copy(update={"max_tokens": 1}), PARTITION)
    state = run(pipeline, spec, PARTITION)
    assert statuses(results(pipeline, spec)) == {"succeeded": 40, "invalid_input": 1}
    assert [row["id"] for row in dead_letters(pipeline, spec)] == ["bad"]
    assert not accepted_twice(sim)

    write_rows(source, documents(42, start=1))
    again = run(make_pipeline(home=home, ledger_url=ledger), spec, PARTITION)
    assert (again.complete, again.items) == (True, 42)
    assert again.batches == state.batches + 1
    assert set(by_id(results(pipeline, spec))) == {d["id"] for d in documents(42, start=1)}
    assert sum(row["cost_usd"] for row in results(pipeline, spec)) < again.total_cost_usd
    assert not (tmp_path / "home").exists()
