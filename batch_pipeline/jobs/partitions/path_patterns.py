"""`{partition}`, `{partition_start:%Y/%m/%d}` and `{partition_end:…}` in a declared path, or in the
predicate of a Delta table.

A lake whose folders are `year=2026/month=10` is named by the start of a partition's window, in the
job's time zone; `{partition}` is the key as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from batch_pipeline.errors import UsageError
from batch_pipeline.jobs.partitions.declared_partitions import Declared, PartitionsSpec
from batch_pipeline.jobs.partitions.partitions import keys_up_to, window_of

_PLACEHOLDER = re.compile(r"\{partition(?:_(start|end)(?::([^{}]*))?)?\}")
_BRACES = re.compile(r"\{[^{}]*\}")
# What stands for the same in every locale and on every platform.
_DIRECTIVES = frozenset("YymdHMSjGVz%")


def strangers(path: str) -> list[str]:
    """What stands in braces and is not filled in."""
    return sorted(set(_BRACES.findall(_PLACEHOLDER.sub("", path))))


def has_placeholder(text: str) -> bool:
    return _PLACEHOLDER.search(text) is not None


def problem(texts: Mapping[str, str], declared: Declared, *, same_every_night: bool) -> str | None:
    """Why texts, by their keys, do not suit the job's partitions; None: they do."""
    for key, text in texts.items():
        for found in _PLACEHOLDER.finditer(text):
            which, form = found.groups()
            if which is not None and not isinstance(declared, PartitionsSpec):
                return (
                    f"{key}: {found[0]} is filled in for partitions that are times; write "
                    "{partition}"
                )
            unknown = sorted(set(re.findall("%(.?)", (form or "").replace("%%", ""))) - _DIRECTIVES)
            if unknown:
                return (
                    f"{key}: %{unknown[0]} in {found[0]} is not filled in; "
                    f"use {' '.join(f'%{each}' for each in sorted(_DIRECTIVES - {'%'}))}"
                )
    if isinstance(declared, PartitionsSpec) and texts and not same_every_night:
        calendar, first = declared.calendar, declared.first
        one, other = calendar.key(first), calendar.key(first + 1)
        if all(fill(text, declared, one) == fill(text, declared, other) for text in texts.values()):
            return (
                f"{list(texts)[-1]} is the same for the partitions {one} and {other}, which would "
                "buy the same answers twice; add to its format what tells them apart, or "
                "{partition}"
            )
    return None


def fill(path: str, declared: Declared, key: str) -> str:
    """A text with a partition filled in; UsageError for a key that is none of the job as declared
    now."""
    window = window_of(declared, key)
    if window is None and isinstance(declared, PartitionsSpec):
        raise UsageError(
            f"there is no input of {key!r}: it is no time of the job's partitions as they are "
            "declared now"
        )

    def value(match: re.Match[str]) -> str:
        which, form = match.groups()
        if which is None:
            return key
        assert window is not None, "only partitions that are times have such paths: `problem`"
        return _written(window.start if which == "start" else window.end, form)

    return _PLACEHOLDER.sub(value, path)


def refuse_twins(texts: Mapping[str, str], declared: Declared, key: str) -> None:
    """Raise UsageError where the partition before another reads the same.

    In a time zone whose clocks are put back, two hours are both `%H` = 02: the second would buy the
    answers of the first again.
    """
    if not isinstance(declared, PartitionsSpec) or not texts:
        return
    before = keys_up_to(declared, key, 2)[0]
    if before == key:
        return
    if all(fill(text, declared, before) == fill(text, declared, key) for text in texts.values()):
        raise UsageError(
            f"{list(texts)[-1]} is the same for the partitions {before} and {key}: the clocks of "
            f"{declared.timezone} show both alike. Add %z to the format, write {{partition}}, or "
            "declare partitions.timezone: UTC."
        )


def _written(moment: datetime, form: str | None) -> str:
    return moment.isoformat() if form is None else moment.strftime(form)
