"""A simulator is an account of its own: nothing of it counts for a real one, or the reverse."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.errors import LedgerError, UsageError
from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    RealApi,
    by_id,
    dead_letters,
    documents,
    job,
    results,
    statuses,
    write_rows,
)


def test_a_real_run_on_a_simulated_night_starts_over_and_says_so(
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [*documents(10), {"id": "bad", "text": None}])
    spec = job(source)
    simulated = make_pipeline()
    run(simulated, spec, PARTITION)
    assert all(row["simulated"] for row in results(simulated, spec))
    assert all(row["simulated"] for row in dead_letters(simulated, spec))

    real = make_pipeline(api=RealApi())
    state = run(real, spec, PARTITION)
    assert "was simulated before; it starts over" in caplog.text
    assert (state.account.name, state.complete, state.succeeded) == ("default", True, 10)
    rows = by_id(results(real, spec))
    assert len(rows) == 11
    assert not any(row["simulated"] for row in rows.values())
    assert not any(row["simulated"] for row in dead_letters(real, spec))
    assert sim.books.accepted_requests == 20
    assert state.total_cost_usd == sim.books.batch_cost_usd / 2


def test_a_simulator_does_not_replace_real_answers(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    real = make_pipeline(api=RealApi())
    run(real, spec, PARTITION)
    before = results(real, spec)
    with pytest.raises(UsageError, match="holds real answers of owner 'default'"):
        run(make_pipeline(), spec, PARTITION)
    assert results(real, spec) == before
    assert sim.books.accepted_requests == 5


def test_two_accounts_share_neither_answers_nor_queue(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    sim.hold()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    other = job(write_rows(tmp_path / "other.jsonl", documents(5)), name="other")
    first = make_pipeline(api=RealApi(), account="one", max_queued_requests=5)
    second = make_pipeline(api=RealApi(), account="two", max_queued_requests=5)
    assert run(first, spec, PARTITION, wait=False).in_flight == 5
    assert run(second, other, PARTITION, wait=False).in_flight == 5
    assert sim.queued == 10


def test_an_account_name_is_simulated_or_real_for_good(
    sim: Simulator, make_pipeline: MakePipeline
) -> None:
    class Named(RealApi):
        """A simulator that would take a real account's place."""

    real = make_pipeline(api=Named(), account="one")
    assert real.owner(job("in.jsonl")).simulated is False
    with real.ledger.write() as connection, pytest.raises(LedgerError, match="'one'"):
        accounts.register_account(connection, "one", simulated=True)


def test_taking_the_input_tells_of_a_night_that_is_replaced(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(3)))
    run(make_pipeline(api=RealApi(), account="one"), spec, PARTITION)
    other = make_pipeline(api=RealApi(), account="two")
    taken = night_input.take_input(other, spec, steps.open_night(other, spec, PARTITION))
    assert "run for owner 'one' before; it starts over for owner 'two'" in taken.note
    assert results(other, spec) == []


def test_what_is_in_flight_under_a_replaced_account_stays_out_of_the_folder(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """Two accounts take turns on one night; the folder shows one of them, whole, at any moment."""
    sim.hold()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    first = make_pipeline(api=RealApi(), account="one")
    night = run(first, spec, PARTITION, wait=False).night
    second = make_pipeline(api=RealApi(), account="two")
    sim.release()
    assert run(second, spec, PARTITION).complete
    shown = results(second, spec)
    assert len(by_id(shown)) == 5

    # The sensor of the first account fetches what it paid for, without showing it.
    steps.poll_account(first, "one")
    assert steps.collect_ended(first, spec, night) == 1
    assert results(second, spec) == shown

    state = run(first, spec, PARTITION)
    assert (state.complete, state.account.name) == (True, "one")
    rows = by_id(results(first, spec))
    assert {row["batch_id"] for row in rows.values()} == {state.submissions[0].batch_id}
    assert sim.books.accepted_requests == 10


def test_a_replaced_account_that_comes_back_while_in_flight_is_shown_again(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", documents(5)))
    first = make_pipeline(api=RealApi(), account="one")
    second = make_pipeline(api=RealApi(), account="two")
    sim.hold()
    run(first, spec, PARTITION, wait=False)
    run(second, spec, PARTITION, wait=False)
    run(first, spec, PARTITION, wait=False)
    sim.release()
    assert run(first, spec, PARTITION).complete
    rows = by_id(results(first, spec))
    assert statuses(rows.values()) == {"succeeded": 5}
    assert sim.books.accepted_requests == 10
