"""The cost report as one HTML page that needs no script, no font and no other file.

The template engine escapes what comes from data (ids, messages, names), and the page's content
security policy forbids it to load or run anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline.reporting import pages
from batch_pipeline.reporting.distribution import Distribution, clock_step, round_step
from batch_pipeline.reporting.report import charts
from batch_pipeline.reporting.report.charts import Chart
from batch_pipeline.reporting.report.report import Report
from batch_pipeline.wording import (
    clipped,
    duration,
    percent,
    short_count,
    short_usd,
    signed_usd,
    status_label,
    usd,
)

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "report.html.jinja"
MESSAGE_CHARACTERS = 300
ID_CHARACTERS = 120
LABEL_CHARACTERS = 6
# A reason for less than this part of the bill gets no line of its own.
NEGLIGIBLE = Decimal("0.0001")
GOOD_STATUSES = {"succeeded": "good", "filtered": "neutral"}


WAYS = {"batch": "batch", "realtime": "real time"}
REASONS = {
    "items": "number of requests",
    "errors": "requests that failed and were not billed",
    "input_tokens": "tokens of the prompts",
    "output_tokens": "tokens of the answers",
    "retries": "answers to requests sent again",
    "duplicates": "batches bought twice",
    "price": "price: cache, tiers, fees, real time, another model",
}
# What billed answers that are of no use are called, by their status.
WASTED = {
    "truncated": "cut off",
    "invalid_output": "empty, not JSON or against the schema",
    "duplicate": "bought twice",
}


@dataclass(frozen=True)
class TokenRow:
    """Billed tokens of one model and way."""

    model: str
    way: str
    tokens: TokenUsage
    usd: Decimal


@dataclass(frozen=True)
class Bar:
    """A part of a chart: `width` is in percent of the chart, `kind` its style in the page."""

    label: str
    value: str
    width: float
    kind: str


def render(report: Report) -> str:
    """The page as text."""
    return _template().render(**context(report))


def context(report: Report) -> dict[str, Any]:
    """What the page shows, for the page and for the Markdown document that says the same."""
    return {
        "report": report,
        "costs": report.costs,
        "token_rows": _token_rows(report),
        "charts": _charts(report),
        "reasons": _reasons(report),
        "billed_bars": _billed_bars(report),
        "counterfactual_width": _counterfactual_width(report),
        "outcome_bars": _outcome_bars(report),
        "unspent_bars": _unspent_bars(report),
    }


@cache
def _template() -> Template:
    """The page's template, compiled once a process: that takes longer than to render a page."""
    return pages.environment(FILTERS).get_template(TEMPLATE)


def _billed_bars(report: Report) -> list[Bar]:
    costs = report.costs
    whole = max(costs.billed_usd, costs.counterfactual_usd)
    ways = (("Batch", costs.batch_usd, "batch"), ("Real time", costs.realtime_usd, "realtime"))
    return [
        Bar(label, usd(amount), _width(amount, whole), kind)
        for label, amount, kind in ways
        if amount
    ]


def _unspent_bars(report: Report) -> list[Bar]:
    """What asking every document in real time, as the job's own model is asked, would have cost:
    what was billed of it, what batches saved of it, and what each cause avoided. What a cause costs
    more is part of what was billed: its bar says so."""
    costs = report.costs
    parts = [("Billed", costs.billed_usd, "batch")]
    parts.append(("Half price of batches", max(costs.savings_usd, Decimal(0)), "counterfactual"))
    parts += [
        (each.label, each.usd, "avoided")
        if each.usd >= 0
        else (f"{each.label} cost more", -each.usd, "more")
        for each in report.avoided
    ]
    whole = sum((amount for _, amount, kind in parts if kind != "more"), Decimal(0))
    return [Bar(label, usd(amount), _width(amount, whole), kind) for label, amount, kind in parts]


def _counterfactual_width(report: Report) -> float:
    costs = report.costs
    return _width(costs.counterfactual_usd, max(costs.billed_usd, costs.counterfactual_usd))


def _outcome_bars(report: Report) -> list[Bar]:
    """Bars of the statuses, the most frequent first, and of what is not settled yet."""
    most_first = sorted(report.statuses.items(), key=lambda entry: (-entry[1], entry[0]))
    counts = [(status, count, GOOD_STATUSES.get(status, "bad")) for status, count in most_first]
    counts.append(("not settled yet", report.items - report.settled, "open"))
    return [
        Bar(status_label(status), f"{count:,}", _width(Decimal(count), Decimal(report.items)), kind)
        for status, count, kind in counts
        if count > 0
    ]


def _token_rows(report: Report) -> list[TokenRow]:
    """Billed tokens by class: of each model and way, and of all where there are several."""
    rows = [
        TokenRow(usage.model_id, WAYS[usage.mode], usage.tokens, usage.usd)
        for usage in report.models
    ]
    if len(rows) != 1:
        rows.append(TokenRow("All", "", report.tokens, report.costs.billed_usd))
    return rows


