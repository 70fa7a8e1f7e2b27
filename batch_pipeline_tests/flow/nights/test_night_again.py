"""A night run again: the one rule decides what is bought, the results folder follows the input."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.night_input import take_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.steps import open_night
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.flow.seen_by_readers import ids_at_each_change
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    dead_letters,
    documents,
    ids_shown,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)


def test_run_again_buys_nothing_and_changes_nothing_but_new_documents(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(40))
    spec = job(source, pilot={"size": 4})
    run(make_pipeline(), spec, PARTITION)
    pipeline = make_pipeline()
    before = results(pipeline, spec)
    assert run(pipeline, spec, PARTITION).complete
    assert results(pipeline, spec) == before
    assert sim.books.accepted_requests == 40

    realtime = sim.books.realtime_cost_usd
    write_rows(source, documents(50))
    state = run(pipeline, spec, PARTITION)
    assert (state.items, state.statuses, state.complete) == (50, {"succeeded": 50}, True)
    assert sim.books.accepted_requests == 50
    assert not accepted_twice(sim)
    assert sim.books.realtime_cost_usd == realtime  # no second pilot
    assert set(by_id(results(pipeline, spec))) == {d["id"] for d in documents(50)}


def test_a_changed_prompt_buys_all_again_and_old_rows_go(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(10))
    run(pipeline, job(source), PARTITION)
    old = {row["fingerprint"] for row in results(pipeline, job(source))}
    spec = job(source, prompt={"user": "Translate: {text}"})
    state = run(pipeline, spec, PARTITION)
    assert sim.books.accepted_requests == 20
    assert not accepted_twice(sim)
    rows = results(pipeline, spec)
    assert statuses(rows) == state.statuses == {"succeeded": 10}
    assert not old & {row["fingerprint"] for row in rows}
    # An item's cost is all that was billed for it in this night.
    assert sum(row["cost_usd"] for row in rows) == state.total_cost_usd == sim.books.batch_cost_usd

    # Back to the first prompt: its answers are still there.
    state = run(pipeline, job(source), PARTITION)
    assert sim.books.accepted_requests == 20
    assert {row["fingerprint"] for row in results(pipeline, job(source))} == old


def test_what_left_the_input_leaves_the_results(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    bad = {"id": "bad", "text": None}
    source = write_rows(tmp_path / "in.jsonl", [*documents(10), bad])
    spec = job(source)
    run(pipeline, spec, PARTITION)
    assert [row["id"] for row in dead_letters(pipeline, spec)] == ["bad"]
    write_rows(source, documents(9, start=1))
    state = run(pipeline, spec, PARTITION)
    assert (state.items, state.settled, state.complete) == (9, 9, True)
    assert set(by_id(results(pipeline, spec))) == {d["id"] for d in documents(9, start=1)}
    assert dead_letters(pipeline, spec) == []
    assert sim.books.accepted_requests == 10


def test_a_complete_night_whose_input_is_gone_stays_and_reading_it_again_says_what_changed(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(10))
    spec = job(source)
    run(pipeline, spec, PARTITION)
    source.unlink()
    assert run(pipeline, spec, PARTITION).complete
    night = open_night(pipeline, spec, PARTITION)
    with pytest.raises(InputDataError, match="no file for this night"):
        take_input(pipeline, spec, night, again=True)

    [_, second, *rest] = documents(12)
    write_rows(source, [{**second, "text": "another text"}, *rest])
    taken = take_input(pipeline, spec, night)
    assert taken.note == "input read again: 2 new items, 1 gone, 1 with another request"


def test_a_new_item_with_a_known_text_is_answered_for_free(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(5))
    spec = job(source)
    first = run(pipeline, spec, PARTITION)
    twin = {"id": "twin", "text": documents(1)[0]["text"]}
    # First in the file: then it is the one that the request would be built from.
    write_rows(source, [twin, *documents(5)])
    state = run(pipeline, spec, PARTITION)
    found = by_id(results(pipeline, spec))
    assert found["twin"]["content"] == found[documents(1)[0]["id"]]["content"]
    assert sim.books.accepted_requests == 5
    assert sum(row["cost_usd"] for row in found.values()) == first.total_cost_usd
    assert state.total_cost_usd == first.total_cost_usd


def test_without_waiting_a_night_goes_as_far_as_it_can(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    sim.hold()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(10)))
    state = run(make_pipeline(), spec, PARTITION, wait=False)
    assert (state.complete, state.in_flight, state.waiting) == (False, 10, 0)
    pipeline = make_pipeline()
    state = run(pipeline, spec, PARTITION, wait=False)
    assert (state.complete, state.in_flight) == (False, 10)
    sim.release()
    state = run(pipeline, spec, PARTITION, wait=False)
    assert (state.complete, state.succeeded) == (True, 10)
    assert sim.books.batches_created == 1


def test_input_and_declaration_that_change_while_in_flight_are_taken_up_after_the_end(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    sim.hold()
    source = write_rows(tmp_path / "in.jsonl", documents(10))
    spec = job(source)
    run(make_pipeline(), spec, PARTITION, wait=False)
    write_rows(source, documents(12, start=2))
    pipeline = make_pipeline()
    state = run(pipeline, spec, PARTITION, wait=False)
    assert (state.items, state.in_flight) == (10, 10)
    sim.release()
    state = run(pipeline, spec, PARTITION)
    assert (state.items, state.complete) == (12, True)
    assert set(by_id(results(pipeline, spec))) == {d["id"] for d in documents(12, start=2)}
    assert sim.books.accepted_requests == 14

    sim.hold()
    write_rows(source, documents(13, start=2))
    assert run(pipeline, spec, PARTITION, wait=False).in_flight == 1
    changed = job(source, prompt={"user": "Translate: {text}"})
    assert run(pipeline, changed, PARTITION, wait=False).in_flight == 1
    assert sim.books.accepted_requests == 15
    sim.release()
    state = run(pipeline, changed, PARTITION)
    assert (state.complete, state.succeeded) == (True, 13)
    assert sim.books.accepted_requests == 28
    assert not accepted_twice(sim)


def test_many_nights_share_the_account(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    sim.hold()
    nights = [f"2026-01-0{n}" for n in range(1, 4)]
    for n, night in enumerate(nights):
        write_rows(tmp_path / f"{night}.jsonl", documents(5, start=10 * n))
    spec = job(tmp_path / "{partition}.jsonl", partitions={"start": "2026-01-01"})
    pipeline = make_pipeline(max_queued_requests=12)
    for night in nights:
        run(pipeline, spec, night, wait=False)
    assert sim.queued == 10
    sim.release()
    for night in nights:
        assert run(pipeline, spec, night).complete
        assert len(results(pipeline, spec, night)) == 5
    assert sim.books.highest_queue <= 12
    assert not accepted_twice(sim)


def test_no_id_is_ever_shown_twice(
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While batches are collected, and while the folder is built anew for another input."""
    source = tmp_path / "in.jsonl"
    spec = job(source, limits={"max_requests_per_batch": 7}, pilot={"size": 3, "max_error_rate": 1})
    pipeline = make_pipeline()
    folder = Path(pipeline.files.uri(f"{spec.name}/results/partition={PARTITION}"))
    seen = ids_at_each_change(monkeypatch, pipeline, folder)
    for change in range(2):
        write_rows(source, [*documents(20, start=5 * change), {"id": "bad", "text": None}])
        run(pipeline, spec, PARTITION)
    assert [ids for ids in seen if len(ids) != len(set(ids))] == []
    # Rows came with each batch, went with the former folder, and came again.
    sizes = [len(ids) for ids in seen]
    assert len(set(sizes)) > 4
    assert 0 in sizes[sizes.index(21) :]
    assert sizes[-1] == 21


