"""The cost report as one HTML page that needs nothing else: no script, no font, no picture.

What comes from data (ids, messages, names) is escaped by the template engine, and the page forbids
itself to load or run anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from batch_pipeline.money.report import Report
from batch_pipeline.money.wording import clipped, duration, part, percent, status_label, usd

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATE = "report.html.jinja"
MESSAGE_CHARACTERS = 300
ID_CHARACTERS = 120
GOOD_STATUSES = {"succeeded": "good", "filtered": "neutral"}


@dataclass(frozen=True)
class Bar:
    """A part of a chart: `width` is in percent of the chart, `kind` its style in the page."""

    label: str
    value: str
    width: float
    kind: str


def render(report: Report) -> str:
    """The page as text."""
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            report=report,
            costs=report.costs,
            tokens=_tokens(report),
            billed_bars=_billed_bars(report),
            counterfactual_width=_counterfactual_width(report),
            outcome_bars=_outcome_bars(report),
        )
    )


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415  # slow to load

    environment = Environment(
        loader=PackageLoader("batch_pipeline.money"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "usd": usd,
        "percent": percent,
        "duration": duration,
        "status_label": status_label,
        "time": _time,
        "message": lambda text: clipped(text, MESSAGE_CHARACTERS),
        "name": lambda text: clipped(text, ID_CHARACTERS),
    }
    return environment


def _billed_bars(report: Report) -> list[Bar]:
    costs = report.costs
    whole = max(costs.billed_usd, costs.counterfactual_usd)
    ways = (("Batch", costs.batch_usd, "batch"), ("Real time", costs.realtime_usd, "realtime"))
    return [
        Bar(label, usd(amount), _width(amount, whole), kind)
        for label, amount, kind in ways
        if amount
    ]


def _counterfactual_width(report: Report) -> float:
    costs = report.costs
    return _width(costs.counterfactual_usd, max(costs.billed_usd, costs.counterfactual_usd))


def _outcome_bars(report: Report) -> list[Bar]:
    """Statuses, the most frequent first, and what is not settled yet."""
    most_first = sorted(report.statuses.items(), key=lambda entry: (-entry[1], entry[0]))
    counts = [(status, count, GOOD_STATUSES.get(status, "bad")) for status, count in most_first]
    counts.append(("not settled yet", report.items - report.settled, "open"))
    return [
        Bar(status_label(status), f"{count:,}", _width(Decimal(count), Decimal(report.items)), kind)
        for status, count, kind in counts
        if count > 0
    ]


def _tokens(report: Report) -> list[tuple[str, int, str]]:
    """Class, billed tokens, part of all."""
    tokens = report.tokens
    whole = tokens.prompt_tokens + tokens.output_tokens
    classes = (
        ("Input", tokens.input_tokens),
        ("Output", tokens.output_tokens),
        ("Cache read", tokens.cache_read_tokens),
        ("Cache write, 5 minutes", tokens.cache_write_5m_tokens),
        ("Cache write, 1 hour", tokens.cache_write_1h_tokens),
    )
    return [(name, count, part(count, whole)) for name, count in classes]


def _width(amount: Decimal, whole: Decimal) -> float:
    return round(float(100 * amount / whole), 3) if whole else 0.0


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