def _reasons(report: Report) -> list[tuple[str, list[Decimal]]]:
    """The reasons of the differences that are worth a line, with an amount for each estimate."""
    least = NEGLIGIBLE * report.costs.billed_usd
    rows = [
        (words, [difference.reasons[name] for difference in report.differences])
        for name, words in REASONS.items()
    ]
    return [(words, row) for words, row in rows if any(abs(amount) > least for amount in row)]


def _charts(report: Report) -> dict[str, Chart | None]:
    """The charts by name; None where a chart has no figures."""
    names = ("nights", "each", "prompt", "output", "turnaround")
    found: dict[str, Chart | None] = dict.fromkeys(names)
    if len(report.trend) > 1:
        found["nights"] = _nights_chart(report)
        found["each"] = _each_chart(report)
    for name, title, shown in (
        ("prompt", "Prompt tokens of an answer", report.prompt_tokens),
        ("output", "Output tokens of an answer", report.output_tokens),
    ):
        if shown is not None:
            found[name] = _tokens_chart(title, shown, name)
    if report.turnaround is not None and report.turnaround.values > 1:
        found["turnaround"] = _turnaround_chart(report.turnaround)
    return found


def _nights_chart(report: Report) -> Chart:
    shown = [
        charts.Column(
            _short(night.partition),
            f"{night.partition}: {usd(night.usd)} for {night.settled:,} documents"
            + ("" if night.complete else ", not complete"),
            ((float(night.batch_usd), "batch"), (float(night.realtime_usd), "realtime")),
        )
        for night in report.trend
    ]
    last = report.trend[-1]
    return charts.columns(
        "Cost by night",
        f"USD billed for each of the last {len(shown)} nights; the last is {usd(last.usd)}.",
        shown,
        x_title="night",
        y_title="USD",
        y_text=short_usd,
    )


def _each_chart(report: Report) -> Chart:
    """The cost of a document, night by night; of a thousand, since that of one has many zeros."""
    shown = [
        charts.Column(
            _short(night.partition),
            f"{night.partition}: {usd(night.per_document_usd)} a document",
            ((float(1_000 * (night.per_document_usd or 0)), "prompt"),),
        )
        for night in report.trend
    ]
    last = report.trend[-1]
    return charts.columns(
        "Cost per document by night",
        f"USD billed for a document in each of the last {len(shown)} nights; in the last "
        f"{usd(last.per_document_usd)}.",
        shown,
        x_title="night",
        y_title="USD for 1,000",
        y_text=lambda amount: f"${short_count(amount)}",
    )


def _tokens_chart(title: str, shown: Distribution, kind: str) -> Chart:
    mean, p95 = round(shown.mean), round(shown.p95)
    return charts.histogram(
        title,
        f"Distribution over {shown.values:,} answers: mean {mean:,}, P95 {p95:,}.",
        shown,
        x_title="tokens",
        y_title="answers",
        x_text=short_count,
        x_step=round_step,
        kind=kind,
        markers=((shown.mean, f"mean {mean:,}", "mean"), (shown.p95, f"P95 {p95:,}", "p95")),
    )


def _turnaround_chart(shown: Distribution) -> Chart:
    median, p95 = duration(shown.median), duration(shown.p95)
    return charts.histogram(
        "Turnaround of the batches",
        f"From acceptance to end, {shown.values:,} batches: median {median}, P95 {p95}.",
        shown,
        x_title="from acceptance to end",
        y_title="batches",
        x_text=duration,
        x_step=clock_step,
        kind="batch",
        markers=((shown.median, f"median {median}", "mean"), (shown.p95, f"P95 {p95}", "p95")),
    )


def _short(partition: str) -> str:
    """`11-21` for `2026-11-21`: with the year it would not fit under its column."""
    dated = len(partition) == len("2026-11-21") and partition[:4].isdecimal()
    return partition[5:] if dated else clipped(partition, LABEL_CHARACTERS)


def _width(amount: Decimal, whole: Decimal) -> float:
    return round(float(100 * amount / whole), 3) if whole else 0.0


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


# What the templates call, of both documents.
FILTERS: dict[str, Any] = {
    "usd": usd,
    "signed_usd": signed_usd,
    "negligible": lambda amount, whole: abs(amount) <= NEGLIGIBLE * whole,
    "count": lambda number: f"{number:,}",
    "percent": percent,
    "duration": duration,
    "status_label": status_label,
    "wasted_label": lambda reason: WASTED.get(reason, status_label(reason)),
    "time": _time,
    "message": lambda text: clipped(text, MESSAGE_CHARACTERS),
    "fee_label": lambda fee: f"{status_label(fee.kind)} {fee.name}".strip(),
    "name": lambda text: clipped(text, ID_CHARACTERS),
}
