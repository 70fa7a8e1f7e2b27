"""`backup`: a copy of the ledger while it is in use."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Json
from batch_pipeline.errors import UsageError
from batch_pipeline.safe_text import one_line


def backup(
    context: typer.Context,
    to: Annotated[
        Path, typer.Argument(metavar="FILE", help="A new file, or a folder to make one in.")
    ],
    as_json: Json = False,
) -> None:
    """Copy the ledger, while it is in use, into a SQLite file that is a whole ledger."""
    from batch_pipeline.ledger.database import backup as copying

    pipeline = opening.open_pipeline(context)
    file = pipeline.settings.ledger_file
    if file is not None and not file.exists():
        raise UsageError(f"There is no ledger at {file} to copy.")
    at = datetime.now(UTC)
    target = to / f"ledger-{at:%Y%m%dT%H%M%SZ}.sqlite" if to.is_dir() else to
    target = target.absolute()
    rows = copying.copy_ledger(pipeline.ledger, target)
    counts = {name: rows[name] for name in ("night", "submission")}
    document = {"file": str(target), "bytes": target.stat().st_size, "rows": counts}
    told = f"{target}: {counts['night']:,} nights, {counts['submission']:,} submissions"
    context.obj.answer(document, lambda: print(one_line(told)))
