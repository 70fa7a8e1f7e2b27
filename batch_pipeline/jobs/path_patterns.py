"""`{partition}`, `{partition_start:%Y/%m/%d}` and `{partition_end:…}` in a declared path.

A lake whose folders are `year=2026/month=10` is named by the start of a partition's window, in the
job's time zone; `{partition}` is the key as it is.
"""

from __future__ import annotations

import re
from datetime import datetime

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.declared_partitions import Declared, PartitionsSpec
from batch_pipeline.jobs.partitions import keys_up_to, window_of

_PLACEHOLDER = re.compile(r"\{partition(?:_(start|end)(?::([^{}]*))?)?\}")
_BRACES = re.compile(r"\{[^{}]*\}")
# What stands for the same in every locale and on every platform.
_DIRECTIVES = frozenset("YymdHMSjGVz%")


def strangers(path: str) -> list[str]:
    """What stands in braces and is not filled in."""
    return sorted(set(_BRACES.findall(_PLACEHOLDER.sub("", path))))


def problem(path: str, declared: Declared, *, same_every_night: bool) -> str | None:
    """Why a path does not suit the job's partitions; None: it does."""
    for found in _PLACEHOLDER.finditer(path):
        which, form = found.groups()
        if which is not None and not isinstance(declared, PartitionsSpec):
            return f"{found[0]} is filled in for partitions that are times; write {{partition}}"
        unknown = sorted(set(re.findall("%(.?)", (form or "").replace("%%", ""))) - _DIRECTIVES)
        if unknown:
            return (
                f"{found[0]}: %{unknown[0]} is not filled in; "
                f"use {' '.join(f'%{each}' for each in sorted(_DIRECTIVES - {'%'}))}"
            )
    if declared is None or same_every_night:
        return None
    if not _PLACEHOLDER.search(path):
        return (
            "input.path has no {partition}, so every night would buy the same answers again; "
            "add {partition} to the path, or set input.same_every_night: true if that is meant"
        )
    if isinstance(declared, PartitionsSpec):
        calendar, first = declared.calendar, declared.first
        one, other = calendar.key(first), calendar.key(first + 1)
        if fill(path, declared, one) == fill(path, declared, other):
            return (
                f"input.path is the same for the partitions {one} and {other}, which would buy the "
                "same answers twice; add to its format what tells them apart, or {partition}"
            )
    return None


def fill(path: str, declared: Declared, key: str) -> str:
    """The path of a partition; UsageError for a key that is none of the job as declared now."""
    window = window_of(declared, key)
    if window is None and isinstance(declared, PartitionsSpec):
        raise UsageError(
            f"input.path has no file of {key!r}, which is no time of the job's partitions as they "
            "are declared now"
        )

    def value(match: re.Match[str]) -> str:
        which, form = match.groups()
        if which is None:
            return key
        assert window is not None, "only partitions that are times have such paths: `problem`"
        return _written(window.start if which == "start" else window.end, form)

    return _PLACEHOLDER.sub(value, path)


def fill_apart(path: str, declared: Declared, key: str, *, same_every_night: bool) -> str:
    """The path of a partition; UsageError where the one before has the same.

    In a time zone whose clocks are put back, two hours are both `%H` = 02: the second would buy the
    answers of the first again.
    """
    filled = fill(path, declared, key)
    if isinstance(declared, PartitionsSpec) and not same_every_night and "{partition_" in path:
        before = keys_up_to(declared, key, 2)[0]
        if before != key and fill(path, declared, before) == filled:
            raise UsageError(
                f"input.path {path!r} is the same for the partitions {before} and {key}: the "
                f"clocks of {declared.timezone} show both alike. Add %z to the format, write "
                "{partition}, or declare partitions.timezone: UTC."
            )
    return filled


def _written(moment: datetime, form: str | None) -> str:
    return moment.isoformat() if form is None else moment.strftime(form)
