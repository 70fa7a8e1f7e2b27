"""What a tick learns of a night from its numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_pipeline.flow.planning.plan import ShardLimits
from batch_pipeline.ledger.admission.night_state import Facts
from batch_pipeline.ledger.admission.queue import Queue
from batch_pipeline.ledger.shards import ShardState
from batch_pipeline.orchestration.run_requests import PilotStage
from batch_pipeline.orchestration.unfinished_nights import as_unfinished
from batch_pipeline_tests.flow.dataset.prepared_rows import NIGHT, SHARD, STATE

FACTS = Facts("review", "all", "default")


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
    verdict = {"declaration_hash": "declared", "open": True, "reasons": []}
    night = replace(NIGHT, open_requests=unplanned, pilot=verdict)
    state = replace(STATE, night=night, waiting=unplanned, in_flight=in_flight)
    limits = ShardLimits(requests=100, bytes=1_000_000)
    found = as_unfinished(state, [], FACTS, Queue(1_000), limits, realtime=realtime)
    assert (found.next_requests, found.calls_due) == (next_requests, calls_due)


@pytest.mark.parametrize(("limit", "next_requests"), [(1_000, 10), (4, 4)])
@pytest.mark.parametrize("pilot", [True, False])
def test_a_batch_larger_than_the_queue_counts_as_cut_anew(
    pilot: bool, limit: int, next_requests: int
) -> None:
    shard = replace(SHARD, pilot=pilot, state=ShardState.WAITING)
    verdict = {"declaration_hash": "declared", "open": True, "reasons": []}
    state = replace(STATE, night=replace(NIGHT, pilot=None if pilot else verdict), waiting=10)
    limits = ShardLimits(requests=100, bytes=1_000_000)
    found = as_unfinished(state, [shard], FACTS, Queue(limit), limits, realtime=False)
    assert found.next_requests == next_requests
    assert found.pilot is (PilotStage.MOVABLE if pilot else PilotStage.JUDGED)
