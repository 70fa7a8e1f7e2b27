"""A night that was asked about and never begun: when it is due, and how the job's others stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.nights import Night
from batch_pipeline.wording import moment


@dataclass(frozen=True)
class NeverBegun:
    """A partition without a night; `schedule` is the job's and `due_at` when it runs the partition
    (seconds since the epoch; None: never, or long after). `complete` counts the job's complete
    nights, `newest` is the latest of them."""

    job: str
    partition: str
    schedule: str | None
    due_at: float | None
    nights: int
    complete: int
    newest: str | None

    def __str__(self) -> str:
        when = "the job has no schedule"
        if self.due_at is not None:
            due = f"due at {moment(self.due_at)} by the schedule {self.schedule!r}"
            when = f"{due}: is {self.job}_nightly started?"
        elif self.schedule is not None:
            when = f"the schedule {self.schedule!r} does not run it"
        others = "no other night of the job has been run either"
        if self.nights:
            others = f"of the job's {self.nights:,} other nights {self.complete:,} are complete"
            others += f", the newest is {self.newest}" if self.newest is not None else ""
        return (
            f"{self.job} {self.partition} was never begun ({when}); {others}. "
            f"`batch-pipeline run {self.job} --partition {self.partition}` begins it."
        )

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "message": str(self)}


def of(spec: JobSpec, partition: str, nights: Sequence[Night], due_at: float | None) -> NeverBegun:
    """What is known of a partition of a job that has none of these nights."""
    complete = [night.partition for night in nights if night.completed_at is not None]
    return NeverBegun(
        job=spec.name,
        partition=partition,
        schedule=spec.schedule,
        due_at=due_at,
        nights=len({night.partition for night in nights}),
        complete=len(complete),
        newest=max(complete, default=None),
    )
