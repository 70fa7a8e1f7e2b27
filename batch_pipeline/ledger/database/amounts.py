"""Amounts of money in the ledger: whole picodollars, the scale of the results' `cost_usd`
(decimal128(18, 12)), so that sums made by the database are exact.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Dialect
from sqlalchemy.types import TypeDecorator

PICODOLLARS = Decimal(10) ** 12


class Usd(TypeDecorator[Decimal]):
    """A Decimal amount in USD, stored as whole picodollars."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else int(value * PICODOLLARS)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:  # noqa: ARG002
        return None if value is None else Decimal(value) / PICODOLLARS


def usd_sum(
    column: sa.ColumnElement[Any], where: sa.ColumnElement[bool] | None = None
) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
    """Two columns of an aggregate query that together are the exact sum of amounts in USD: whole
    dollars, and the picodollars beside them; `usd_of` puts them together.

    One column does not do: SQLite raises an error where a sum passes 64 bits, which are 9.2 million
    USD in picodollars, and the bounds of a busy month may add up to more.
    """
    amounts: sa.ColumnElement[int] = sa.type_coerce(column, BigInteger)
    if where is not None:
        amounts = sa.case((where, amounts))
    whole, rest = amounts // int(PICODOLLARS), amounts % int(PICODOLLARS)
    return sa.func.coalesce(sa.func.sum(whole), 0), sa.func.coalesce(sa.func.sum(rest), 0)


def usd_of(whole: int | Decimal, rest: int | Decimal) -> Decimal:
    """The amount in USD of two sums by `usd_sum`."""
    return Decimal(whole) + Decimal(rest) / PICODOLLARS
