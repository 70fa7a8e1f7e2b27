"""What a tick learns of a night from its numbers."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.flow.caching import LONGEST_WAIT_SECONDS, WARMING
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning.new_shards import ShardLimits
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission.night_state import Facts, Kind
from batch_pipeline.ledger.admission.queue import Queue
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.orchestration.names import Kind as RunKind
from batch_pipeline.orchestration.sensor.run_requests import PilotStage, Plan, plan
from batch_pipeline.orchestration.sensor.unfinished_nights import (
    as_unfinished,
    read_night,
    unfinished_nights,
)
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.flow import accounts_support
from batch_pipeline_tests.flow.dataset.prepared_rows import NIGHT, SHARD, STATE
from batch_pipeline_tests.support import (
    PARTITION,
    alone,
    documents,
    job,
    submissions_of,
    write_rows,
)

FACTS = Facts("review", "all")


@pytest.mark.parametrize(
    ("realtime", "unplanned", "in_flight", "next_requests", "calls_due"),
    [
        (False, 40, 0, 40, False),
        (False, 250, 0, 100, False),
        (False, 40, 10, 0, False),  # a retry round waits for the rest
        (True, 40, 0, 0, True),  # needs no room in the queue
        (True, 40, 10, 0, False),
        (True, 250, 10, 0, True),
        (True, 0, 0, 0, False),
    ],
)
def test_open_requests_want_room_in_the_queue_unless_they_go_in_real_time(
    realtime: bool, unplanned: int, in_flight: int, next_requests: int, calls_due: bool
) -> None:
    verdict = {"declaration_hash": "declared", "content_hash": "", "open": True, "reasons": []}
    night = replace(NIGHT, open_requests=unplanned, pilot=verdict)
    state = replace(STATE, night=night, waiting=unplanned, in_flight=in_flight)
    limits = ShardLimits(requests=100, bytes=1_000_000)
    found = as_unfinished(state, [], FACTS, alone(Queue(1_000)), limits, realtime=realtime)
    assert (found.next_requests, found.calls_due) == (next_requests, calls_due)


@pytest.mark.parametrize(("limit", "next_requests"), [(1_000, 10), (4, 4)])
@pytest.mark.parametrize("pilot", [True, False])
def test_a_batch_larger_than_the_queue_counts_as_cut_anew(
    pilot: bool, limit: int, next_requests: int
) -> None:
    shard = replace(SHARD, pilot=pilot, state=ShardState.WAITING)
    verdict = {"declaration_hash": "declared", "content_hash": "", "open": True, "reasons": []}
    state = replace(STATE, night=replace(NIGHT, pilot=None if pilot else verdict), waiting=10)
    limits = ShardLimits(requests=100, bytes=1_000_000)
    found = as_unfinished(state, [shard], FACTS, alone(Queue(limit)), limits, realtime=False)
    assert found.next_requests == next_requests
    assert found.pilot is (PilotStage.MOVABLE if pilot else PilotStage.JUDGED)


def test_a_night_that_waits_for_the_prompt_cache_asks_for_no_run_until_the_wait_is_over(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path
) -> None:
    sim.hold()
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(30)),
        caching="auto",
        prompt={"system": "word " * 5_000, "user": "Sum up: {text}"},
    )
    run(pipeline, spec, PARTITION, wait=False)
    waits = wanted(pipeline, spec)
    assert waits.wanted == ()
    state = waits.waits[PARTITION]
    assert state is not None
    assert (state.kind, state.reason) == (Kind.RUNNING, WARMING)
    with pipeline.ledger.write() as connection:
        before = tables.submission.c.intent_at - LONGEST_WAIT_SECONDS
        connection.execute(sa.update(tables.submission).values(intent_at=before))
    assert [each.kind for each in wanted(pipeline, spec).wanted] == [RunKind.SUBMIT]


def test_a_batch_that_a_paused_account_may_have_asks_for_no_run_and_says_so(
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = make_pipeline(accounts=accounts_support.write(tmp_path, monkeypatch))
    sim.hold()
    spec = job(write_rows(tmp_path / "in.jsonl", documents(4)), accounts=["north_a", "south"])
    run(pipeline, spec, PARTITION, wait=False)
    [sent] = submissions_of(pipeline)
    lost = {"state": State.ABSENT.value, "window_from": time.time(), "batch_id": None}
    with pipeline.ledger.write() as connection:
        connection.execute(sa.update(tables.submission).values(lost))
        connection.execute(sa.update(tables.shard).values(state=ShardState.WAITING.value))
        accounts.pause_account(connection, sent.account, "no credit")
    waits = wanted(pipeline, spec)
    assert waits.wanted == ()
    told = f"may still appear in the list of account {sent.account}, which alone sends them until"
    assert told in str(waits.waits[PARTITION])
    with pipeline.ledger.write() as connection:
        accounts.probe_at_once(connection, sent.account)
    assert [each.kind for each in wanted(pipeline, spec).wanted] == [RunKind.SUBMIT]


def wanted(pipeline: Pipeline, spec: JobSpec) -> Plan:
    """What a tick plans for the job's one night."""
    with pipeline.ledger.read() as connection:
        [night] = unfinished_nights(connection, spec.name, None, set())
        found, _ = read_night(connection, pipeline, spec, night, lambda *_: True)
    return plan([found], set())
