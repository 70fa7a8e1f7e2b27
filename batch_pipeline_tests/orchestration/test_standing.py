"""What a tick learns of a night from its numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_pipeline.flow.deadline.takeover import Course
from batch_pipeline.flow.planning.plan import ShardLimits
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.orchestration.decisions import Room
from batch_pipeline.orchestration.standing import AccountView, standing_of
from batch_pipeline_tests.flow.dataset.prepared_rows import NIGHT, NOW, SNAPSHOT, STATE


def view(*, realtime: bool) -> AccountView:
    return AccountView(
        room=Room(0, None),
        limits=ShardLimits(requests=100, bytes=1_000_000),
        realtime=realtime,
        declaration_hash=SNAPSHOT.declaration_hash,
        alerts=AlertsSpec(),
        short=lambda _: None,
        course=Course,
        wanting=(),
        now=NOW,
    )


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
    found = standing_of(state, [], view(realtime=realtime), asked=True)
    assert (found.next_requests, found.calls_due) == (next_requests, calls_due)
