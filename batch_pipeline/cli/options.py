"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Job = Annotated[str, typer.Argument(metavar="JOB", help="Name of a declared job.")]
Partition = Annotated[
    str | None,
    typer.Option(
        "--partition", "-p", help="The night's partition; by default the one that is due."
    ),
]
NoWait = Annotated[
    bool,
    typer.Option(
        "--no-wait", help="Do what is possible now, then end; with code 4 if not complete."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
