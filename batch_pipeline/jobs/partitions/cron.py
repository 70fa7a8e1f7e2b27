"""Checks a cron expression. When a schedule ticks is decided by Dagster."""

from __future__ import annotations

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_CRON_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)


def cron_problem(expression: str) -> str | None:
    """What is wrong with a cron expression of five fields; None if nothing is.

    Ranges, steps, lists and English names are understood. `@daily` and a field of seconds are
    refused, because Dagster and other tools differ on them.
    """
    fields = expression.split()
    if len(fields) != len(_CRON_FIELDS):
        return (
            f"must be a cron expression of 5 fields (minute hour day month weekday) "
            f'like "0 1 * * *", not {expression!r}'
        )
    for text, (label, low, high, names) in zip(fields, _CRON_FIELDS, strict=True):
        if not all(_is_cron_item(item, low, high, names) for item in text.split(",")):
            return f"{text!r} is not a {label} of a cron expression ({low} to {high})"
    return None


def _is_cron_item(item: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    span, slash, step = item.partition("/")
    if slash and not (step.isascii() and step.isdigit() and 1 <= int(step) <= high):
        return False
    if span == "*":
        return True
    values = []
    for end in span.split("-"):
        if end.upper() in names:
            values.append(low + names.index(end.upper()))
        elif end.isascii() and end.isdigit():
            values.append(int(end))
        else:
            return False
    return len(values) <= 2 and values == sorted(values) and low <= values[0] <= values[-1] <= high
