"""How money, counts and times are written for people: the one place for all faces and messages."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

DIME = Decimal("0.1")
SIGNIFICANT_DIGITS = 3
NOTHING = "n/a"
MINUTE, HOUR, DAY = 60, 3_600, 86_400


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


def short_usd(amount: float) -> str:
    """`$0.25`, `$25k`: an amount under a tick of a chart."""
    return f"${short_count(amount)}" if amount >= 1_000 else usd(Decimal(str(amount)))


def short_count(count: float) -> str:
    """`950`, `1.2k`, `25k`, `1.5M`: a count under a tick of a chart."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"


def speed(per_second: float) -> str:
    """`1,110`, `12.3`, `10`, `0.042`: items a second, as one writes it: never with an exponent."""
    digits = 0 if per_second >= 100 else 1 if per_second >= 1 else 3
    return f"{per_second:,.{digits}f}".removesuffix(".0")


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def part(count: int, whole: int) -> str:
    """A count as a part of a whole, in percent; `n/a` where there is no whole."""
    return percent(count / whole) if whole else NOTHING


def duration(seconds: float) -> str:
    """`42 s`, `10 min`, `3 min 20 s`, `5 h 07 min`, `2 days 12 h`: never more than two units."""
    whole = max(0, round(seconds))
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        minutes, rest = divmod(whole, MINUTE)
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    if whole < 2 * DAY:
        hours, rest = divmod(whole // MINUTE, HOUR // MINUTE)
        return f"{hours} h {rest:02d} min" if rest else f"{hours} h"
    days, rest = divmod(whole // HOUR, DAY // HOUR)
    return f"{days} days {rest} h" if rest else f"{days} days"


def moment(at: float) -> str:
    """`2026-01-02 06:00 UTC`, from seconds since the epoch: the same for every reader."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def iso(at: float) -> str:
    """`2026-01-02T06:00:00+00:00`, from seconds since the epoch, for programs."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def iso_or_none(at: float | None) -> str | None:
    return None if at is None else iso(at)


def clipped(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def status_label(status: str) -> str:
    return status.replace("_", " ")
