"""`export`: the rows of a night as JSON Lines, CSV, Parquet or a spreadsheet."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Job, Json, Partition
from batch_pipeline.cli.output import COMPLETE, NOT_COMPLETE
from batch_pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    XLSX = "xlsx"


class Rows(StrEnum):
    RESULTS = "results"
    TYPED = "typed"
    DEAD_LETTER = "dead_letter"


def export(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    kind: Annotated[
        Format, typer.Option("--format", help="How the rows are written down.")
    ] = Format.JSONL,
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="These columns alone, in this order; commas between."),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help="Only rows of this status; repeatable."),
    ] = None,
    dataset: Annotated[
        Rows, typer.Option(help="`typed` where the job declares `output`.")
    ] = Rows.RESULTS,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to; without it jsonl and csv go to stdout."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Write a night's results to a file of another format, row by row."""
    from batch_pipeline.flow.answers.outcomes import Status
    from batch_pipeline.jobs.partitions.partitions import default_key
    from batch_pipeline.jobs.yaml_files.loading import find_job
    from batch_pipeline.reading import datasets
    from batch_pipeline.reading import export as exporting
    from batch_pipeline.storage.files import Files

    unknown = sorted(set(status or ()) - set(Status))
    if unknown:
        raise UsageError(f"--status {unknown[0]} is none of {', '.join(Status)}")
    if to is None and as_json:
        raise UsageError("--json describes what was written, so that the rows need --to FILE")
    if to is None and kind in exporting.WHOLE_FILES:
        raise UsageError(f"--format {kind} is no stream of text; name a file with --to FILE")
    settings = opening.load_settings(context.obj)
    if partition is None:
        partition = default_key(find_job(settings.jobs_dir, job).partitions, datetime.now(UTC))
    files = Files(settings.home)
    found = datasets.find(files, job, partition, datasets.Dataset(dataset), "read")
    complete = datasets.is_complete(files, job, partition)
    wanted = None if columns is None else [name.strip() for name in columns.split(",")]

    def write(target: BinaryIO) -> int:
        return exporting.export(found, kind.value, target, columns=wanted, statuses=status or ())

    rows = _to_stdout(write) if to is None else _to_file(write, to)
    context.obj.say(f"{rows:,} rows of {job} {partition}{f' written to {to}' if to else ''}")
    if not complete:
        context.obj.say("The night is not complete yet: rows are missing.")
    document = {
        "job": job, "partition": partition, "format": kind.value, "dataset": dataset.value,
        "rows": rows, "path": None if to is None else str(to.absolute()), "complete": complete,
    }  # fmt: skip
    context.obj.answer(document, lambda: None)
    return COMPLETE if complete else NOT_COMPLETE


def _to_file(write: Callable[[BinaryIO], int], path: Path) -> int:
    from batch_pipeline.reading.export import written

    with written(path) as file:
        return write(file)


def _to_stdout(write: Callable[[BinaryIO], int]) -> int:
    try:
        rows = write(sys.stdout.buffer)
        sys.stdout.flush()
    except BrokenPipeError:
        # `head` has read enough; what is left in the buffer must not be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(COMPLETE) from None
    return rows
