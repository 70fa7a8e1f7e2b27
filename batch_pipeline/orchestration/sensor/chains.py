"""Starts nights of a job whose input is another job's answers, once the other night is complete."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg
from sqlalchemy import Connection

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, snapshots
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.orchestration.names import Kind, dagster_job
from batch_pipeline.orchestration.sensor import follow_ups

# Nights that were completed longer ago are left to a backfill: a new job must not buy a year.
STARTED_WITHIN_SECONDS = 3 * 86400.0


@dataclass(frozen=True)
class Link:
    """A complete night of the earlier job, and when it was completed."""

    partition: str
    completed_at: float

    @property
    def run_key(self) -> str:
        """Used once for ever: a night that fails is left to a person, one that was redriven and
        completed anew starts the next job again, which buys what is new."""
        return f"chain/{self.partition}/{self.completed_at:.3f}"


def due(connection: Connection, spec: JobSpec, owner: str | None = None) -> list[Link]:
    """The nights to start, oldest first; of any owner where none is given.

    A night is due where the earlier job's is complete and shown, and this job has not taken its
    input since.
    """
    if spec.input.job is None:
        return []
    since = now(connection) - STARTED_WITHIN_SECONDS
    complete = nights.list_nights(
        connection, job=spec.input.job, owner=owner, completed_since=since
    )
    found = []
    for earlier in complete:
        at = earlier.completed_at
        if at is None or not earlier.published or earlier.rebuilding:
            continue
        mine = nights.find_night(connection, spec.name, earlier.partition, earlier.owner)
        if mine is not None and (mine.held_at is not None or mine.pruned_at is not None):
            continue
        if mine is not None and mine.snapshot_id is not None:
            taken = snapshots.get_snapshot(connection, mine.snapshot_id)
            if taken.taken_at >= at or mine.completed_at is None:
                continue
        found.append(Link(earlier.partition, at))
    return found


def requests(
    spec: JobSpec, links: list[Link], unfinished: set[tuple[str, Kind]], most: int
) -> list[dg.RunRequest]:
    """At most `most` runs that start these nights; none for a night with an unfinished run."""
    free = [
        link
        for link in links
        if (link.partition, Kind.SUBMIT) not in unfinished
        and follow_ups.problem_with(spec, link.partition) is None
    ]
    return [
        dg.RunRequest(
            run_key=link.run_key,
            job_name=dagster_job(spec.name, Kind.SUBMIT),
            partition_key=link.partition,
        )
        for link in free[: max(0, most)]
    ]
