"""Chains of jobs (`input.job`): what can be told once all jobs of a folder are known."""

from __future__ import annotations

from collections.abc import Mapping

from batch_pipeline.jobs.partitions.declared_partitions import Declared
from batch_pipeline.jobs.partitions.partitions import describe, kind_of, timezone_of
from batch_pipeline.jobs.spec import JobSpec


def problems(specs: Mapping[str, JobSpec]) -> dict[str, str]:
    """By job, why it cannot follow the job that it names.

    A job that is missing here may be declared in Python, or be broken and reported as such: the
    night says so where it never begins.
    """
    found: dict[str, str] = {}
    for name, spec in specs.items():
        way, earlier = [name], spec.input.job
        while earlier is not None and earlier in specs and earlier not in way:
            way.append(earlier)
            earlier = specs[earlier].input.job
        if earlier is not None and earlier in way:
            circle = " → ".join([*way, earlier])
            found[name] = f"the jobs ask about each other's answers ({circle}); one has to begin"
        elif len(way) > 1 and _length(specs[way[1]].partitions) != _length(spec.partitions):
            found[name] = (
                f"{way[1]} has other partitions ({describe(specs[way[1]].partitions)}); declare "
                "partitions of the same length and time zone, since a night asks about the "
                "answers of the same partition"
            )
    return found


def _length(declared: Declared) -> tuple[str, str]:
    """What two jobs have to have in common so that a key means the same to both; their partitions
    may begin and end at other times."""
    return kind_of(declared), timezone_of(declared)
