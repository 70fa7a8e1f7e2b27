"""Dead letters sent again: what was set aside is asked once more, good answers are never bought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import GateClosedError, InputDataError, UsageError
from batch_pipeline.flow import paths
from batch_pipeline.flow.answers.outcomes import REASONS
from batch_pipeline.flow.batches import cancel
from batch_pipeline.flow.control.redrive import redrive, set_aside
from batch_pipeline.flow.costs.cost_report import build_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.simulator import Faults, Simulator
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

TRANSLATE = {"prompt": {"user": "Translate: {text}"}}


def failing(**outcomes: tuple[int, ...]) -> Faults:
    """So fare the documents with these numbers, however often they are asked."""
    matching = [
        {"contains": f"number {n} about", "outcome": outcome, "ways": "both"}
        for outcome, numbers in outcomes.items()
        for n in numbers
    ]
    return Faults.of(requests={"matching": matching})


def name(*numbers: int) -> set[str]:
    return {f"Akte {n}/ä" for n in numbers}


def again(pipeline: Pipeline, spec: JobSpec, *reasons: str) -> Progress:
    redrive(pipeline, spec, PARTITION, reasons)
    return run(pipeline, spec, PARTITION)


def check_money(pipeline: Pipeline, spec: JobSpec, state: Progress, sim: Simulator) -> None:
    """Rows, report, ledger and biller agree to the last digit."""
    billed = sim.books.batch_cost_usd + sim.books.realtime_cost_usd
    report = build_report(pipeline, spec, state.night)
    shown = sum(row["cost_usd"] for row in results(pipeline, spec))
    assert shown + report.costs.unattributed_usd == billed == state.total_cost_usd
    assert report.costs.unattributed_usd == 0


@pytest.mark.parametrize(
    ("reasons", "selected"),
    [
        ((), {"errored": 2, "refused": 1, "too_large": 4}),
        (("errored",), {"errored": 2}),
        (("errored", "refused", "expired"), {"errored": 2, "refused": 1}),
        (("truncated",), {}),
    ],
)
def test_what_is_set_aside(reasons: tuple[str, ...], selected: dict[str, int]) -> None:
    night = {"succeeded": 7, "filtered": 3, "errored": 2, "refused": 1, "too_large": 4}
    assert set_aside({**night, "expired": 0}, reasons) == selected


def test_reasons_are_the_statuses_of_dead_letters() -> None:
    assert not {"succeeded", "filtered"} & set(REASONS)
    assert len(REASONS) == 8


def test_what_succeeds_replaces_its_row_and_what_fails_comes_back(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    sim.set_faults(failing(refusal=(1, 2, 3), invalid_request_error=(4,)))
    spec = job(write_rows(tmp_path / "in.jsonl", documents(20)))
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": 16, "refused": 3, "errored": 1}
    before = by_id(results(pipeline, spec))

    sim.set_faults(failing(refusal=(1,)))
    state = again(pipeline, spec)

    assert state.complete
    assert state.statuses == {"succeeded": 19, "refused": 1}
    assert sim.books.accepted_requests == 24
    assert {key for key, n in accepted_twice(sim).items() if n > 2} == set()
    assert len(accepted_twice(sim)) == 4
    rows = by_id(results(pipeline, spec))
    assert set(rows) == set(before)
    assert {row_id for row_id in rows if rows[row_id] != before[row_id]} == name(1, 2, 3, 4)
    assert [rows[row_id]["attempt"] for row_id in sorted(name(1, 2, 3, 4))] == [2] * 4
    [letter] = dead_letters(pipeline, spec)
    assert (letter["id"], letter["attempts"]) == ("Akte 1/ä", 2)
    check_money(pipeline, spec, state, sim)
    # A refusal is billed: the row bears both.
    assert rows["Akte 2/ä"]["input_tokens"] > before["Akte 2/ä"]["input_tokens"] > 0

    run(pipeline, spec, PARTITION)
    assert sim.books.accepted_requests == 24


def test_by_reason(sim: Simulator, pipeline: Pipeline, tmp_path: Path) -> None:
    sim.set_faults(failing(refusal=(1, 2), empty=(3,)))
    spec = job(write_rows(tmp_path / "in.jsonl", documents(10)))
    run(pipeline, spec, PARTITION)
    sim.set_faults(Faults())
    state = again(pipeline, spec, "refused")
    assert state.statuses == {"succeeded": 9, "invalid_output": 1}
    assert sim.books.accepted_requests == 12
    # What a redrive put behind stays behind, what it did not is still there for the next.
    assert again(pipeline, spec, "invalid_output").statuses == {"succeeded": 10}
    assert sim.books.accepted_requests == 13
    assert redrive(pipeline, spec, PARTITION).sent == {}


def test_attempts_have_their_bound_anew_and_count_on(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    sim.set_faults(failing(overloaded_error=(0,)))
    spec = job(write_rows(tmp_path / "in.jsonl", documents(3)), retry={"max_attempts": 2})
    run(pipeline, spec, PARTITION)
    assert [letter["attempts"] for letter in dead_letters(pipeline, spec)] == [2]
    again(pipeline, spec)
    assert [letter["attempts"] for letter in dead_letters(pipeline, spec)] == [4]
    assert sim.books.accepted_requests == 2 + 4
    again(pipeline, job(tmp_path / "in.jsonl", retry={"max_attempts": 2}, **TRANSLATE))
    assert [letter["attempts"] for letter in dead_letters(pipeline, spec)] == [6]
    assert sim.books.accepted_requests == 2 + 6


def test_a_changed_prompt_is_for_the_redriven_alone(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    sim.set_faults(failing(refusal=(1, 2), empty=(3,)))
    rows = documents(20)
    source = write_rows(tmp_path / "in.jsonl", rows)
    pipeline = make_pipeline()
    run(pipeline, job(source), PARTITION)
    before = by_id(results(pipeline, job(source)))

    sim.set_faults(Faults())
    changed = job(source, **TRANSLATE)
    state = again(pipeline, changed, "refused")
    assert state.statuses == {"succeeded": 19, "invalid_output": 1}
    assert sim.books.accepted_requests == 22
    assert not accepted_twice(sim), "the new prompt makes other requests"
    found = by_id(results(pipeline, changed))
    different = {row_id for row_id in found if found[row_id] != before[row_id]}
    assert {i for i in different if found[i]["content"] != before[i]["content"]} == name(1, 2)
    assert {found[i]["fingerprint"] for i in found} - {r["fingerprint"] for r in before.values()}
    check_money(pipeline, changed, state, sim)

    # A later reading of the same rows with one more buys nothing of that again.
    write_rows(source, [{**row, "note": "new column"} for row in [*rows[::-1], *documents(1, 90)]])
    state = run(make_pipeline(), changed, PARTITION)
    assert (state.settled, state.complete) == (21, True)
    assert sim.books.accepted_requests == 23
    assert by_id(results(pipeline, changed))["Akte 5/ä"]["content"] == before["Akte 5/ä"]["content"]
    # The next redrive finds what the first has left, kept under the first prompt.
    third = job(source, prompt={"user": "Explain: {text}"})
    assert again(make_pipeline(), third).statuses == {"succeeded": 21}
    assert sim.books.accepted_requests == 24
    # A document that changes is asked anew, under what is declared now.
    write_rows(source, [{**row, "text": row["text"] + "!"} for row in rows[:1]] + rows[1:])
    state = run(make_pipeline(), third, PARTITION)
    assert (state.items, sim.books.accepted_requests) == (20, 25)
    # An ordinary change of the prompt is for every document.
    run(make_pipeline(), job(source, prompt={"user": "Praise: {text}"}), PARTITION)
    assert sim.books.accepted_requests == 45


def test_corrected_data_make_rows_sendable(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    big = {"id": "big", "text": "x" * 900}
    source = write_rows(tmp_path / "in.jsonl", [*documents(6), {"id": "null", "text": None}, big])
    spec = job(source, limits={"max_bytes_per_batch": 800})
    assert run(pipeline, spec, PARTITION).statuses == {
        "succeeded": 6,
        "invalid_input": 1,
        "too_large": 1,
    }
    write_rows(source, [*documents(6), {"id": "null", "text": "now"}, {"id": "big", "text": "x"}])
    state = again(pipeline, spec)
    assert state.statuses == {"succeeded": 8}
    assert dead_letters(pipeline, spec) == []
    assert sim.books.accepted_requests == 8
    assert not accepted_twice(sim)


def test_only_redriven_rows_are_read_and_all_others_stay(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    sim.set_faults(failing(refusal=(1, 2)))
    rows = documents(20)
    source = write_rows(tmp_path / "in.jsonl", rows)
    run(pipeline, job(source), PARTITION)
    before = by_id(results(pipeline, job(source)))
    # Gone: a dead letter and a good one; one has changed, and one is new.
    rows = [row for row in rows if row["id"] not in name(2, 5)] + documents(1, 90)
    rows[6] = {**rows[6], "text": "another text"}
    write_rows(source, rows)
    sim.set_faults(Faults())
    spec = job(source, **TRANSLATE)

    found = redrive(pipeline, spec, PARTITION)
    assert (found.sent, set(found.missing)) == ({"refused": 1}, name(2))
    state = run(pipeline, spec, PARTITION)
    assert state.snapshot is not None
    [part] = paths.parts_in(state.snapshot.folder, state.snapshot.parts)
    assert pipeline.files.read_columns(part, ["id"]).column("id").to_pylist() == ["Akte 1/ä"]
    assert (state.complete, state.statuses) == (True, {"succeeded": 19, "refused": 1})
    assert sim.books.accepted_requests == 21
    shown = by_id(results(pipeline, spec))
    assert {i for i in shown if shown[i] != before.get(i)} == name(1)
    assert [letter["id"] for letter in dead_letters(pipeline, spec)] == ["Akte 2/ä"]
    check_money(pipeline, spec, state, sim)

    # What has changed besides is for the next run; what is settled is not bought again.
    state = run(pipeline, spec, PARTITION)
    assert (state.complete, state.statuses) == (True, {"succeeded": 19})
    assert set(by_id(results(pipeline, spec))) == {row["id"] for row in rows}
    assert sim.books.accepted_requests == 23


def test_dead_letters_whose_rows_are_gone_can_be_redriven_when_they_are_back(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    sim.set_faults(failing(refusal=(1, 2)))
    rows = documents(10)
    source = write_rows(tmp_path / "in.jsonl", rows)
    spec = job(source)
    state = run(pipeline, spec, PARTITION)
    write_rows(source, rows[3:])
    found = redrive(pipeline, spec, PARTITION)
    assert (found.sent, set(found.missing)) == ({}, name(1, 2))
    assert pipeline.refreshed(state.night) == state.night, "nothing has changed"
    write_rows(source, [rows[1], rows[1], *rows[3:]])
    with pytest.raises(InputDataError, match="occur more than once"):
        redrive(pipeline, spec, PARTITION)
    assert pipeline.refreshed(state.night) == state.night
    sim.set_faults(Faults())
    for back in (rows[1:2], rows[2:3]):
        write_rows(source, back)
        assert redrive(pipeline, spec, PARTITION).sent == {"refused": 1}
        state = run(pipeline, spec, PARTITION)
    assert (state.complete, state.statuses) == (True, {"succeeded": 10})
    assert sim.books.accepted_requests == 12
    check_money(pipeline, spec, state, sim)


@pytest.mark.parametrize(("changes", "refused"), [({}, 0), (TRANSLATE, 1)])
def test_items_that_ask_the_same_are_redriven_together_and_one_that_is_gone_shares_the_answer(
    sim: Simulator,
    pipeline: Pipeline,
    tmp_path: Path,
    changes: dict[str, Any],
    refused: int,
) -> None:
    rows = documents(4)
    twins = [{"id": f"twin {n}", "text": rows[n // 2]["text"]} for n in range(4)]
    source = write_rows(tmp_path / "in.jsonl", [*rows, *twins])
    sim.set_faults(failing(refusal=(0, 1)))
    assert run(pipeline, job(source), PARTITION).statuses == {"succeeded": 2, "refused": 6}
    sim.set_faults(Faults())
    write_rows(source, [*rows[1:], *twins])
    spec = job(source, **changes)
    assert redrive(pipeline, spec, PARTITION).missing == ["Akte 0/ä"]
    state = run(pipeline, spec, PARTITION)
    # With another prompt its request is one that no other item asks any more.
    expected = {"succeeded": 8 - refused, "refused": refused}
    assert state.statuses == {status: count for status, count in expected.items() if count}
    assert statuses(results(pipeline, spec)) == state.statuses
    assert sim.books.accepted_requests == 6
    check_money(pipeline, spec, state, sim)


def test_a_pilot_gates_the_redriven(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    bad = tuple(range(10, 30))
    sim.set_faults(failing(refusal=bad))
    source = write_rows(tmp_path / "in.jsonl", documents(100))
    pilot = {"size": 100, "max_error_rate": 1}
    run(make_pipeline(), job(source, pilot=pilot), PARTITION)
    assert sim.books.accepted_requests == 100

    strict = {"size": 100, "max_error_rate": 0.1}
    changed = job(source, pilot=strict, **TRANSLATE)
    with pytest.raises(GateClosedError):
        again(make_pipeline(), changed)
    # A tenth of the twenty, not of the hundred.
    assert sim.books.accepted_requests == 102
    with pytest.raises(UsageError, match="not complete"):
        redrive(make_pipeline(), changed, PARTITION)
    # Corrected once more: what is settled is still kept.
    sim.set_faults(Faults())
    better = job(source, pilot=strict, prompt={"user": "Explain: {text}"})
    state = run(make_pipeline(), better, PARTITION)
    assert state.statuses["succeeded"] + state.statuses.get("refused", 0) == 100
    assert state.statuses["succeeded"] >= 98
    assert sim.books.accepted_requests == 122 - state.statuses.get("refused", 0)
    check_money(make_pipeline(), better, state, sim)


def test_a_night_at_work_is_left_alone(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [*documents(6), {"id": "null", "text": None}])
    spec = job(source)
    with pytest.raises(UsageError, match="has not been run"):
        redrive(make_pipeline(), spec, PARTITION)
    sim.hold()
    run(make_pipeline(), spec, PARTITION, wait=False)
    with pytest.raises(UsageError, match="6 requests are in flight"):
        redrive(make_pipeline(), spec, PARTITION)
    sim.release()
    state = run(make_pipeline(), spec, PARTITION)
    with pytest.raises(UsageError, match="no dead letter has such a reason"):
        redrive(make_pipeline(), spec, PARTITION, ["succeeded"])
    cancel.hold(make_pipeline(), state.night)
    with pytest.raises(UsageError, match="held after a cancel"):
        redrive(make_pipeline(), spec, PARTITION)
    assert sim.books.accepted_requests == 6


def test_no_id_is_shown_twice_and_redriven_ones_have_no_row_meanwhile(
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sim.set_faults(failing(refusal=(1, 2, 3)))
    spec = job(write_rows(tmp_path / "in.jsonl", documents(20)))
    pipeline = make_pipeline()
    run(pipeline, spec, PARTITION)
    folder = Path(pipeline.files.uri(f"{spec.name}/results/partition={PARTITION}"))
    seen = ids_at_each_change(monkeypatch, pipeline, folder)
    sim.set_faults(Faults())
    sim.hold()
    redrive(pipeline, spec, PARTITION)
    state = run(pipeline, spec, PARTITION, wait=False)
    assert (state.settled, state.in_flight, state.waiting) == (17, 3, 0)
    assert not name(1, 2, 3) & set(ids_shown(folder))
    assert dead_letters(pipeline, spec) == []
    report = build_report(pipeline, spec, state.night)
    assert report.costs.unattributed_usd > 0, "refusals without a row are billed all the same"
    sim.release()
    run(pipeline, spec, PARTITION)
    assert [ids for ids in seen if len(ids) != len(set(ids))] == []
    assert sorted(seen[-1]) == sorted(d["id"] for d in documents(20))


def test_what_was_cut_off_gets_more_room_at_once(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "string"}}, "required": ["n"]}
    short: dict[str, Any] = {"max_tokens": 1, "output_schema": schema}
    source = write_rows(tmp_path / "in.jsonl", documents(4))
    assert run(pipeline, job(source, **short), PARTITION).statuses == {"truncated": 4}
    spec = job(source, **short, retry={"truncated_max_tokens": 4_000})
    state = again(pipeline, spec)
    assert state.statuses == statuses(results(pipeline, spec)) == {"succeeded": 4}
    assert sim.books.accepted_requests == 8
    check_money(pipeline, spec, state, sim)
    assert [s.requests for s in submissions_of(pipeline)] == [4, 4]
