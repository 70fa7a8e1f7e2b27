"""Pieces of an input that several workers read: one worker at a time, and none is lost."""

from __future__ import annotations

import pytest

from batch_pipeline.ledger import readings, snapshots
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.readings import Claim, Reading
from batch_pipeline_tests.ledger.conftest import Clock, a_night, a_snapshot

LEASE = 60.0
DAY = 86_400.0


def living(_holder: str) -> bool:
    return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of readings, which stands until a test sets it."""
    clock = Clock()
    monkeypatch.setattr(readings, "now", clock)
    return clock


def begun(ledger: Ledger, key: str = "key", pieces: int = 3) -> Reading:
    with ledger.write() as connection:
        night = a_night(connection)
        reading = readings.begin(connection, night.id, key, "zstd", DAY)
        readings.cut(connection, reading, [(n, n + 1) for n in range(pieces)])
        found = readings.of_night(connection, night.id)
    assert found is not None
    return found


def next_of(ledger: Ledger, reading: Reading, holder: str, after: int = -1) -> Claim | None:
    with ledger.write() as connection:
        return readings.claim_next(connection, reading, holder, LEASE, after)


def left_of(ledger: Ledger, reading: Reading, holder: str, gone: str = "-") -> Claim | None:
    with ledger.write() as connection:
        return readings.claim_left(connection, reading, holder, LEASE, lambda who: who == gone)


def end_of(ledger: Ledger, reading: Reading, holder: str) -> Claim | None:
    with ledger.write() as connection:
        return readings.claim_end(connection, reading, holder, LEASE, living)


def done(ledger: Ledger, claim: Claim | None, by: str = "") -> bool:
    assert claim is not None
    with ledger.write() as connection:
        return readings.done(connection, claim, {"by": by})


def number(claim: Claim | None) -> int:
    assert claim is not None
    return claim.number


def test_each_piece_is_claimed_once_and_the_end_after_all_of_them(
    ledger: Ledger, clock: Clock
) -> None:
    reading = begun(ledger)
    first, second = next_of(ledger, reading, "a"), next_of(ledger, reading, "b")
    third = next_of(ledger, reading, "a", number(first))
    assert [number(first), number(second), number(third)] == [0, 1, 2]
    assert third is not None
    assert third.place == (2, 3)
    assert next_of(ledger, reading, "b", number(third)) is None
    assert left_of(ledger, reading, "b") is None
    for claim in (first, third):
        assert done(ledger, claim)
    assert end_of(ledger, reading, "a") is None
    assert done(ledger, second, "b")
    end = end_of(ledger, reading, "a")
    assert end is not None
    assert (end.number, end.place) == (3, None)
    assert end_of(ledger, reading, "b") is None
    with ledger.read() as connection:
        made = readings.all_done(connection, reading)
        assert [(piece.number, piece.result["by"]) for piece in made] == [
            (0, ""),
            (1, "b"),
            (2, ""),
        ]
        assert readings.places_of(connection, reading) == [(0, 1), (1, 2), (2, 3)]


def test_a_claim_that_has_run_out_is_taken_over_and_its_holder_records_nothing(
    ledger: Ledger, clock: Clock
) -> None:
    reading = begun(ledger, pieces=2)
    frozen, kept = next_of(ledger, reading, "frozen"), next_of(ledger, reading, "kept")
    clock.at += LEASE - 1
    with ledger.write() as connection:
        readings.keep(connection, reading, "kept", LEASE)
    clock.at += 2
    taken = left_of(ledger, reading, "other")
    assert taken is not None
    assert (taken.number, taken.fence, taken.tries) == (0, 2, 2)
    assert left_of(ledger, reading, "other") is None
    assert not done(ledger, frozen)
    with ledger.write() as connection:
        assert frozen is not None
        readings.let_go(connection, frozen, blameless=True)
    assert done(ledger, taken, "other")
    assert done(ledger, kept)
    # The same worker, which had lost it and claimed it again, records by its newer claim alone.
    assert not done(ledger, taken)


def test_pieces_of_a_process_that_has_ended_are_free_at_once(ledger: Ledger, clock: Clock) -> None:
    reading = begun(ledger, pieces=1)
    assert next_of(ledger, reading, "dead") is not None
    assert left_of(ledger, reading, "other") is None
    assert number(left_of(ledger, reading, "other", gone="dead")) == 0


@pytest.mark.parametrize(("blameless", "tries"), [(True, 1), (False, 2)])
def test_only_workers_that_a_piece_has_ended_count_as_its_tries(
    ledger: Ledger, clock: Clock, blameless: bool, tries: int
) -> None:
    reading = begun(ledger, pieces=1)
    claim = next_of(ledger, reading, "a")
    assert claim is not None
    with ledger.write() as connection:
        readings.let_go(connection, claim, blameless=blameless)
    again = left_of(ledger, reading, "b")
    assert again is not None
    assert (again.tries, again.fence) == (tries, 2)


def test_a_problem_ends_the_reading_until_it_is_begun_again(ledger: Ledger, clock: Clock) -> None:
    reading = begun(ledger)
    assert done(ledger, next_of(ledger, reading, "a"))
    with ledger.write() as connection:
        readings.fail(connection, reading, 2, "a broken line")
        readings.fail(connection, reading, 1, "an earlier one")
        readings.fail(connection, reading, 2, "the same")
    assert next_of(ledger, reading, "a") is None
    assert left_of(ledger, reading, "a") is None
    with ledger.write() as connection:
        failed = readings.of_night(connection, reading.night_id)
        assert failed is not None
        assert failed.problem == {"piece": 1, "message": "an earlier one"}
        again = readings.begin(connection, reading.night_id, "key", "none", DAY)
    assert again == reading
    with ledger.read() as connection:
        assert readings.left(connection, again) == 2
    assert number(next_of(ledger, again, "a")) == 1


@pytest.mark.parametrize(("key", "later"), [("other", 0.0), ("key", DAY + 1)])
def test_another_input_or_an_old_reading_is_begun_anew(
    ledger: Ledger, clock: Clock, key: str, later: float
) -> None:
    reading = begun(ledger)
    claim = next_of(ledger, reading, "a")
    clock.at += later
    with ledger.write() as connection:
        anew = readings.begin(connection, reading.night_id, key, "zstd", DAY)
        assert anew.token != reading.token
        assert readings.tokens(connection, 2 * DAY) == {anew.token}
        assert anew.pieces is None
    assert next_of(ledger, reading, "a") is None
    assert not done(ledger, claim)


def test_a_snapshot_of_the_night_ends_its_reading(ledger: Ledger, clock: Clock) -> None:
    reading = begun(ledger)
    with ledger.write() as connection:
        night = a_night(connection)
        snapshots.replace_snapshot(connection, night, a_snapshot(), {})
        assert readings.of_night(connection, night.id) is None
        assert readings.tokens(connection, DAY) == set()
    assert next_of(ledger, reading, "a") is None
