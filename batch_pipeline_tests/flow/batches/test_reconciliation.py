"""Reading the API's list: few calls for many batches, and which listed batch may be ours."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from batch_pipeline.api.protocol import ApiFailure, BatchInfo
from batch_pipeline.flow.batches.polling import look_up
from batch_pipeline.flow.batches.reconciliation import (
    CLOCK_SKEW_SECONDS,
    LARGEST_SKEW_SECONDS,
    clock_skew,
    is_absent,
    is_candidate,
    read_list,
)
from batch_pipeline.ledger.submissions import State, Submission
from batch_pipeline_tests.flow.fake_api import FakeApi, a_batch

INTENT_AT, WINDOW_FROM, WINDOW = 10_000.0, 10_050.0, 600.0
SKEW = CLOCK_SKEW_SECONDS


def submission(
    batch_id: str | None = None, *, requests: int = 5, at: float = 1_000.0
) -> Submission:
    return Submission(
        id=1, shard_id=1, night_id=1, snapshot_id=1, pilot=False, account="default", engine="batch",
        token="t" * 16, requests=requests, usd_bound=Decimal(1),
        state=State.ACCEPTED if batch_id else State.UNKNOWN,
        owner="me", fence=1, lease_until=0.0, intent_at=INTENT_AT if batch_id is None else at,
        window_from=WINDOW_FROM, error=None, batch_id=batch_id,
        accepted_at=at if batch_id else None,
        expires_at=None, cancel_requested_at=None, ended_at=None, collected_at=None,
        cost_usd=None,
    )  # fmt: skip


def many(count: int, start: float = 1_000.0) -> tuple[list[Submission], list[BatchInfo]]:
    batches = [a_batch(f"b{n}", created_at=start + n) for n in range(count)]
    return [submission(batch.id, at=batch.created_at) for batch in batches], batches


@pytest.mark.parametrize(
    ("in_flight", "pages", "retrieves"),
    [(1, 0, 1), (2, 0, 2), (3, 1, 0), (1_000, 1, 0), (1_001, 1, 1), (2_500, 3, 0)],
)
def test_many_batches_are_looked_up_in_few_calls(
    in_flight: int, pages: int, retrieves: int
) -> None:
    submissions, batches = many(in_flight)
    api = FakeApi(batches)
    found = look_up(api, submissions)
    assert set(found) == {batch.id for batch in batches}
    assert (api.pages, api.retrieves) == (pages, retrieves)


def test_batches_of_others_do_not_cost_page_after_page() -> None:
    submissions, batches = many(4)
    others = [a_batch(f"x{n}", created_at=5_000.0 + n) for n in range(20_000)]
    api = FakeApi([*batches, *others])
    assert set(look_up(api, submissions)) == {"b0", "b1", "b2", "b3"}
    assert (api.pages, api.retrieves) == (1, 4)


def test_the_list_is_not_read_beyond_the_oldest_batch() -> None:
    submissions, batches = many(5, start=1_000_000.0)
    older = [a_batch(f"x{n}", created_at=1.0 + n) for n in range(5_000)]
    api = FakeApi([*batches, *older], hidden=["b0", "b1", "b2"])
    assert set(look_up(api, submissions)) == {"b3", "b4"}
    assert (api.pages, api.retrieves) == (1, 3)


def test_a_batch_that_is_not_there_is_asked_for_the_next_time() -> None:
    submissions, batches = many(2)
    assert set(look_up(FakeApi(batches, hidden=["b1"]), submissions)) == {"b0"}


def test_another_failure_of_a_poll_is_the_callers_business() -> None:
    class Broken(FakeApi):
        def retrieve_batch(self, batch_id: str) -> BatchInfo:
            raise ApiFailure(500, None, None, "m")

    submissions, batches = many(1)
    with pytest.raises(ApiFailure):
        look_up(Broken(batches), submissions)


def test_reading_the_list_ends_with_what_is_too_old() -> None:
    api = FakeApi([a_batch(f"b{n}", created_at=float(n)) for n in range(3_000)])
    found = list(read_list(api, since=1_500.0))
    assert [batch.created_at for batch in found] == [float(n) for n in range(2_999, 1_499, -1)]
    assert api.pages == 2


@pytest.mark.parametrize("repeated", [[], ["b1", "b0"]])
def test_a_list_that_announces_more_and_does_not_give_it_is_not_whole(repeated: list[str]) -> None:
    class Stuck(FakeApi):
        def list_batches(self, after_id: str | None, limit: int) -> tuple[list[BatchInfo], bool]:
            page, _ = super().list_batches(None, limit)
            return [batch for batch in page if after_id is None or batch.id in repeated], True

    with pytest.raises(ApiFailure, match="does not go on"):
        list(read_list(Stuck([a_batch("b0"), a_batch("b1", created_at=1_001.0)]), since=0.0))


@pytest.mark.parametrize(
    ("differences", "skew"),
    [
        ([], SKEW),
        ([0.5, 2.0], SKEW + 2),
        ([-3_600.0, 4.0], SKEW + 3_600),
        ([50 * 365 * 86_400.0], LARGEST_SKEW_SECONDS),
    ],
)
def test_how_far_the_clocks_may_differ_is_learnt_from_what_was_accepted(
    differences: list[float], skew: float
) -> None:
    made = [
        replace(submission("b"), intent_at=1_000.0, accepted_at=1_000.0 + difference)
        for difference in differences
    ]
    assert clock_skew(made) == skew


@pytest.mark.parametrize(
    ("created_at", "requests", "candidate"),
    [
        (INTENT_AT, 5, True),
        (INTENT_AT, 0, True),
        (INTENT_AT, 4, False),
        (INTENT_AT, 6, False),
        (INTENT_AT - SKEW, 5, True),
        (INTENT_AT - SKEW - 1, 5, False),
        (WINDOW_FROM + WINDOW + SKEW, 5, True),
        (WINDOW_FROM + WINDOW + SKEW + 1, 5, False),
    ],
)
def test_which_batch_may_be_the_lost_one(created_at: float, requests: int, candidate: bool) -> None:
    for ended in (True, False):
        batch = a_batch("b", created_at=created_at, requests=requests, ended=ended)
        assert is_candidate(submission(), batch, WINDOW) is candidate


@pytest.mark.parametrize(
    ("begun", "left", "absent"),
    [
        (WINDOW_FROM + WINDOW, [], False),
        (WINDOW_FROM + WINDOW + 1, [], True),
        (WINDOW_FROM + WINDOW + 1, [a_batch("b", created_at=INTENT_AT, ended=False)], False),
        (WINDOW_FROM + WINDOW + 1, [a_batch("b", created_at=INTENT_AT)], False),
        (WINDOW_FROM + WINDOW + 1, [a_batch("b", created_at=INTENT_AT, requests=4)], True),
        (WINDOW_FROM + WINDOW + 1, [a_batch("b", created_at=1.0)], True),
    ],
)
def test_when_a_submission_was_never_made(
    begun: float, left: list[BatchInfo], absent: bool
) -> None:
    assert is_absent(submission(), left, begun, WINDOW) is absent
