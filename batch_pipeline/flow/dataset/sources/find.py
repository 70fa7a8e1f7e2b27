"""From a declared input to the files of a night: those that are there, or a copy of a source."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from batch_pipeline.errors import InputDataError, UsageError
from batch_pipeline.flow.dataset.reading.files import OF_EXTRA, Copied, Sources
from batch_pipeline.flow.dataset.reading.listing import environ_with, find_sources
from batch_pipeline.flow.dataset.sources import copies, frames
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.partitions import path_patterns
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import snapshots

# Types that are one and the same for a prompt, by the beginnings of their names.
_FAMILIES = {
    "number": ("decimal", "number"),
    "timestamp": ("timestamp",),
    "date": ("date",),
    "time": ("time32", "time64"),
    "boolean": ("bool",),
    "nested": ("list", "large_list", "fixed_size_list", "struct", "map", "json", "object", "array"),
}


def find_input(pipeline: Pipeline, spec: JobSpec, partition: str) -> Sources:
    """The night's files; `${BATCH_PIPELINE_HOME}` in a path is the home in force.

    An input that is not files is copied into the home first, where that version of it is not there.
    """
    declared, environ = spec.input, environ_with(pipeline.settings.home)
    if not declared.same_every_night:
        path_patterns.refuse_twins(declared.patterns, spec.partitions, partition)
    if declared.path is not None:
        path = path_patterns.fill(declared.path, spec.partitions, partition)
        found = find_sources(path, partition, environ, declared.csv)
        _require_readers(found)
        return found
    if declared.asset is not None:
        return frames.find(pipeline.files, spec.name, partition, declared.asset.key)
    # Each brings a library that the others do without.
    if declared.sql is not None:
        from batch_pipeline.flow.dataset.sources.sql import SqlSource  # noqa: PLC0415

        query = SqlSource(declared.sql, spec.partitions, partition)
        return copies.copy(pipeline.files, spec.name, partition, query)
    if declared.delta is not None:
        from batch_pipeline.flow.dataset.sources.delta import DeltaSource  # noqa: PLC0415

        table = DeltaSource(declared.delta, spec.partitions, partition, environ)
        return copies.copy(pipeline.files, spec.name, partition, table)
    assert declared.job is not None
    from batch_pipeline.flow.dataset.sources import answers  # noqa: PLC0415

    night = answers.find(pipeline, declared.job, partition)
    return copies.copy(pipeline.files, spec.name, partition, night)


def _require_readers(sources: Sources) -> None:
    """Raise UsageError where files are there whose readers are not installed."""
    kinds = sorted({file.kind.value for file in sources.files if file.kind in OF_EXTRA})
    if kinds and not all(map(importlib.util.find_spec, ("docx2python", "inscriptis"))):
        raise UsageError(
            f"reading {', '.join(kinds)} needs: pip install 'batch-pipeline[documents]'"
        )


def refuse_another_shape(
    pipeline: Pipeline, spec: JobSpec, partition: str, copied: Copied | None
) -> None:
    """Raise InputDataError where the rows have other columns than those of the night before.

    The night before is the one that was taken last. Further columns are no reason to stop: no
    prompt reads them.
    """
    if copied is None or spec.input.shape == "any":
        return
    with pipeline.ledger.read() as connection:
        former = snapshots.newest_source(connection, spec.name, partition, copied.kind)
    if former is None:
        return
    found = shape_changes(former[1]["columns"], copied.columns)
    if found:
        raise InputDataError(
            f"{spec.name} {partition}: {copied.origin} has another shape than in the night "
            f"{former[0]}: {'; '.join(found)}; nothing was sent. Correct it upstream; or, "
            "where the change is meant, set input.shape: any for this night."
        )


def shape_changes(before: Mapping[str, str | None], now: Mapping[str, str | None]) -> list[str]:
    """What a person has to know of columns that are gone or of another type."""
    gone = [f"column {name!r} is gone" for name in before if name not in now]
    changed = [
        f"column {name!r} was {before[name]} and is {kind}"
        for name, kind in now.items()
        if name in before and _differ(before[name], kind)
    ]
    return gone + changed


def _differ(before: str | None, now: str | None) -> bool:
    """Whether two types mean different values. Of a column without values nothing is known."""
    alike = {_alike(before), _alike(now)}
    return len(alike) == 2 and not alike & {None, "null"}


def _alike(kind: str | None) -> str | None:
    """A type without what follows from a night's values: digits, units of time, keys of structs."""
    for name, beginnings in _FAMILIES.items():
        if kind is not None and kind.startswith(beginnings):
            return name
    return kind
