"""The sensor's polls of several accounts: one that fails or hangs leaves the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline.flow import steps
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.orchestration.sensing import account_polls
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.flow import accounts_support
from batch_pipeline_tests.flow.accounts_support import KEYS
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.support import PARTITION, documents, job, submissions_of, write_rows

OpenPipeline = Callable[[], Pipeline]


@pytest.fixture
def open_pipeline(
    make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> OpenPipeline:
    """Opens pipelines on one home with several accounts."""
    file = accounts_support.write(tmp_path, monkeypatch)
    return lambda: make_pipeline(accounts=file)


@pytest.fixture
def spec(sim: Simulator, open_pipeline: OpenPipeline, tmp_path: Path) -> JobSpec:
    """A job with a batch at the API under each of two accounts."""
    source = write_rows(tmp_path / "in.jsonl", documents(4))
    declared = job(source, accounts=["north_a", "south"], limits={"max_requests_per_batch": 2})
    sim.hold()
    run(open_pipeline(), declared, PARTITION, wait=False)
    assert by_account(open_pipeline) == {
        "simulator.north_a": State.ACCEPTED, "simulator.south": State.ACCEPTED,
    }  # fmt: skip
    sim.release()
    return declared


def by_account(open_pipeline: OpenPipeline) -> dict[str, State]:
    return {each.account: each.state for each in submissions_of(open_pipeline())}


def revoked(*accounts: str) -> Faults:
    keys = [KEYS[name] for name in accounts]
    return Faults.of(outages=[{"fault": {"kind": "revoked_key"}, "keys": keys}])


def test_an_account_that_fails_is_told_and_the_others_are_polled(
    sim: Simulator, open_pipeline: OpenPipeline, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("SOUTH_KEY", "cut\nin two")
        assert "SOUTH_KEY has a line break" in account_polls.poll(open_pipeline, spec).troubles[0]
    sim.set_faults(revoked("south"))
    found = account_polls.poll(open_pipeline, spec)
    assert (found.owner.name, found.useless) == ("simulator", False)
    [trouble] = found.troubles
    assert trouble.startswith("account south: ")
    assert by_account(open_pipeline) == {
        "simulator.north_a": State.ENDED, "simulator.south": State.ACCEPTED,
    }  # fmt: skip
    sim.set_faults(revoked("south", "north_a"))
    assert account_polls.poll(open_pipeline, spec).useless
    sim.set_faults(Faults())
    # What an account has sent that is the job's no more is polled all the same.
    one = spec.model_copy(update={"accounts": ("north_a",)})
    assert account_polls.poll(open_pipeline, one).troubles == []
    assert set(by_account(open_pipeline).values()) == {State.ENDED}


def test_an_account_that_hangs_holds_up_no_other(
    open_pipeline: OpenPipeline, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the tick: what it learns later is in the ledger for the next one."""
    answers = threading.Event()
    ask = steps.poll_account

    def ask_later(pipeline: Pipeline, account: str) -> None:
        if account == "simulator.south":
            answers.wait()
        ask(pipeline, account)

    monkeypatch.setattr(steps, "poll_account", ask_later)
    monkeypatch.setattr(account_polls, "POLL_SECONDS", 0.6)
    found = account_polls.poll(open_pipeline, spec)
    assert found.by_account["south"].trouble == "the API did not answer within 1 s"
    wait_for_poll("north_a")
    assert by_account(open_pipeline) == {
        "simulator.north_a": State.ENDED, "simulator.south": State.ACCEPTED,
    }  # fmt: skip
    again = account_polls.poll(open_pipeline, spec)
    assert again.by_account["south"].trouble == "the API has not answered the last poll yet"
    assert not again.useless
    answers.set()
    wait_for_poll("")
    assert by_account(open_pipeline)["simulator.south"] is State.ENDED


def wait_for_poll(account: str) -> None:
    """Until the polls of an account are over, or of all accounts."""
    for thread in threading.enumerate():
        if thread.name.startswith("poll-") and thread.name.endswith(account):
            thread.join()


def test_sensor_and_assets_tell_of_each_account(
    nightly: Callable[..., Nightly],
    nights: list[str],
    sim: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = accounts_support.write(tmp_path, monkeypatch)
    monkeypatch.setenv("BATCH_PIPELINE_ACCOUNTS", str(file))
    night = nightly(accounts=["north_a", "south"], pilot={"size": 0})
    sim.hold()
    assert night.launch(nights[0]).success
    table = night.metadata("submitted_batches", nights[0])["accounts"]
    for row in ("simulator.north_a | simulator.north | ready | 20", "simulator.south | ready | 20"):
        assert row in table
    sim.set_faults(revoked("south"))
    said = night.tick().skip_message
    assert "account south: the API cannot be polled now: HTTP 401" in said
    assert "account simulator.north_a: ready, room for 199,980 requests" in said
    assert "account simulator.south: key refused" in said
    assert "key refused" in str(night.observations[-1].metadata["accounts"].value)
