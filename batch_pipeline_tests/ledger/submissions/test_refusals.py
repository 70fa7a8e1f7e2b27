"""Refused creates in both databases: what is split, what goes first, when the night stops."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import Connection

from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.admission.admission import Waiting
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import NewShard, Shard
from batch_pipeline.ledger.submissions import refusals, submissions, transitions
from batch_pipeline.ledger.submissions.refusals import MOST_CREATES, MOST_PAGES, SYSTEMATIC, Refusal
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline_tests.ledger.conftest import a_night, a_shard, accept, begin, begun

REFUSAL = Refusal("invalid_request_error", "no", "HTTP 400: no")
PAGE = replace(REFUSAL, page=True)


def parts(*requests: int) -> list[NewShard]:
    return [replace(a_shard(count), bytes=count, manifest=f"m{count}") for count in requests]


def refuse(
    connection: Connection, night: Night, refusal: Refusal = REFUSAL
) -> tuple[Submission, list[Shard]]:
    """The submission of the night's next shard, refused, and the shards to be split then."""
    submission = begun(connection, night)
    transitions.give_back(connection, submission, State.REFUSED, refusal.told)
    refusals.refuse_body(connection, submission, refusal)
    return submission, shards.shards_to_split(connection, night.id)


def test_parts_go_before_other_shards_and_the_refused_one_no_more(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 8, 5)
        submission, [refused] = refuse(connection, night)
        assert (refused.requests, refused.refused_by) == (8, submission.id)
        assert refusals.split(connection, refused, parts(4, 3))
        assert not refusals.split(connection, refused, parts(4, 3)), "it is split already"
        assert [begun(connection, night).requests for _ in range(3)] == [4, 3, 5]
        assert isinstance(begin(connection, night), Waiting)


def test_parts_as_large_as_a_refused_one_are_split_unsent_until_one_is_taken_in(
    ledger: Ledger,
) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 8)
        _, [whole] = refuse(connection, night)
        assert refusals.split(connection, whole, parts(4, 3, 1))
        _, found = refuse(connection, night)
        # One request alone is not given up for others.
        assert [shard.requests for shard in found] == [4, 3]
        for shard in found:
            assert refusals.split(connection, shard, parts(2, 1))
        accept(connection, begun(connection, night))
        _, found = refuse(connection, night)
        assert len(found) == 1


def test_the_row_at_fault_ends_without_a_batch(ledger: Ledger) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 2)
        _, [refused] = refuse(connection, night)
        rest, row = parts(1), replace(a_shard(1), manifest="row")
        assert refusals.split(connection, refused, rest)
        refusals.set_aside(connection, refused, row, REFUSAL, "me")
        [ended] = submissions.of_night(connection, night.id, State.ENDED)
        assert ended.batch_id is None
        assert ended.usd_bound == 0
        assert refusals.of(ended) == REFUSAL
        assert shards.get_shard(connection, ended.shard_id).manifest == "row"
        # It is no create, and does not count as one.
        assert refusals.before(connection, refused) is None


def test_rows_that_are_not_sent_end_without_a_batch_and_the_rest_waits(ledger: Ledger) -> None:
    refusal = replace(REFUSAL, error_type="document_changed", messages=("one", "two"))
    with ledger.write() as connection:
        night = a_night(connection, 5)
        submission = begun(connection, night)
        rows, rest = replace(a_shard(2), manifest="rows"), replace(a_shard(3), manifest="rest")
        assert not refusals.take_out(connection, submission, rows, rest, refusal, "me"), (
            "it is sent"
        )
        transitions.give_back(connection, submission, State.ABSENT, "documents have changed")
        assert refusals.take_out(connection, submission, rows, rest, refusal, "me")
        assert not refusals.take_out(connection, submission, rows, rest, refusal, "me"), "done"
        [ended] = submissions.of_night(connection, night.id, State.ENDED)
        assert (ended.requests, ended.batch_id) == (2, None)
        assert ended.usd_bound == 0
        assert refusals.of(ended) == refusal
        assert begun(connection, night).requests == 3
        assert isinstance(begin(connection, night), Waiting)
        assert refusals.count_set_aside(connection, night.id) == 0


@pytest.mark.parametrize(
    ("kinds", "most", "said"),
    [(1, SYSTEMATIC, "the first 6 parts"), (MOST_CREATES, MOST_CREATES, "20 creates were refused")],
)
def test_a_night_stops_after_refusals_and_counts_anew_once_a_person_has_looked(
    ledger: Ledger, kinds: int, most: int, said: str
) -> None:
    with ledger.write() as connection:
        night = a_night(connection, 100)
        for number in range(most):
            assert nights.get_night(connection, night.id).refused is None
            refusal = replace(REFUSAL, row=number % kinds)
            _, found = refuse(connection, night, refusal)
            assert refusals.split(connection, found[-1], parts(100 - number))
        assert said in (nights.get_night(connection, night.id).refused or "")
        assert isinstance(begin(connection, night), Waiting)
        nights.update_night(connection, night.id, refused=None)
        refusals.forget(connection, night.id)
        refuse(connection, night)
        assert nights.get_night(connection, night.id).refused is None


def test_pages_stop_a_night_only_in_a_row(ledger: Ledger) -> None:
    def paged(connection: Connection, night: Night) -> str | None:
        submission = begun(connection, night)
        transitions.give_back(connection, submission, State.ABSENT, "a page")
        refusals.note_page(connection, submission, PAGE)
        return nights.get_night(connection, night.id).refused

    with ledger.write() as connection:
        night = a_night(connection, 3, 4)
        assert [paged(connection, night) for _ in range(MOST_PAGES - 1)] == [None, None]
        accept(connection, begun(connection, night))
        stopped = [paged(connection, night) for _ in range(MOST_PAGES)]
        assert stopped[:-1] == [None, None]
        assert "a gateway" in (stopped[-1] or "")
