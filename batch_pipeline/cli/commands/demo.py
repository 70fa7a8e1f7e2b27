"""`demo`: the whole flow on real documents of this machine, against the simulator."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Json
from batch_pipeline.cli.output import Output, as_typed
from batch_pipeline.cli.tables import SIMULATED, SafeConsole, plain_table
from batch_pipeline.errors import UsageError
from batch_pipeline.wording import duration, usd

if TYPE_CHECKING:
    from batch_pipeline.flow.pipeline import Pipeline
    from batch_pipeline.jobs.spec import JobSpec
    from batch_pipeline.reporting.report.report import Report
    from batch_pipeline.settings import Settings

JOB = "license_review"
PDF_JOB = "licence_pdfs"
# The simulator ends batches in seconds; a minute between polls would be most of the demo.
POLL_SECONDS = 0.3


def demo(
    context: typer.Context,
    input_only: Annotated[
        bool, typer.Option("--input-only", help="Collect the documents, send nothing.")
    ] = False,
    turnaround: Annotated[float, typer.Option(help="Seconds a simulated batch takes.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Run the whole flow on documents found on this machine, against the simulator."""
    from batch_pipeline.api.client import AnthropicApi
    from batch_pipeline.cli import progress_bar
    from batch_pipeline.cli.demo.demo_corpus import collect_documents
    from batch_pipeline.cli.demo.demo_pdfs import make_pdfs
    from batch_pipeline.flow.pipeline import Pipeline
    from batch_pipeline.jobs.partitions.demo_start import INPUT, NIGHTS, PDFS
    from batch_pipeline.jobs.partitions.partitions import SINGLE_KEY, all_keys
    from batch_pipeline.jobs.yaml_files.loading import load_job
    from batch_pipeline.reporting.report.report_json import to_json
    from batch_pipeline.settings import PACKAGED_JOBS
    from batch_pipeline.simulator import StateInUseError, running_simulator

    output: Output = context.obj
    settings = opening.load_settings(output)
    if settings.home_is_remote:
        raise UsageError("The demo wants a local home: unset BATCH_PIPELINE_HOME.")
    # The package's own jobs, wherever the user keeps theirs.
    spec, of_pdfs = (load_job(PACKAGED_JOBS / name / "defs.yaml") for name in (JOB, PDF_JOB))
    keys = all_keys(spec.partitions, datetime.now(UTC))[-NIGHTS:]
    counts = collect_documents(Path(settings.home) / INPUT, keys)
    for key, count in counts.items():
        output.say(f"{key}: {count:,} licence texts found on this machine")
    made = make_pdfs(Path(settings.home) / PDFS)
    output.say(f"{PDF_JOB}: {made:,} PDFs made of such texts")
    if input_only:
        return
    started = time.monotonic()
    # In the home, so that a demo that was interrupted, and `make dev`, find its batches again.
    state = Path(settings.home) / "simulator"
    try:
        with running_simulator(turnaround=turnaround, state_dir=state) as simulator:
            api = AnthropicApi(base_url=simulator.url, api_key="simulator")
            quick = dataclasses.replace(settings, poll_seconds=POLL_SECONDS, accounts_file=None)
            with closing(api), Pipeline(quick, api) as pipeline:
                progress_bar.announce_account(output, pipeline, spec)
                reports = [_night(pipeline, spec, key) for key in keys]
                pdfs = _night(pipeline, of_pdfs, SINGLE_KEY)
    except StateInUseError as error:
        raise UsageError(
            f"Another simulator keeps its batches in {error}: a demo or `make dev` on the same "
            "home. Stop it, or set BATCH_PIPELINE_HOME to another folder."
        ) from error
    seconds = time.monotonic() - started
    documents = ",".join(to_json(report) for report in [*reports, pdfs])
    output.answer(
        f'{{"nights": [{documents}]}}', lambda: _summary(reports, pdfs, settings, seconds)
    )


def _night(pipeline: Pipeline, spec: JobSpec, partition: str) -> Report:
    from batch_pipeline.cli import progress_bar
    from batch_pipeline.flow import run as runner
    from batch_pipeline.flow.costs.cost_report import write_report

    with progress_bar.shown() as watch:
        state = runner.run(pipeline, spec, partition, watch=watch)
    return write_report(pipeline, spec, state.night)


def _summary(reports: Sequence[Report], pdfs: Report, settings: Settings, seconds: float) -> None:
    console = SafeConsole()
    console.print(_table(f"{JOB}: the last {len(reports)} nights", reports))
    console.print(_table(f"{PDF_JOB}: a folder of PDFs", [pdfs]))
    console.print(SIMULATED)
    home, newest = settings.home, reports[-1].partition
    lines = [
        f"{len(reports) + 1} nights in {duration(seconds)}.",
        f"  Results    {home}/{JOB}/results/",
        f"  Set aside  {home}/{JOB}/dead_letter/",
        f"  Reports    {home}/{JOB}/reports/{newest}.html (and .md, .json)",
        f"  Pilot page {home}/{PDF_JOB}/reports/{pdfs.partition}.pilot.html",
        "",
        "The same with the real API, billed, in an account of its own:",
        f"  export BATCH_PIPELINE_HOME={home} ANTHROPIC_API_KEY=...",
        f"  {as_typed()} run {JOB} --partition {newest}",
        "In Dagster's UI, with the simulator beside it: make dev",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _table(title: str, reports: Sequence[Report]) -> Table:
    table = plain_table()
    table.title = title
    table.add_column("night", no_wrap=True)
    for name in ("items", "good", "filtered", "aside", "batches", "billed", "real time", "saved"):
        table.add_column(name, justify="right")
    for report in reports:
        table.add_row(
            report.partition,
            f"{report.items:,}",
            f"{report.succeeded:,}",
            f"{report.filtered:,}",
            f"{report.dead_letter:,}",
            f"{report.batches:,}",
            usd(report.costs.billed_usd),
            usd(report.costs.counterfactual_usd),
            usd(report.costs.savings_usd),
        )
    return table
