"""The cost report as Markdown, short enough that Dagster's UI shows it inline."""

from __future__ import annotations

from batch_pipeline.reporting.report.avoided import asked_otherwise, not_asked, total_usd
from batch_pipeline.reporting.report.report import Caching, DeadlineCost, Report
from batch_pipeline.wording import (
    clipped,
    duration,
    moment,
    part,
    percent,
    status_label,
    usd,
)

# Dagster hides longer Markdown behind a link.
INLINE_CHARACTERS = 1_000
NAME_CHARACTERS = 40


def render(report: Report) -> str:
    """The report in fewer than `INLINE_CHARACTERS`, without any text of documents or of the API."""
    costs = report.costs
    lines = [
        f"### {_name(report.job)} {_name(report.partition)}: {usd(costs.billed_usd)}",
        "",
        f"**{usd(report.cost_per_document_usd)} a document**",
        *_notices(report),
        "| | USD |",
        "|---|--:|",
        f"| Batch | {usd(costs.batch_usd)} |",
        f"| Real time | {usd(costs.realtime_usd)} |",
        f"| **Billed** | **{usd(costs.billed_usd)}** |",
        f"| All in real time | {usd(costs.counterfactual_usd)} |",
        f"| **Saved** | **{usd(costs.savings_usd)}** ({percent(costs.savings_share)}) |",
        *_avoided(report),
        *_estimate(report),
        "",
        f"**Outcomes** {_outcomes(report)}",
        "",
        f"**Tokens** {_tokens(report)}",
        *(["", f"**Caching** {_caching(report.caching)}"] if report.caching else []),
        "",
        f"**Model** {_name(report.model.model_id)}{_batches(report)}",
    ]
    return "\n".join(lines) + "\n"


def _notices(report: Report) -> list[str]:
    notices = []
    if report.simulated:
        notices.append("**SIMULATED: no money was spent**")
    if not report.complete:
        notices.append(f"**Not complete:** {report.settled:,} of {report.items:,} settled")
    if report.duplicates.batches:
        twice = f"{report.duplicates.batches:,} batches, {usd(report.duplicates.usd)}"
        notices.append(f"**Bought twice:** {twice}")
    if report.gone.requests:
        bound = f"cost unknown, at most {usd(report.gone.usd_bound)} beside the sums"
        notices.append(f"**Results gone:** {report.gone.requests:,} requests, {bound}")
    if report.estimated_cost_usd:
        at_most = f"at most {usd(report.estimated_cost_usd)} beside the sums"
        notices.append(f"**Answers without usable usage:** {at_most}")
    if report.fees_usd:
        fees = (f"{status_label(kind)} {usd(amount)}" for kind, amount in report.fees_usd.items())
        notices.append(f"**Among what was billed:** {', '.join(fees)}")
    if report.unpriced:
        notices.append(f"**Without a price, in no sum:** {len(report.unpriced):,} things billed")
    if report.not_escalated:
        counts = (f"{n:,} {status_label(cause)}" for cause, n in report.not_escalated.items())
        notices.append(f"**First answers that stand, not escalated:** {', '.join(counts)}")
    if report.deadline is not None:
        notices.append(f"**Deadline** {_deadline(report.deadline)}")
    return ["", *"\n\n".join(notices).split("\n"), ""] if notices else [""]


def _deadline(deadline: DeadlineCost) -> str:
    said = f"{moment(deadline.wanted_at.timestamp())} {deadline.outcome}"
    if not deadline.requests:
        return said
    extra = f"{usd(deadline.extra_usd)} more than as batches"
    return f"{said}: {deadline.requests:,} requests in real time for it, {extra}"


def _avoided(report: Report) -> list[str]:
    """What documents would have cost that were not asked, and what is saved by asking others
    otherwise."""
    found = []
    if dropped := not_asked(report.avoided):
        count = sum(each.documents for each in dropped)
        found.append(f"| Avoided: {count:,} documents not asked | {usd(total_usd(dropped))} |")
    if otherwise := asked_otherwise(report.avoided):
        names = ", ".join(each.label for each in otherwise)
        found.append(f"| Saved by {names} | {usd(total_usd(otherwise))} |")
    return found


def _estimate(report: Report) -> list[str]:
    if report.estimated_usd is None:
        return []
    share = report.over_estimate_share
    against = f" ({share:+.1%})" if share is not None and report.complete else ""
    return [f"| Estimated | {usd(report.estimated_usd)}{against} |"]


def _outcomes(report: Report) -> str:
    if not report.statuses:
        return "none yet" if report.items else "the input was empty"
    most_first = sorted(report.statuses.items(), key=lambda entry: -entry[1])
    found = ", ".join(f"{count:,} {status_label(status)}" for status, count in most_first if count)
    return f"{found} ({part(report.succeeded, report.asked)} succeeded)"


def _tokens(report: Report) -> str:
    tokens = report.tokens
    written = tokens.cache_write_5m_tokens + tokens.cache_write_1h_tokens
    return (
        f"{tokens.input_tokens:,} in, {tokens.output_tokens:,} out, "
        f"{tokens.cache_read_tokens:,} cache read, {written:,} cache written"
    )


def _caching(caching: Caching) -> str:
    """In few words: the whole clause may hold a message of the API."""
    used = caching.used
    if used.hit_rate is None:
        return f"nothing cached, prefix of {caching.prefix_tokens or 0:,} tokens"
    whole = f"{percent(used.hit_rate)} read, saved {usd(used.saved_usd)}"
    if len(caching.models) < 2:
        return whole
    by_model = (f"{_name(name)} {each.brief()}" for name, (each, _) in caching.models.items())
    return f"{whole} ({'; '.join(by_model)})"


def _batches(report: Report) -> str:
    if report.turnaround is None:
        return ""
    return f" · {report.batches:,} batches, median {duration(report.turnaround.median)}"


def _name(text: str) -> str:
    """A name of the declaration, clipped, with its underscores escaped."""
    return clipped(text, NAME_CHARACTERS).replace("_", "\\_")