def test_a_retry_has_no_row_before_it_is_settled(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """Half of a batch is canceled by somebody at the API's console: those requests go again."""
    sim.hold()
    sim.set_done_at_cancel(0.5)
    spec = job(write_rows(tmp_path / "in.jsonl", documents(10)))
    pipeline = make_pipeline()
    run(pipeline, spec, PARTITION, wait=False)
    [batch_id] = [s.batch_id for s in submissions_of(pipeline)]
    pipeline.api_of("simulator").cancel_batch(str(batch_id))
    state = run(pipeline, spec, PARTITION, wait=False)
    assert len(results(pipeline, spec)) == 5
    assert state.settled == 5
    assert not state.complete
    sim.release()
    state = run(pipeline, spec, PARTITION)
    rows = results(pipeline, spec)
    assert statuses(rows) == {"succeeded": 10}
    assert sorted(row["attempt"] for row in rows) == [1] * 5 + [2] * 5
    assert sim.books.billed_requests == 10
    assert {s.state for s in submissions_of(pipeline)} == {State.COLLECTED}


@pytest.mark.parametrize("at", ["in flight", "ended"])
def test_a_results_folder_is_repaired_while_batches_are_in_flight(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, at: str
) -> None:
    """A process died while it replaced the files, and another had sent something meanwhile."""
    source = write_rows(tmp_path / "in.jsonl", [*documents(10), {"id": "bad", "text": None}])
    spec = job(source)
    pipeline = make_pipeline()
    run(pipeline, spec, PARTITION)
    write_rows(source, documents(16))
    sim.hold()
    state = run(pipeline, spec, PARTITION, wait=False)
    assert state.in_flight == 6
    folder = Path(pipeline.files.uri(f"{spec.name}/results/partition={PARTITION}"))
    for file in folder.glob("*.parquet"):
        file.unlink()
    with pipeline.ledger.write() as connection:
        nights.update_night(connection, state.night.id, rebuilding=True)
    if at == "ended":
        sim.release()
    state = run(make_pipeline(), spec, PARTITION, wait=False)
    assert set(ids_shown(folder)) >= {d["id"] for d in documents(10)}
    sim.release()
    state = run(make_pipeline(), spec, PARTITION)
    assert state.complete
    assert sorted(ids_shown(folder)) == sorted(d["id"] for d in documents(16))
    assert sim.books.accepted_requests == 16


def test_a_retry_round_leaves_out_what_is_in_flight(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """A full shard of retries goes at once, beside batches that are not back yet."""
    sim.hold()
    sim.set_done_at_cancel(0)
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(10)), limits={"max_requests_per_batch": 5}
    )
    pipeline = make_pipeline()
    run(pipeline, spec, PARTITION, wait=False)
    pipeline.api_of("simulator").cancel_batch(str(submissions_of(pipeline)[0].batch_id))
    state = run(pipeline, spec, PARTITION, wait=False)
    assert (state.in_flight, state.batches) == (10, 3)
    assert set(accepted_twice(sim).values()) == {2}
    assert len(accepted_twice(sim)) == 5
    sim.release()
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": 10}
    assert sim.books.billed_more_than_once == []
