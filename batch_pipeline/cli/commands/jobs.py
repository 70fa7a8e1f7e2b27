"""`jobs` and `validate`: what is declared, and whether it is right. Nothing is sent."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from batch_pipeline.cli import opening, spread_warnings
from batch_pipeline.cli.options import Job, Json, Partition
from batch_pipeline.cli.output import COMPLETE, USAGE, Output
from batch_pipeline.cli.savings import show_savings
from batch_pipeline.cli.tables import SafeConsole, facts_table, plain_table
from batch_pipeline.safe_text import one_line, redacted

if TYPE_CHECKING:
    from batch_pipeline.flow.costs.estimate import Estimate
    from batch_pipeline.flow.dataset.reading.files import Sources
    from batch_pipeline.flow.planning.new_shards import ShardLimits
    from batch_pipeline.jobs.spec import JobSpec
    from batch_pipeline.jobs.yaml_files.loading import JobScan
    from batch_pipeline.settings import Settings


def jobs(context: typer.Context, as_json: Json = False) -> int:
    """List the declared jobs."""
    from batch_pipeline.jobs.yaml_files.loading import scan_jobs

    settings = opening.load_settings(context.obj)
    scan = scan_jobs(settings.jobs_dir)
    show_jobs(context.obj, settings, scan)
    return USAGE if scan.errors else COMPLETE


def validate(
    context: typer.Context, job: Job, partition: Partition = None, as_json: Json = False
) -> None:
    """Check declaration, input and template of a night without sending anything."""
    from batch_pipeline.flow.costs import estimate as estimates
    from batch_pipeline.flow.dataset.sources.find import find_input, refuse_another_shape
    from batch_pipeline.flow.gates import models
    from batch_pipeline.flow.gates.prices import price_for
    from batch_pipeline.flow.planning.new_shards import ShardLimits
    from batch_pipeline.jobs.yaml_files.loading import find_file

    pipeline, spec, key = opening.open_night(context, job, partition)
    find_file(pipeline.settings.jobs_dir, job).require_env(os.environ)
    price_for(spec)
    api, unasked = opening.api_if_any(pipeline, spec)
    verdict = models.check(spec, api)
    warnings = [*verdict.warnings, *filter(None, (verdict.unasked or unasked,))]
    sources = find_input(pipeline, spec, key)
    refuse_another_shape(pipeline, spec, key, sources.copied)
    found = estimates.of_input(pipeline, spec, key, sources)
    snapshot = found.snapshot
    limits = ShardLimits.of(spec, pipeline.settings.max_queued_requests)
    if spec.mode == "auto" and spec.deadline is None:
        context.obj.say("mode: auto without a deadline is the same as mode: batch.")
    if sources.notice is not None:
        warnings.append(sources.notice)
    warnings += spread_warnings.of(pipeline.settings, spec, sources)
    if not snapshot.items:
        warnings.append("the input has no rows")
    if snapshot.items and not snapshot.asked:
        warnings.append("no document is left to be sent: all of them are filtered or invalid")
    if found.avoided or len(found.ways) > 1:
        warnings.append(
            "USD are an estimate without the API, of the whole input; input from "
            f"{found.tokens.prompt}; output from {found.tokens.answer}"
        )
    show_validation(context.obj, spec, key, sources, found, limits, warnings)


def show_jobs(output: Output, settings: Settings, scan: JobScan) -> None:
    """The good jobs in a table, what is wrong with the others on stderr."""
    from batch_pipeline.jobs.partitions.partitions import kind_of, newest_key

    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = [
        {
            "name": spec.name,
            "description": spec.description,
            "model_id": spec.model_id,
            "partitions": kind_of(spec.partitions),
            "newest_partition": newest_key(spec.partitions, now),
            "schedule": spec.schedule,
            "input_path": redacted(spec.input.origin),
        }
        for spec in scan.specs.values()
    ]
    document: dict[str, Any] = {"jobs_dir": str(settings.jobs_dir), "jobs": rows}
    problems = "\n".join(str(error) for error in scan.errors.values())
    if problems:
        document["error"] = {"code": "invalid_declaration", "message": problems}

    def show() -> None:
        console = SafeConsole()
        table = plain_table()
        # A name is what one copies: it is cut only where the terminal is not wider than it.
        longest = max(len(row["name"]) for row in rows)
        together = longest + _width_beside_the_name(rows) <= console.width
        table.add_column("job", overflow="fold", no_wrap=together)
        names = ("newest night", "schedule") if together else ()
        for name in names:
            table.add_column(name, no_wrap=True)
        if together:
            table.add_column("model, description", overflow="fold")
        for row in rows:
            none = "-" if row["partitions"] == "static" else "none yet"
            when = (row["newest_partition"] or none, row["schedule"] or "-")
            about = [row["model_id"], *filter(None, [row["description"]])]
            if together:
                cells = [Text(one_line(row["name"])), *(Text(one_line(cell)) for cell in when)]
                table.add_row(*cells, Text("\n".join(map(one_line, about))))
            else:
                table.add_row(Text("\n  ".join(map(one_line, (row["name"], *when, *about)))))
        console.print(table)

    if rows or output.as_json:
        output.answer(document, show)
    elif not problems:
        output.say(f"No job is declared: there is no <job>/defs.yaml under {settings.jobs_dir}.")
    if problems:
        output.say(f"Error: {problems}")


def _width_beside_the_name(rows: list[dict[str, Any]]) -> int:
    """What the columns beside a job's name take at least, in characters."""
    schedule = max(len("schedule"), *(len(row["schedule"] or "") for row in rows))
    newest = max(len("newest night"), *(len(row["newest_partition"] or "") for row in rows))
    words = max(len("description"), *(len(row["model_id"]) for row in rows))
    return newest + schedule + words + 3 * len("  ") + 2


