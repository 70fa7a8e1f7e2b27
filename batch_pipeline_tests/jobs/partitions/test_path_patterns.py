"""Paths that are written by the time of a partition."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.partitions.declared_partitions import (
    Declared,
    PartitionNames,
    PartitionsSpec,
)
from batch_pipeline.jobs.partitions.path_patterns import fill, refuse_twins
from batch_pipeline.jobs.spec import JobSpec

HOURS = PartitionsSpec(every="hour", start=date(2026, 1, 1), timezone="Europe/Zurich")
MONTHS = PartitionsSpec(every="month", start=date(2026, 1, 1))
SECOND = "2026-10-25-02:00+0100"


@pytest.mark.parametrize(
    ("path", "declared", "key", "filled"),
    [
        ("/d/{partition}/*", None, "all", "/d/all/*"),
        ("/d/{partition}/*", PartitionNames(("acme",)), "acme", "/d/acme/*"),
        ("/d/{partition}", HOURS, SECOND, f"/d/{SECOND}"),
        ("/d/{partition_start:%Y/%m/%d/%H%z}", HOURS, SECOND, "/d/2026/10/25/02+0100"),
        ("/d/{partition_start:%Y}/{partition_end:%m}", MONTHS, "2026-11-01", "/d/2026/12"),
        ("/d/{partition_start}", HOURS, SECOND, "/d/2026-10-25T02:00:00+01:00"),
    ],
)
def test_a_path_is_filled_in(path: str, declared: Declared, key: str, filled: str) -> None:
    assert fill(path, declared, key) == filled


@pytest.mark.parametrize("key", ["2026-03-29-02:00", "2026-03-29"])
def test_a_key_that_is_no_partition_has_no_path(key: str) -> None:
    """An hour that the clocks are put forward over, and a day."""
    with pytest.raises(UsageError, match="is no time of the job's partitions"):
        fill("/d/{partition}/*", HOURS, key)


def test_two_hours_that_clocks_show_alike_do_not_share_a_path() -> None:
    texts = {"input.path": "/d/{partition_start:%Y-%m-%d-%H}"}
    refuse_twins(texts, HOURS, "2026-10-25-02:00")
    refuse_twins({**texts, "where": "hour = '{partition}'"}, HOURS, SECOND)
    with pytest.raises(UsageError, match=r"same for the partitions .* Add %z to the format"):
        refuse_twins(texts, HOURS, SECOND)


@pytest.mark.parametrize(
    ("path", "partitions", "message"),
    [
        ("/d/*", ["acme"], "has no {partition}"),
        ("/d/{partition_start:%Y}", None, "for partitions that are times"),
        ("/d/{partition_start:%Y}", ["acme"], "for partitions that are times"),
        (
            "/d/{partition_start:%Q}",
            {"start": "2026-01-01"},
            "input.path: %Q in {partition_start:%Q} is not filled in",
        ),
        ("/d/{partition_start:%Y}", {"start": "2026-01-01"}, "same for the partitions 2026-01-01"),
        ("/d/{day}", {"start": "2026-01-01"}, "only {partition} is filled in"),
    ],
)
def test_a_path_that_does_not_suit_the_partitions_is_refused(
    path: str, partitions: Any, message: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        JobSpec(
            name="review",
            input={"path": path},
            prompt={"user": "{text}"},
            model_id="claude-haiku-4-5-20251001",
            max_tokens=500,
            partitions=partitions,
        )
    assert message in str(refused.value)
