"""Nights that are killed; the short version of `make crash-test`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from batch_pipeline_tests.end_to_end.crashes.crash_books import check
from batch_pipeline_tests.end_to_end.crashes.crash_documents import KEPT, REFERENCE
from batch_pipeline_tests.end_to_end.crashes.crash_elsewhere import hunted_elsewhere
from batch_pipeline_tests.end_to_end.crashes.crash_hurried import hunted_in_real_time
from batch_pipeline_tests.end_to_end.crashes.crash_nights import (
    PLAIN,
    REFUSING,
    a_night,
    hunted,
    killed_at,
    killed_in_turn,
    ledger_lost,
    reading_killed_at,
)
from batch_pipeline_tests.end_to_end.crashes.crash_processes import COMPLETE, Forks

# In the order in which a night passes them; the long version dies at all points of all kinds, each
# in a night of its own.
IN_TURN = (
    ("after AnthropicMessages.create", 2),
    ("after commit", 6),
    ("before a chunk of a body", 1),
    ("before create_batch", 1),
    ("after create_batch", 1),
    ("before commit", 12),
    ("before a chunk of results", 1),
    ("after Files.publish", 2),
)
SEED = 20


def test_a_night_killed_at_each_kind_of_point_in_turn_is_whole_and_paid_once(
    forks: Forks, tmp_path: Path
) -> None:
    figures = killed_in_turn(forks, tmp_path / "night", IN_TURN)
    assert figures.batches == 4, "three shards and a retry round"


def test_a_night_killed_while_a_refused_batch_is_split_is_whole_and_paid_once(
    forks: Forks, tmp_path: Path
) -> None:
    # In the midst of it: such a night passes more than 600 points.
    figures, _ = killed_at(forks, tmp_path / "night", 300, faults=REFUSING)
    assert figures.kills == 1


@pytest.mark.parametrize(("documents_as", "point"), [(REFERENCE, 128), (KEPT, 90)])
def test_a_night_of_documents_that_is_killed_is_whole_and_paid_once(
    forks: Forks, tmp_path: Path, documents_as: str, point: int
) -> None:
    """While what has changed is taken out of a batch; while copies and cuts are put in the home."""
    figures, points = killed_at(forks, tmp_path / "night", point, documents_as=documents_as)
    assert figures.kills == 1
    assert (len(points), figures.changed_documents) == (point, 5 * (documents_as == REFERENCE))


@pytest.mark.parametrize(("home_by_url", "named"), [(False, "link"), (True, "copy")])
def test_an_input_whose_workers_are_killed_in_turn_is_what_one_worker_makes_of_it(
    forks: Forks, tmp_path: Path, *, home_by_url: bool, named: str
) -> None:
    """Once a piece is claimed, before its part is recorded, while parts get their names, and with
    the night's snapshot recorded."""
    figures, _ = reading_killed_at(
        forks,
        tmp_path / "night",
        ("after commit", 7),
        then=[("after Files.publish", 2), (f"after Files.{named}", 2), ("before Files.remove", 1)],
        home_by_url=home_by_url,
    )
    assert figures.kills == 4


def test_two_submitters_are_killed_and_frozen_under_a_hostile_api_with_the_ledger_in_postgres(
    forks: Forks, tmp_path: Path, postgres_url: str
) -> None:
    figures = hunted(forks, tmp_path / "night", SEED, blows=5, ledger_url=postgres_url)
    # How many blows a night takes before it is done depends on the machine.
    assert figures.kills + figures.freezes + figures.cuts >= 2
    assert figures.faults > 10


def test_two_that_call_are_killed_and_frozen_with_the_ledger_in_postgres(
    forks: Forks, tmp_path: Path, postgres_url: str
) -> None:
    figures = hunted_in_real_time(
        forks, tmp_path / "night", SEED, blows=4, items=60, ledger_url=postgres_url
    )
    assert figures.kills + figures.freezes + figures.cuts >= 2
    assert not figures.batches


def test_two_submitters_are_killed_and_frozen_before_another_api(
    forks: Forks, tmp_path: Path
) -> None:
    figures = hunted_elsewhere(forks, tmp_path / "night", SEED, blows=4, items=24)
    assert figures.kills + figures.freezes >= 2
    assert figures.foreign_batches


def test_a_lost_ledger_of_nights_with_everything_is_recovered_and_bought_once(
    forks: Forks, tmp_path: Path
) -> None:
    # In the midst of it.
    figures = ledger_lost(forks, tmp_path / "night", 700, caching="5m")
    assert figures.kills == 1
    assert figures.reused
    assert figures.near_duplicates
    assert figures.escalated


def test_what_is_bought_twice_is_noticed(forks: Forks, tmp_path: Path) -> None:
    """A home that was lost: the one thing after which nobody can know what was bought."""
    with a_night(tmp_path / "night", PLAIN, items=30) as (sim, planned, rows):
        work = replace(planned, pilot_via="batch")
        assert forks.wait(forks.start(work)) == COMPLETE
        work.home.rename(tmp_path / "lost")
        assert forks.wait(forks.start(work)) == COMPLETE
        with pytest.raises(AssertionError):
            check(sim, work, rows)
