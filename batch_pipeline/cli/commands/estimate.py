"""`estimate`: what a night will cost and take. No message is sent."""

from __future__ import annotations

import textwrap
from decimal import Decimal
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from batch_pipeline.cli import opening
from batch_pipeline.cli.options import Job, Json, Partition
from batch_pipeline.cli.output import Output
from batch_pipeline.cli.savings import show_savings
from batch_pipeline.cli.tables import SafeConsole, plain_table
from batch_pipeline.wording import duration, usd

if TYPE_CHECKING:
    from batch_pipeline.flow.costs.estimate import Estimate
    from batch_pipeline.pricing.estimate import Spread

WIDTH = 80


def estimate(
    context: typer.Context, job: Job, partition: Partition = None, as_json: Json = False
) -> None:
    """Say what a night will cost and take, both ways, without sending any message."""
    from batch_pipeline.flow.costs import estimate as estimates

    pipeline, spec, key = opening.open_night(context, job, partition)
    show_estimate(context.obj, estimates.estimate(pipeline, spec, key))


def show_estimate(output: Output, found: Estimate) -> None:
    """What is still to be bought, its tokens, both ways beside each other, and the advice."""
    from batch_pipeline.flow.costs.estimate_json import as_json

    output.answer(as_json(found), lambda: _show(found))


def _show(found: Estimate) -> None:
    console = SafeConsole()

    def say(text: str, indent: str = "") -> None:
        lines = textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent or "  ")
        console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)

    say(f"{found.job} {found.partition}: estimate; no message was sent.")
    say(_what(found))
    tokens = plain_table()
    tokens.add_column("tokens a request")
    for name in ("mean", "P50", "P95"):
        tokens.add_column(name, justify="right")
    tokens.add_row("input", *_cells(found.work.prompt))
    tokens.add_row("output", *_cells(found.work.output))
    console.print(tokens)
    say(f"Input from {found.tokens.prompt}.")
    say(f"Output from {found.tokens.answer}.")
    fees = found.work.fees.get("realtime" if found.mode == "realtime" else "batch")
    if fees:
        how = "at most, for searches" if found.tokens.fees is None else "measured"
        say(f"Beside the tokens {usd(fees)} a request ({how}).")
    console.print(_ways_table(found))
    if found.documents is not None:
        say(f"{found.documents.told()}.")
    show_savings(console, found)
    if found.pilot_extra_usd:
        say(f"The pilot goes in real time, which adds {usd(found.pilot_extra_usd)}.")
    say(f"Time as batches: {found.batch_hours_from}.")
    say(f"Time in real time: {found.realtime_hours_from}.")
    say(f"Prices: {found.price.source}, as {found.price.matched_model}.")
    say(f"Recommended: mode {found.advice.mode}; {found.advice.reason}.")
    for warning in found.warnings:
        say(f"Note: {warning}.")


def _ways_table(found: Estimate) -> Table:
    """USD as batches and in real time, and the time."""
    ways = plain_table()
    ways.add_column("USD" if len(found.ways) > 1 else f"USD ({found.model_id})", overflow="fold")
    for name in ("as batches", "in real time", "saved"):
        ways.add_column(name, justify="right", no_wrap=True)
    for name, batch, realtime in _amounts(found):
        ways.add_row(name, usd(batch), usd(realtime), usd(realtime - batch))
    ways.add_row("time", _hours(found.batch_hours), _hours(found.realtime_hours), "")
    return ways


def _what(found: Estimate) -> str:
    snapshot = found.snapshot
    parts = [f"{snapshot.items:,} documents, {found.work.requests:,} requests to buy"]
    for count, why in (
        (snapshot.duplicates, "answered by an identical request"),
        (snapshot.count_set_aside("filtered"), "filtered"),
        (snapshot.count_set_aside("invalid_input", "too_large"), "cannot be sent"),
        (found.reused, "requests answered by earlier nights"),
        (found.already_bought, "requests bought before or at the API"),
    ):
        if count:
            parts.append(f"{count:,} {why}")
    return ", ".join(parts) + "."


def _amounts(found: Estimate) -> list[tuple[str, Decimal, Decimal]]:
    batch, realtime = found.batch, found.realtime
    return [
        ("expected", batch.expected, realtime.expected),
        (f"with the buffer of {found.buffer:.0%}", batch.buffered, realtime.buffered),
        ("if every request were P95", batch.p95, realtime.p95),
    ]


def _cells(spread: Spread) -> tuple[str, str, str]:
    return f"{spread.mean:,.0f}", f"{spread.p50:,.0f}", f"{spread.p95:,.0f}"


def _hours(hours: float) -> str:
    return duration(hours * 3600)
