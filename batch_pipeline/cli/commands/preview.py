"""`preview`: requests as the API gets them, with tokens and cost, before anything is sent."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batch_pipeline.cli import opening, request_text
from batch_pipeline.cli.options import Job, Json, Partition
from batch_pipeline.cli.tables import SafeConsole, print_path
from batch_pipeline.errors import UsageError
from batch_pipeline.wording import usd

if TYPE_CHECKING:
    from batch_pipeline.flow.looking.preview import Preview, Rendered


def preview(
    context: typer.Context,
    job: Job,
    partition: Partition = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=100, help="How many rows.")] = 3,
    item_id: Annotated[
        str | None, typer.Option("--id", help="The row with this id, in place of the first ones.")
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write a page for a browser, and say where it is.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="One request's parameters to the byte, nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show rendered requests, their tokens, and what one and all of them cost."""
    from batch_pipeline.flow.looking import preview as looking

    if raw and (html or as_json):
        raise UsageError("--raw is by itself: it cannot be had together with --html or --json.")
    pipeline, spec, key = opening.open_night(context, job, partition)
    if raw:
        sys.stdout.buffer.write(looking.raw(pipeline, spec, key, item_id))
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        return
    found = looking.preview(pipeline, spec, key, rows, item_id)
    document: dict[str, Any] = found.as_json()
    if html:
        from batch_pipeline.flow.looking import preview_page

        document["page"] = preview_page.write(pipeline, found)
    context.obj.answer(document, lambda: _show(found, document.get("page")))


def _show(found: Preview, page: str | None) -> None:
    console = SafeConsole()

    def say(text: str = "") -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    shown = f"{len(found.rows)} rows"
    if found.requests is not None:
        shown = f"{len(found.rows)} of {found.requests:,} requests"
    say(f"{found.job} {found.partition}: {shown}; nothing was sent.")
    for note in found.notes:
        say(f"Note: {note}.")
    told: str | None = None
    for number, row in enumerate(found.rows):
        say()
        say(f"=== {row.id} ({row.source}:{row.row})")
        if row.request is not None:
            say(request_text.of(row.request, with_schema=number == 0))
        say(_facts(row, told))
        told = row.tokens_from or told
    say()
    if found.night is not None:
        amounts = f"{usd(found.night.batch)} as batches, {usd(found.night.realtime)} in real time"
        night = f"{amounts} ({found.night_from})"
    else:
        night = found.night_from
    say(f"The night: {night}.")
    say(f"An answer counts with {found.output_tokens:,.0f} tokens ({found.output_from}).")
    if page is not None:
        print_path(console, "Page", page)


def _facts(row: Rendered, told: str | None) -> str:
    """Tokens and cost of a row; where the tokens are from, unless the row before has `told` it."""
    if row.cost is None or row.input_tokens is None:
        return f"--- not sent: {row.problem}"
    route = f"route {row.route}, " if row.route else ""
    source = "" if row.tokens_from == told else f" ({row.tokens_from})"
    text = (
        f"--- {route}{row.input_tokens:,} tokens{source}: "
        f"{usd(row.cost.batch)} as a batch, {usd(row.cost.realtime)} in real time"
    )
    return text if row.problem is None else f"{text}; {row.problem}"
