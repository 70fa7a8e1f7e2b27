"""Reading the API's list: few calls for many batches, and which listed batch may be ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal

import pytest

from batch_pipeline.api.protocol import ApiFailure, BatchInfo, BatchPage
from batch_pipeline.flow.batches import listing
from batch_pipeline.flow.batches.polling import look_up
from batch_pipeline.flow.batches.reconciliation import STRANGE_LIST_SECONDS, Look, _is_reached
from batch_pipeline.ledger.submissions.listed_batches import Mark
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline_tests.flow.fake_api import FakeApi, a_batch

INTENT_AT, WINDOW_FROM = 10_000.0, 10_050.0


def submission(
    batch_id: str | None = None, *, requests: int = 5, at: float = 1_000.0
) -> Submission:
    return Submission(
        id=1, shard_id=1, night_id=1, snapshot_id=1, pilot=False, account="default", engine="batch",
        token="t" * 16, requests=requests, usd_bound=Decimal(1),
        state=State.ACCEPTED if batch_id else State.UNKNOWN,
        holder="me", fence=1, lease_until=0.0, intent_at=INTENT_AT if batch_id is None else at,
        window_from=WINDOW_FROM, error=None, batch_id=batch_id,
        accepted_at=at if batch_id else None,
        expires_at=None, cancel_requested_at=None, ended_at=None, collected_at=None,
        cost_usd=None,
    )  # fmt: skip


def many(count: int, start: float = 1_000.0) -> tuple[list[Submission], list[BatchInfo]]:
    batches = [a_batch(f"b{n}", created_at=start + n) for n in range(count)]
    return [submission(f"b{n}", at=start + n) for n in range(count)], batches


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


def page_of(*ids: str, more: bool | None = False, odd: Sequence[int] = ()) -> BatchPage:
    return BatchPage([a_batch(i) for i in ids], more, ids[-1] if ids else None, odd)


class Pages(FakeApi):
    """A list of these pages, asked for one after the other; the last one comes again and again."""

    def __init__(self, *pages: BatchPage | ApiFailure) -> None:
        super().__init__([])
        self.given = pages

    def list_batches(self, after_id: str | None, limit: int) -> BatchPage:
        self.pages += 1
        page = self.given[min(self.pages, len(self.given)) - 1]
        if isinstance(page, ApiFailure):
            raise page
        return page


def never(_read: object) -> bool:
    return False


@pytest.mark.parametrize(
    ("pages", "ids", "whole"),
    [
        ([page_of("b", more=True), page_of("a")], "ba", True),
        ([page_of("b", more=None), page_of("a", more=None), page_of(more=None)], "ba", True),
        ([page_of()], "", True),
        # A list that announces more and does not give it.
        ([page_of("b", more=True), page_of(more=True)], "b", False),
        ([page_of("b", "a", more=True), page_of("a", "b", more=True)], "ba", False),
        ([page_of("b", more=None), page_of("b", more=None)], "b", False),
        ([page_of(more=True, odd=[0])], "", False),
        ([page_of("b", more=True), ApiFailure(200, None, None, "cut off")], "b", False),
    ],
)
def test_reading_the_list_ends_and_knows_whether_it_is_whole(
    pages: Sequence[BatchPage | ApiFailure], ids: str, whole: bool
) -> None:
    found = listing.read_list(Pages(*pages), never)
    assert "".join(batch.id for batch in found.batches) == ids
    assert (found.whole, found.fault is None) == (whole, whole)


def test_the_list_is_read_to_the_batches_that_were_listed_before() -> None:
    api = FakeApi([a_batch(f"b{n:05}", created_at=float(n)) for n in range(9_000)])
    mark = Mark(1, [f"b{n:05}" for n in range(6_500, 6_300, -1)], 0, whole=False)
    found = listing.read_list(api, lambda read: _is_reached(mark, read))
    assert (len(found.batches), api.pages, found.whole) == (3_000, 3, False)
    new, odd = found.since(mark)
    assert ([batch.id for batch in new][-1], len(new), odd) == ("b06501", 2_499, 0)


@pytest.mark.parametrize(
    ("mark", "new", "odd"),
    [
        (None, "fedcba", 2),
        (Mark(1, ["c", "b", "a"], 0, whole=True), "fed", 2),
        (Mark(1, ["d", "b"], 0, whole=False), "fec", 2),
        # What was in the mark was deleted: what is left of it tells all the same.
        (Mark(1, ["x", "y", "e"], 0, whole=False), "f", 1),
        (Mark(1, ["x"], 0, whole=False), "fedcba", 2),
        (Mark(1, [], 0, whole=True), "fedcba", 2),
        # An entry without an id that was there before is no new one.
        (Mark(1, ["c"], 1, whole=True), "fedba", 1),
        (Mark(1, ["c"], 3, whole=True), "fedba", 0),
    ],
)
def test_what_was_not_listed_at_the_mark(mark: Mark | None, new: str, odd: int) -> None:
    listed = listing.Listing([a_batch(i) for i in "fedcba"], odd=[0, 3])
    found, odd_ones = listed.since(mark)
    assert ("".join(batch.id for batch in found), odd_ones) == (new, odd)


def a_look(listed: listing.Listing, *, expected: str = "", attributed: str = "") -> Look:
    marks = {1: Mark(1, ["m"], 0, whole=True)}
    return Look(0.0, listed, marks, attributed=set(attributed), expected=set(expected))


def test_counts_and_clocks_only_say_which_candidate_is_read_first() -> None:
    listed = [
        a_batch("a", requests=6),
        a_batch("b", created_at=1.0),
        a_batch("c", requests=0, ended=False),
        a_batch("m"),
        a_batch("x"),
    ]
    look = a_look(listing.Listing(listed), attributed="x")
    one = replace(submission(), mark_id=1)
    assert [batch.id for batch in look.candidates(one)] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("listed", "expected", "attributed", "waited", "proof"),
    [
        ("m", "", "", 1.0, True),
        ("nm", "", "", 1.0, True),
        # None of what this account is known to have is listed: another workspace's key.
        ("n", "", "", 1.0, False),
        ("", "", "", 1.0, False),
        ("m", "f", "", 1.0, False),
        ("fm", "fg", "", 1.0, True),
        # Marked batches may be deleted: another one that is known, or a day, shows the same.
        ("n", "", "n", 1.0, True),
        ("n", "", "", STRANGE_LIST_SECONDS + 1, True),
    ],
)
def test_which_list_proves_that_a_batch_is_missing(
    listed: str, expected: str, attributed: str, waited: float, proof: bool
) -> None:
    whole = listing.Listing([a_batch(i) for i in listed])
    look = a_look(whole, expected=expected, attributed=attributed)
    one = replace(submission(), mark_id=1)
    assert (look.proves_nothing(one, waited) is None) is proof
    odd = replace(look, listing=replace(whole, odd=[0]))
    assert odd.proves_nothing(one, waited) is not None
    cut_off = replace(whole, whole=False, fault=ApiFailure(200, None, None, "m"))
    assert replace(look, listing=cut_off).proves_nothing(one, waited) is not None


@pytest.mark.parametrize(
    ("lines", "token"),
    [
        ([b'{"custom_id": "%s_0"}' % (b"t" * 16)], "t" * 16),
        ([b"\xff", b"{}", b"null", b'{"custom_id": 7}', b'{"custom_id": "%s_1"}' % (b"t" * 16)],
         "t" * 16),
        ([b'{"custom_id": "tenant-1"}'], None),
        ([b'{"custom_id": "tenant-1"}'] * 21 + [b'{"custom_id": "%s_1"}' % (b"t" * 16)], None),
    ],
)  # fmt: skip
def test_the_first_readable_lines_tell_whose_a_batch_is(
    lines: Sequence[bytes], token: str | None
) -> None:
    assert listing.token_of(Results(b"\n".join(lines)), "b") == token


@pytest.mark.parametrize("data", [b"", b"\n", b"{", b"<html>"])
def test_results_without_a_readable_line_tell_nothing(data: bytes) -> None:
    with pytest.raises(ApiFailure):
        listing.token_of(Results(data), "b")


class Results(FakeApi):
    """Results in pieces of five bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__([])
        self.data = data

    @contextmanager
    def stream_results(self, batch_id: str) -> Iterator[Iterator[bytes]]:
        yield (self.data[n : n + 5] for n in range(0, len(self.data), 5))
