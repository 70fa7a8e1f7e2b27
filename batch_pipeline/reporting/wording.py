"""How amounts, counts and durations read in the reports for people."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

DIME = Decimal("0.1")
SIGNIFICANT_DIGITS = 3
NOTHING = "n/a"


def usd(amount: Decimal | None) -> str:
    """Dollars: whole cents, below ten of them three significant digits; `n/a` for None."""
    if amount is None:
        return NOTHING
    sign = "-" if amount < 0 else ""
    amount = abs(amount)
    if 0 < amount < DIME:
        return f"{sign}${amount:.{SIGNIFICANT_DIGITS - 1 - amount.adjusted()}f}"
    return f"{sign}${amount:,.2f}"


def signed_usd(amount: Decimal) -> str:
    """`+$1.20`, `-$0.31`: a part of a difference."""
    return usd(amount) if amount < 0 else f"+{usd(amount)}"


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def part(count: int, whole: int) -> str:
    """A count as a part of a whole, in percent; `n/a` where there is no whole."""
    return percent(count / whole) if whole else NOTHING


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `5 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(at: float) -> str:
    """`2026-01-02 06:00 UTC`, from seconds since the epoch: the same whoever reads it, and when."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def clipped(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def status_label(status: str) -> str:
    return status.replace("_", " ")
