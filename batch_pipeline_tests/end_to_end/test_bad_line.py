"""A bad connection to the API: lost answers, a full queue, torn downloads; nothing paid twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from batch_pipeline.api import client
from batch_pipeline.flow import run
from batch_pipeline.flow.batches import submission
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline_tests.end_to_end.plain_api import PlainApi
from batch_pipeline_tests.support import by_id, documents, job, results, statuses, write_rows

ITEMS = 40
SHARD = 10


def night(
    api: PlainApi, pipeline: Pipeline, folder: Path, *, foreign_size: int | None = None
) -> None:
    """Run a night of four batches to its end; every item is answered, and asked once."""
    source = write_rows(folder / "in.jsonl", documents(ITEMS))
    spec = job(source, limits={"max_requests_per_batch": SHARD})
    for _ in range(5 if foreign_size else 0):
        api.add_foreign(foreign_size or 0)

    state = run.run(pipeline, spec, "all")

    assert state.complete
    found = by_id(results(pipeline, spec))
    assert set(found) == {row["id"] for row in documents(ITEMS)}
    assert statuses(found.values()) == {"succeeded": ITEMS}
    assert set(api.accepted.values()) == {1}, "a document was bought twice"
    assert len(api.accepted) == ITEMS


@pytest.mark.parametrize(
    "faults",
    [
        ["ok", "500", "500"],
        ["ok", "dropped but accepted"],
        ["500 but accepted", "500", "dropped but accepted", "500 but accepted"],
    ],
)
def test_a_lost_answer_is_looked_for_and_not_repeated(
    plain_api: PlainApi, plain_pipeline: Pipeline, tmp_path: Path, faults: list[str]
) -> None:
    plain_api.create_faults = list(faults)
    plain_api.turnaround = 0.2
    night(plain_api, plain_pipeline, tmp_path)
    assert not plain_api.create_faults


def test_batches_of_others_that_look_the_same_are_left_alone(
    plain_api: PlainApi, plain_pipeline: Pipeline, tmp_path: Path
) -> None:
    plain_api.create_faults = ["500 but accepted", "500", "dropped but accepted"]
    night(plain_api, plain_pipeline, tmp_path, foreign_size=SHARD)
    foreign = [batch for batch in plain_api.batches if batch.foreign]
    assert [batch.canceled for batch in foreign] == [False] * 5


def test_a_batch_that_appears_late_is_waited_for(
    plain_api: PlainApi, plain_pipeline: Pipeline, tmp_path: Path
) -> None:
    # Less than the 0.6 s that a lost submission is looked for.
    plain_api.appears_after = 0.3
    plain_api.create_faults = ["ok", "500 but accepted"]
    night(plain_api, plain_pipeline, tmp_path)


def test_a_full_queue_is_waited_out(
    plain_api: PlainApi,
    plain_pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(submission, "QUEUE_FULL_SECONDS", 0.2)
    plain_api.create_faults = ["ok", "full, come back"]
    night(plain_api, plain_pipeline, tmp_path)


def test_a_queue_that_is_smaller_than_said_is_never_overfilled(
    plain_api: PlainApi, plain_pipeline: Pipeline, tmp_path: Path
) -> None:
    plain_api.queue_limit = 25
    # Longer than the next create takes on a busy machine.
    plain_api.turnaround = 1.0
    night(plain_api, plain_pipeline, tmp_path)
    assert plain_api.highest_queue == 2 * SHARD


def test_polls_that_fail_are_repeated(
    plain_api: PlainApi, plain_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More faults in a row than the repetitions of one read get over.
    monkeypatch.setattr(client, "READ_PAUSES", (0.0,))
    plain_api.turnaround = 0.2
    assert not plain_pipeline.connections.connect("default").names.simulated
    plain_api.poll_faults = [529, 500, 0, 529]
    night(plain_api, plain_pipeline, tmp_path)
    assert not plain_api.poll_faults


def test_downloads_that_break_are_fetched_again(
    plain_api: PlainApi, plain_pipeline: Pipeline, tmp_path: Path
) -> None:
    plain_api.download_faults = ["torn", "short", "ok", "torn", "short"]
    night(plain_api, plain_pipeline, tmp_path)
    assert not plain_api.download_faults
    assert sum(batch.downloads for batch in plain_api.batches) == ITEMS // SHARD + 4


def test_real_time_calls_ride_out_a_busy_api(
    plain_api: PlainApi, plain_pipeline: Pipeline, tmp_path: Path
) -> None:
    plain_api.call_faults = [429, 529, 500, 529]
    source = write_rows(tmp_path / "in.jsonl", documents(ITEMS))
    spec = job(source, pilot={"size": 4})

    state = run.run(plain_pipeline, spec, "all")

    assert statuses(results(plain_pipeline, spec)) == {"succeeded": ITEMS}
    assert state.complete
    asked = Counter(plain_api.accepted) + Counter(plain_api.called)
    assert set(asked.values()) == {1}
    assert (len(plain_api.called), len(plain_api.accepted)) == (4, ITEMS - 4)
