"""When a night ends and what it will have cost, as far as whole batches tell."""

from __future__ import annotations

import logging
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from batch_pipeline.cli import progress_bar
from batch_pipeline.flow import run as runner
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import eta
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.ledger.sums import Sums
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.flow.dataset.prepared_rows import NIGHT, NOW, STATE, submission
from batch_pipeline_tests.support import PARTITION, documents, job, write_rows

HOUR = 3600.0


def ended(took: float) -> Submission:
    return submission(accepted_at=NOW - 10 * HOUR, ended_at=NOW - 10 * HOUR + took, cost_usd=2)


def flying(age: float, requests: int = 10) -> Submission:
    return submission(state=State.ACCEPTED, accepted_at=NOW - age, ended_at=None, requests=requests)


SEEN = (ended(HOUR), ended(3 * HOUR))


@pytest.mark.parametrize(
    ("submissions", "waiting", "least", "most", "slow"),
    [
        # One in flight: what is left of the fastest and of the slowest turnaround.
        ((*SEEN, flying(0)), 0, 1, 3, False),
        ((*SEEN, flying(2 * HOUR)), 0, 0, 1, False),
        # Two side by side: the later one decides.
        ((*SEEN, flying(2 * HOUR), flying(0)), 0, 1, 3, False),
        # What waits goes once those have ended, as many at a time.
        ((*SEEN, flying(0)), 15, 1 + 2, 3 + 6, False),
        (SEEN, 500, 1, 3, False),
        # A little slower than all before is not slow.
        ((*SEEN, flying(4 * HOUR)), 0, 0, 0.5, False),
        ((*SEEN, flying(4 * HOUR), flying(0)), 0, 1, 4.5, False),
        ((ended(2), ended(3), flying(62)), 0, 0, 1 / HOUR, False),
        # Clearly slower than all before: nothing is known but the API's own limit.
        ((*SEEN, flying(5 * HOUR)), 0, 0, 19, True),
        ((*SEEN, flying(30 * HOUR)), 0, 0, 0, True),
    ],
)
def test_the_end_is_an_interval_of_turnarounds(
    submissions: tuple[Submission, ...], waiting: int, least: float, most: float, slow: bool
) -> None:
    found = eta.eta(replace(STATE, submissions=submissions, waiting=waiting))
    assert found is not None
    assert (found.least, found.most, found.slow) == (least * HOUR, most * HOUR, slow)
    assert found.batches == 2


def calling(answered: int, requests: int = 100, rate: float = 5, holder: str = "me") -> Submission:
    said = {"answered": answered, "cost_usd": str(answered * 2), "per_second": rate}
    return submission(
        state=State.CALLING, engine="realtime", batch_id=None, accepted_at=None, holder=holder,
        requests=requests, progress=said,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("submissions", "waiting", "speed", "seconds", "usd"),
    [
        ((calling(50),), 0, 5, 10, 200),
        # One engine's pace is that of all its shards; other processes add theirs.
        ((calling(90), calling(0)), 40, 5, 30, 180 + 300),
        ((calling(90), calling(60, holder="other")), 0, 10, 5, 400),
        ((calling(100),), 0, 5, None, 200),
    ],
)
def test_calls_go_at_their_pace(
    submissions: tuple[Submission, ...],
    waiting: int,
    speed: float,
    seconds: float | None,
    usd: int,
) -> None:
    requests = sum(s.requests for s in submissions)
    cost = sum((Decimal(s.progress["cost_usd"]) for s in submissions if s.progress), Decimal(0))
    state = replace(
        STATE, submissions=submissions, waiting=waiting, in_flight=requests,
        cost_usd={"realtime": cost},
    )  # fmt: skip
    assert eta.items_per_second(state) == speed
    found = eta.eta(state)
    assert (found.most if found else None) == seconds
    assert eta.expected_usd(state) == usd


@pytest.mark.parametrize("state", [
    replace(STATE, submissions=(flying(HOUR),)),
    replace(STATE, submissions=SEEN),
    # A pilot's calls say nothing of batches.
    replace(STATE, submissions=(replace(SEEN[0], batch_id=None), flying(HOUR))),
])  # fmt: skip
def test_no_end_is_told_before_a_batch_has_ended_nor_after_the_last(state: Progress) -> None:
    assert eta.eta(state) is None


def test_the_cost_at_the_end_is_that_of_the_batches_so_far_for_all_that_is_left() -> None:
    collected = Sums(
        snapshot_id=1, pilot=False, engine="batch", submissions=1, requests=10,
        cost_usd=Decimal(2), first_intent_at=NOW, last_collected_at=NOW, tokens={},
    )  # fmt: skip
    state = replace(
        STATE, collected=(collected,),
        cost_usd={"batch": Decimal(2), "realtime": Decimal(1)},
        waiting=5, in_flight=20, to_collect=5,
    )  # fmt: skip
    assert eta.expected_usd(state) == 3 + 2 * 3
    done = replace(state, waiting=0, in_flight=0, to_collect=0)
    assert eta.expected_usd(done) == 3


def test_before_a_batch_is_collected_the_pilots_projection_is_the_cost_at_the_end() -> None:
    assert eta.expected_usd(STATE) is None
    night = replace(NIGHT, pilot={"judged": 10, "projected_usd": 42.5})
    assert eta.expected_usd(replace(STATE, night=night)) == Decimal("42.5")


def test_progress_is_told_while_nothing_changes(
    make_pipeline: MakePipeline, sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "WATCH_SECONDS", 0.01)
    spec = job(write_rows(tmp_path / "input.jsonl", documents(3)))
    sim.hold()
    idle = 0

    def watch(state: Progress) -> None:
        nonlocal idle
        idle += state.in_flight == 3
        if idle > 5:
            sim.release()

    # Without the thread that tells it the second poll would still find the batch at work.
    assert run(make_pipeline(poll_seconds=1), spec, PARTITION, watch=watch).complete
    assert idle > 5


def test_a_log_has_a_line_whenever_something_changes_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = 1_000.0
    monkeypatch.setattr("batch_pipeline.cli.progress_bar.time.monotonic", lambda: clock)
    settled = replace(STATE, statuses={"succeeded": 1})
    with caplog.at_level(logging.INFO), progress_bar.shown() as watch:
        for state, at in ((STATE, 0), (STATE, 100), (settled, 110), (settled, 300), (settled, 351)):
            clock = 1_000.0 + at
            watch(state)
    assert len(caplog.records) == 3
