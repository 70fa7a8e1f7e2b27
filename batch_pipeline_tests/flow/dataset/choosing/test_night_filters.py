"""Nights with filters: which rows are not sent, what their rows say, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import joins, night_input, steps
from batch_pipeline.flow.control import redrive
from batch_pipeline.flow.dataset import input_dataset, layers
from batch_pipeline.flow.dataset import snapshot as snapshots_of_rows
from batch_pipeline.flow.dataset.layers import layers_of
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import warnings
from batch_pipeline.ledger import snapshots
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.simulator import Simulator
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

GERMAN = "Der Mieter darf die Wohnung nur mit Zustimmung des Vermieters einem Dritten überlassen."
ENGLISH = "The tenant may not sublet the flat without the written consent of the landlord at all."


def row(name: str, text: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "text": text, "pages": 3, **more}


def snapshot_of(pipeline: Pipeline, night: Night) -> Snapshot:
    with pipeline.ledger.read() as connection:
        assert night.snapshot_id is not None
        return snapshots.get_snapshot(connection, night.snapshot_id)


def shown(pipeline: Pipeline, spec: Any) -> dict[str, tuple[Any, ...]]:
    columns = ("status", "error_type", "error_message")
    return {
        key: tuple(found[name] for name in columns)
        for key, found in by_id(results(pipeline, spec)).items()
    }


GOOD = ("succeeded", None, None)


def test_each_row_is_set_aside_by_the_first_filter_that_it_does_not_pass(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = [
        *(row(f"good {n}", f"{ENGLISH} {n}") for n in range(40)),
        row("few pages", "short", pages=1),
        row("no pages", "short", pages=None),
        row("not said", "short") | {"pages": [2]},
        row("short", "two words"),
        row("long", f"{ENGLISH} " * 3),
        row("german", GERMAN),
        row("blank", " ", pages=1),
        row("twice", "two words"),
    ]
    filters = {
        "where": "pages::int > 1",
        "min_words": 5,
        "max_words": 30,
        "languages": ["en", "fr"],
    }
    spec = job(write_rows(tmp_path / "in.jsonl", rows), filters=filters)
    state = run(pipeline, spec, PARTITION)

    found = shown(pipeline, spec)
    assert {key: value for key, value in found.items() if not key.startswith("good")} == {
        "few pages": ("filtered", "where", "false"),
        "no pages": ("filtered", "where:null", "NULL"),
        "not said": ("invalid_input", "invalid_input", found["not said"][2]),
        "short": ("filtered", "min_words", "2"),
        "long": ("filtered", "max_words", "48"),
        "german": ("filtered", "language:de", found["german"][2]),
        "blank": ("invalid_input", "invalid_input", "blank document"),
        "twice": ("filtered", "min_words", "2"),
    }
    assert "Could not convert string '[2]'" in found["not said"][2]
    assert 0.5 <= float(found["german"][2]) <= 1
    assert [value for key, value in found.items() if key.startswith("good")] == [GOOD] * 40
    assert {letter["id"] for letter in dead_letters(pipeline, spec)} == {"not said", "blank"}
    assert sim.books.accepted_requests == 40

    aside = [each for each in results(pipeline, spec) if each["status"] == "filtered"]
    assert not any(each["cost_usd"] or each["input_tokens"] or each["batch_id"] for each in aside)
    assert (state.complete, state.items, state.filtered, state.dead_letter) == (True, 48, 6, 2)
    snapshot = snapshot_of(pipeline, state.night)
    assert snapshot.set_aside["filtered"] == {
        "language:de": 1, "max_words": 1, "min_words": 2, "where": 1, "where:null": 1,
    }  # fmt: skip
    # "few pages", "no pages" and the two of two words ask for two requests.
    assert {cause: found["documents"] for cause, found in snapshot.avoided.items()} == {
        "filter:language:de": 1, "filter:max_words": 1, "filter:min_words": 1, "filter:where": 1,
    }  # fmt: skip
    assert snapshot.units == 40


def test_what_filters_avoid_is_counted_over_all_parts_beside_identical_requests(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GROUP_ROWS", "PART_ROWS"):
        monkeypatch.setattr(snapshots_of_rows, name, 4)
    monkeypatch.setattr(layers, "MOST_TOGETHER", 1)
    rows = [
        row(f"{name} {n}", text)
        for n in range(10)
        for name, text in (("same", ENGLISH), ("good", f"{ENGLISH} {n}"), ("short", f"{n} words"))
    ]
    spec = job(write_rows(tmp_path / "in.jsonl", rows), filters={"min_words": 5})
    sources = find_input(pipeline, spec, PARTITION)
    taken = input_dataset.read_snapshot(pipeline, spec, PARTITION, sources)
    assert taken.parts > 5
    whole = layers_of(pipeline.files, taken)
    with joins.tables(pipeline.files, {}) as connection:
        layers.add_table(connection, whole)
        query = "SELECT sum(request_bytes) FROM snapshot WHERE {}"
        short, same = (
            int(connection.execute(query.format(where)).fetchall()[0][0])
            for where in ("status = 'filtered'", "starts_with(id, 'same')")
        )
    assert taken.avoided == {
        "filter:min_words": {"documents": 10, "bytes": short},
        "duplicates": {"documents": 9, "bytes": same // 10 * 9},
    }


@pytest.mark.parametrize(("failing", "stops"), [(2, False), (3, True)])
def test_a_where_that_fails_on_too_many_rows_stops_the_night(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, failing: int, stops: bool
) -> None:
    rows = [{**each, "pages": "3"} for each in documents(40 - failing)]
    rows += [row(f"bad {n}", "a text", pages="three") for n in range(failing)]
    spec = job(write_rows(tmp_path / "in.jsonl", rows), filters={"where": "pages::int > 1"})
    if not stops:
        assert statuses(results_after(pipeline, spec)) == {"succeeded": 38, "invalid_input": 2}
        return
    with pytest.raises(InputDataError) as caught:
        run(pipeline, spec, PARTITION)
    for part in ("3 of 40 rows", "7.5%", "at most 5%", "'bad 0'", "'three'", "try_cast"):
        assert part in str(caught.value)
    assert sim.books.accepted_requests == 0


def results_after(pipeline: Pipeline, spec: Any) -> list[dict[str, Any]]:
    assert run(pipeline, spec, PARTITION).complete
    return results(pipeline, spec)


def test_a_rule_of_routes_that_fails_on_too_many_rows_stops_the_night(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = [row(f"bad {n}", "a text", pages="three") for n in range(3)] + documents(37)
    routes = [{"where": "pages::int > 40", "model_id": "claude-sonnet-4-6"}]
    spec = job(write_rows(tmp_path / "in.jsonl", rows), routes=routes)
    with pytest.raises(InputDataError, match="a route's rule cannot be evaluated for 3 of 40 rows"):
        run(pipeline, spec, PARTITION)
    assert sim.books.accepted_requests == 0


def test_a_missing_column_of_where_stops_the_night(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(5))
    spec = job(source, filters={"where": "Pages::int > 1 and text <> ''"})
    with pytest.raises(InputDataError, match=r"the column of filters\.where, 'Pages' is missing"):
        run(pipeline, spec, PARTITION)
    assert sim.books.accepted_requests == 0


def test_filters_that_leave_nothing_are_told(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(30))
    spec = job(source, filters={"min_words": 100}, pilot={"size": 5})
    state = run(pipeline, spec, PARTITION)
    assert (state.complete, state.filtered, sim.books.accepted_requests) == (True, 30, 0)
    found = warnings.of(state, spec.alerts)
    assert [warning.code for warning in found] == ["everything_filtered"]
    assert "min_words" in str(found[0])


def test_what_was_bought_keeps_its_answer_whatever_a_new_filter_says(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    rows = [{**each, "kind": "old"} for each in documents(20)]
    # Two rows of one request, of which the filter drops one each time.
    rows += [row("same", "a text of five words", kind=kind) | {"id": kind} for kind in ("a", "b")]
    write_rows(source, rows)
    first = job(source, filters={"where": "kind <> 'b'"})
    assert statuses(results_after(pipeline, first)) == {"succeeded": 21, "filtered": 1}
    assert sim.books.accepted_requests == 21

    write_rows(source, [*rows, row("new", "short", kind="new")])
    second = job(source, filters={"where": "kind = 'new'", "min_words": 5})
    state = run(pipeline, second, PARTITION)
    found = shown(pipeline, second)
    assert (found["new"], found["b"]) == (
        ("filtered", "min_words", "1"),
        ("filtered", "where", "false"),
    )
    assert statuses(results(pipeline, second)) == {"succeeded": 21, "filtered": 2}
    assert (state.complete, sim.books.accepted_requests, accepted_twice(sim)) == (True, 21, {})
    snapshot = snapshot_of(pipeline, state.night)
    # What "b" asks for is bought.
    assert snapshot.avoided == {"filter:min_words": {"documents": 1, "bytes": found_bytes(second)}}
    assert snapshot.units == 21
    # Read again, nothing has changed.
    taken = night_input.take_input(pipeline, second, state.night, again=True)
    assert (taken.note, taken.snapshot.id) == ("input unchanged", snapshot.id)

    without = job(source)
    assert statuses(results_after(pipeline, without)) == {"succeeded": 23}
    assert (sim.books.accepted_requests, accepted_twice(sim)) == (22, {})


def found_bytes(spec: Any) -> int:
    """The bytes of the request of the row "new"."""
    from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder  # noqa: PLC0415

    return len(RequestBuilder(Declaration.of(spec)).build({"text": "short"}))


def test_a_changed_filter_is_noticed_before_anything_is_sent(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(30))
    spec, stricter = job(source, filters={"min_words": 1}), job(source, filters={"min_words": 99})
    night = steps.open_night(pipeline, spec, PARTITION)
    taken = night_input.take_input(pipeline, spec, night)
    steps.run_pilot(pipeline, spec, taken.night)
    submitted = steps.submit(pipeline, stricter, taken.night)
    assert "declaration" in str(submitted.waiting.state)
    assert sim.books.accepted_requests == 0
    assert night_input.take_input(pipeline, stricter, taken.night).snapshot.units == 0


def test_filters_are_no_part_of_what_is_asked(tmp_path: Path) -> None:
    plain = Declaration.of(job(tmp_path / "in.jsonl"))
    filtered = Declaration.of(job(tmp_path / "in.jsonl", filters={"min_words": 5}))
    assert plain.hash == filtered.hash
    assert "filters" not in plain.to_json()
    assert Declaration.from_json(filtered.to_json()) == filtered
    assert Declaration.from_json(plain.to_json()) == plain


def test_a_redriven_row_meets_the_filters_of_now(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = [{**each, "pages": "3"} for each in documents(40)]
    bad = [row(f"bad {n}", "a text", pages="three") for n in range(2)]
    source = write_rows(tmp_path / "in.jsonl", rows + bad)
    spec = job(source, filters={"where": "pages::int > 1"})
    assert statuses(results_after(pipeline, spec)) == {"succeeded": 40, "invalid_input": 2}

    corrected = [{**bad[0], "pages": "1"}, {**bad[1], "pages": "4"}]
    write_rows(source, rows + corrected)
    assert redrive.redrive(pipeline, spec, PARTITION).sent == {"invalid_input": 2}
    assert statuses(results_after(pipeline, spec)) == {"succeeded": 41, "filtered": 1}
    assert (sim.books.accepted_requests, accepted_twice(sim)) == (41, {})


@pytest.mark.parametrize("size", [1, 3, 100])
def test_batches_of_rows_change_nothing(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    rows = [row(f"r{n}", f"text {'word ' * (n % 7)}", pages=n % 3) for n in range(50)]
    spec = job(
        write_rows(tmp_path / "in.jsonl", rows),
        filters={"where": "pages::int <> 1", "min_words": 4},
    )
    monkeypatch.setattr("batch_pipeline.flow.dataset.prepare.BATCH_ROWS", size)
    sources = find_input(pipeline, spec, PARTITION)
    found = input_dataset.read_snapshot(pipeline, spec, PARTITION, sources, keep=False)
    by_hand = [n for n in range(50) if n % 3 != 1]
    assert found.set_aside == {
        "filtered": {"min_words": sum(n % 7 < 3 for n in by_hand), "where": 17}
    }
    assert found.items == 50
