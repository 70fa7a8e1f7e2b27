"""`init`: a new job, guessed from a file of documents."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from batch_pipeline.cli.options import Json
from batch_pipeline.cli.output import as_typed
from batch_pipeline.cli.tables import SafeConsole, print_path

JOBS_DIR = "BATCH_PIPELINE_JOBS_DIR"


def init(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new job's name.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Documents to guess columns, id and sizes from; by default three examples.",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir", help=f"The folder of jobs; by default that of {JOBS_DIR}, else ./jobs."
        ),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="The column that names an item.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a new job that works: its declaration with comments, a prompt, a schema."""
    from batch_pipeline.scaffolding import job_files

    jobs_dir = folder or Path(os.environ.get(JOBS_DIR) or "jobs")
    job = job_files.new_job(jobs_dir / name, source, root=Path.cwd(), id_column=id_column)
    job_files.write(job)
    document = {
        "job": job.name,
        "folder": str(job.folder.absolute()),
        "files": list(job.files),
        "guessed": asdict(job.guessed),
    }

    def show() -> None:
        console = SafeConsole()
        print_path(console, "Written", str(job.folder.absolute()))
        found = job.guessed
        print_path(console, "Id column", found.id_column)
        unit = "bytes" if found.of_files else "characters"
        size = f"{found.mean_length:,} {unit} on average"
        print_path(console, "Asked about", f"{found.text_column} ({size})")
        current = os.environ.get(JOBS_DIR)
        if current is None or Path(current).absolute() != jobs_dir.absolute():
            print_path(console, "Next", f"export {JOBS_DIR}={jobs_dir.absolute()}")
        print_path(console, "Then", f"{as_typed()} validate {name}")

    context.obj.answer(document, show)