def show_validation(
    output: Output,
    spec: JobSpec,
    partition: str,
    sources: Sources,
    found: Estimate,
    limits: ShardLimits,
    warnings: list[str],
) -> None:
    """What a night would send, and what a person should know before it is sent."""
    from batch_pipeline.flow.costs.estimate_json import documents_json, savings_json

    snapshot, copied = found.snapshot, sources.copied
    by_count = -(-snapshot.units // limits.requests)
    by_bytes = -(-snapshot.request_bytes // limits.bytes)
    document = {
        "job": spec.name,
        "partition": partition,
        "valid": True,
        "files": len(sources.files),
        "items": snapshot.items,
        "invalid_input": snapshot.count_set_aside("invalid_input"),
        "too_large": snapshot.count_set_aside("too_large"),
        "filtered": snapshot.count_set_aside("filtered"),
        "duplicates": snapshot.duplicates,
        "requests": snapshot.units,
        "request_bytes": snapshot.request_bytes,
        "batches_at_least": max(by_count, by_bytes),
    }
    details = {
        "filtered_by": snapshot.filtered_by,
        **savings_json(found),
        **documents_json(found),
        "source": None if copied is None else copied.as_json(),
        "warnings": warnings,
    }

    def show() -> None:
        console = SafeConsole()
        console.print(f"{spec.name} {partition}: valid; nothing was sent.", highlight=False)
        if copied is not None:
            told = f"The input, {redacted(copied.origin)}, was copied into the home."
            console.print(told, highlight=False, markup=False)
        table = facts_table()
        unsaid = ("job", "partition", "valid", "files" if copied is not None else "")
        for name, value in document.items():
            if name not in unsaid:
                table.add_row(name.replace("_", " "), f"{value:,}")
        console.print(table)
        if found.documents is not None:
            told = f"{found.documents.told()}."
            console.print(told, highlight=False, markup=False)
        show_savings(console, found)
        for warning in warnings:
            console.print(f"Note: {warning}.", highlight=False, markup=False)

    output.answer({**document, **details}, show)
