"""The results of a finished night, its dead letters and its report, as their assets show them."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from batch_pipeline import safe_text
from batch_pipeline.flow import paths
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.orchestration.asset_metadata import images
from batch_pipeline.orchestration.asset_metadata.values import (
    ROW_COUNT,
    URI,
    Metadata,
    percent,
    rounded_usd,
    safely,
)
from batch_pipeline.pricing.tokens import TOKENS
from batch_pipeline.reporting.report import report_markdown
from batch_pipeline.reporting.report.report import Report, SetAside
from batch_pipeline.wording import clipped

GREEN, RED, GREY = "#1f9d55", "#d64545", "#c4c4cc"
MOST_GROUPS = 8


@safely
def of_results(pipeline: Pipeline, state: Progress) -> Metadata:
    where = pipeline.files.uri(paths.results(state.night.job, state.night.partition))
    bar = images.proportions(
        [(state.succeeded, GREEN), (state.dead_letter, RED), (state.filtered, GREY)],
        title="succeeded, dead letters, filtered",
    )
    by_filter = {} if state.snapshot is None else state.snapshot.filtered_by
    filters = [f"- {safe_text.markdown(why)}: {count:,}" for why, count in by_filter.items()]
    return {
        "outcome": dg.MetadataValue.md(
            f"**{state.succeeded:,}** succeeded, **{state.dead_letter:,}** dead letters, "
            f"**{state.filtered:,}** filtered\n\n{bar}"
        ),
        **({"filtered_by": dg.MetadataValue.md("\n".join(filters))} if by_filter else {}),
        ROW_COUNT: state.settled,
        "succeeded": state.succeeded,
        "dead_letter": state.dead_letter,
        "dead_letter_percent": _dead_letter_percent(state),
        "path": dg.MetadataValue.path(where),
        URI: where,
        "simulated": state.account.simulated,
    }


@safely
def of_dead_letters(pipeline: Pipeline, state: Progress, groups: Sequence[SetAside]) -> Metadata:
    night = state.night
    where = pipeline.files.uri(paths.dead_letter(night.job, night.partition))
    systematic = sum(group.systematic for group in groups)
    found: dict[str, dg.MetadataValue | str | int | float | bool] = {
        "reasons": dg.MetadataValue.md(_groups(groups)),
        ROW_COUNT: state.dead_letter,
        "dead_letter_percent": _dead_letter_percent(state),
        "systematic_problems": systematic,
        "path": dg.MetadataValue.path(where),
        URI: where,
        "simulated": state.account.simulated,
    }
    if state.dead_letter:
        found["send_again_after_a_fix"] = (
            f"batch-pipeline dead-letter redrive {night.job} --partition {night.partition}"
        )
    return found


@safely
def of_report(pipeline: Pipeline, state: Progress, report: Report) -> Metadata:
    night = state.night
    cost_by_night = [float(each.usd) for each in report.trend]
    cost_of_each = [float(each.per_document_usd or 0) for each in report.trend]
    found: dict[str, dg.MetadataValue | str | int | float | bool] = {
        "report": dg.MetadataValue.md(report_markdown.render(report)),
        "cost_usd": rounded_usd(report.costs.billed_usd),
        "savings_usd": rounded_usd(report.costs.savings_usd),
        "cost_per_document_usd": rounded_usd(report.cost_per_document_usd),
        **{name: getattr(report.tokens, name) for name in TOKENS},
        "path": dg.MetadataValue.path(
            pipeline.files.uri(paths.report(night.job, night.partition, ".html"))
        ),
        URI: pipeline.files.uri(paths.report(night.job, night.partition, ".json")),
        "simulated": report.simulated,
    }
    if report.caching is not None:
        found["cache_saved_usd"] = rounded_usd(report.caching.used.saved_usd)
    if report.estimated_usd is not None:
        found["estimated_cost_usd"] = rounded_usd(report.estimated_usd)
    if len(cost_by_night) > 1:
        image = images.bars(cost_by_night, title="cost by night")
        found[f"cost_of_the_last_{len(cost_by_night)}_nights"] = dg.MetadataValue.md(image)
        image = images.bars(cost_of_each, title="cost per document by night")
        found["cost_per_document_by_night"] = dg.MetadataValue.md(image)
    if report.avoided:
        found["avoided_usd"] = rounded_usd(report.avoided_usd)
    return found


def _groups(groups: Sequence[SetAside]) -> str:
    if not groups:
        return "none"
    rows = [
        f"| {group.items:,} | {'**systematic** ' if group.systematic else ''}{group.reason}: "
        f"{safe_text.markdown(clipped(group.example_message or group.error_type or '', 100))} "
        f"| {safe_text.markdown(', '.join(group.example_ids[:2]))} |"
        for group in groups[:MOST_GROUPS]
    ]
    return "\n".join(["| items | reason | e.g. |", "|---|---|---|", *rows])


def _dead_letter_percent(state: Progress) -> float:
    return percent(state.dead_letter / state.settled if state.settled else 0.0)
