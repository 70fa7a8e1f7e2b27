"""Metadata of materializations and observations: what those of all assets have in common.

Headlines come first, and units are in the names. Numbers that Dagster plots are rounded, since it
prints them as they come.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import ParamSpec

import dagster as dg

from batch_pipeline import safe_text

Metadata = Mapping[str, dg.MetadataValue | str | int | float | bool]
P = ParamSpec("P")

ROW_COUNT = "dagster/partition_row_count"
URI = "dagster/uri"


def safely(made: Callable[P, Metadata]) -> Callable[P, Metadata]:
    """Decorate a function so that data of users and of the API in its metadata are safe to show.

    Markdown is left as it is, since only its author knows what is markup: data go into Markdown by
    `safe_text.markdown`.
    """

    @functools.wraps(made)
    def safe(*args: P.args, **kwargs: P.kwargs) -> Metadata:
        return safe_text.shown(made(*args, **kwargs))

    return safe


def rounded_usd(amount: Decimal | None) -> float:
    return round(float(amount or 0), 9)


def percent(share: float) -> float:
    return round(100 * share, 2)
