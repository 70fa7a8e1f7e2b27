"""`report`: what a night came to and what it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Job, Json, Partition
from batch_pipeline.cli.output import Output
from batch_pipeline.cli.savings import say_cascade, show_avoided
from batch_pipeline.cli.tables import (
    SIMULATED,
    SafeConsole,
    facts_table,
    print_path,
)
from batch_pipeline.wording import percent, status_label, usd

if TYPE_CHECKING:
    from batch_pipeline.flow.pipeline import Pipeline
    from batch_pipeline.reporting.report.report import Report


def report(
    context: typer.Context, job: Job, partition: Partition = None, as_json: Json = False
) -> None:
    """Show the cost report of a night."""
    from batch_pipeline.flow.costs.cost_report import build_report

    pipeline, spec, key = opening.open_night(context, job, partition)
    night = opening.shown_night(pipeline, spec, key)
    show_report(context.obj, pipeline, build_report(pipeline, spec, night))


def show_report(output: Output, pipeline: Pipeline, report: Report) -> None:
    """A night's outcome and cost, and where its results are, and its page once it is complete."""
    from batch_pipeline.flow import paths
    from batch_pipeline.reporting.report.report_json import to_json

    def show() -> None:
        console = SafeConsole()
        state = "complete" if report.complete else "not complete"
        console.print(f"{report.job} {report.partition}: {state}", highlight=False)
        table = facts_table()
        rows = [
            ("items", f"{report.items:,}"),
            ("succeeded", f"{report.succeeded:,}"),
            ("set aside (dead letters)", f"{report.dead_letter:,}"),
            *((f"filtered: {why}", f"{count:,}") for why, count in report.filtered_by.items()),
            ("batches", f"{report.batches:,}"),
            ("input tokens", f"{report.tokens.input_tokens:,}"),
            ("output tokens", f"{report.tokens.output_tokens:,}"),
            ("billed", usd(report.costs.billed_usd)),
            ("billed per document", usd(report.cost_per_document_usd)),
            ("billed as batches", usd(report.costs.batch_usd)),
            ("billed in real time", usd(report.costs.realtime_usd)),
            ("all in real time", usd(report.costs.counterfactual_usd)),
            ("saved", usd(report.costs.savings_usd)),
            ("per good answer", usd(report.cost_per_succeeded_usd)),
            ("billed without use", usd(report.wasted_usd)),
        ]
        if report.estimated_usd is not None:
            rows.append(("estimated", usd(report.estimated_usd)))
        if report.cache_hit_rate:
            rows.append(("cache hit rate", percent(report.cache_hit_rate)))
        if report.caching is not None:
            rows.append(("marked tokens read", percent(report.caching.used.hit_rate)))
            if len(report.caching.models) > 1:
                rows += [(name, used.brief()) for name, (used, _) in report.caching.models.items()]
        rows += [
            (f"{name}, {sent.succeeded:,} of {sent.requests:,} good", usd(sent.usd))
            for name, sent in (("explained", report.explained), ("continued", report.continued))
            if sent.requests
        ]
        rows += [(status_label(kind), usd(amount)) for kind, amount in report.fees_usd.items()]
        rows += [("without a price, in no sum", fee.name) for fee in report.unpriced]
        for row in rows:
            table.add_row(*row)
        console.print(table)
        show_avoided(console, report.avoided)
        if report.cascade is not None:
            say_cascade(console, report.cascade, "cost")
        if report.simulated:
            console.print(SIMULATED)
        print_path(console, "Results", report.results_path)
        if report.complete:
            page = paths.report(report.job, report.partition, ".html")
            print_path(console, "Report", pipeline.files.uri(page))

    output.answer(to_json(report), show)
