"""How commands show what a job's declaration saves, and what each model is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from batch_pipeline.cli.tables import SafeConsole, plain_table
from batch_pipeline.reporting.report.avoided import (
    Avoided,
    Cascade,
    asked_otherwise,
    not_asked,
    total_usd,
)
from batch_pipeline.wording import usd

if TYPE_CHECKING:
    from batch_pipeline.flow.costs.estimate import Estimate
    from batch_pipeline.flow.costs.estimate_ways import AskedWay


def show_savings(console: SafeConsole, found: Estimate) -> None:
    """Requests by model where several are asked, the table of what is saved, and what stands behind
    its rows in a sentence each."""
    if len(found.ways) > 1:
        console.print(ways_table(found.ways, found.mode))
    show_avoided(console, found.avoided)
    if found.cascade is not None:
        say_cascade(console, found.cascade, "cost")
    if found.caching is not None and found.caching.requests:
        include = "include" if found.caching.included else "do not include"
        console.print(
            f"Caching: {found.caching.summary}. The expected amounts {include} it.",
            highlight=False, markup=False,
        )  # fmt: skip


def show_avoided(console: SafeConsole, found: Sequence[Avoided]) -> None:
    """The table of what is saved, if anything is; what depends on the pilot below it."""
    if found:
        console.print(avoided_table(found))
    for each in found:
        if each.conditional:
            console.print(
                f"{each.requests:,} near duplicates are bought unless the pilot shows that they "
                f"agree with their leaders; then they save {usd(each.usd)} more.",
                highlight=False, markup=False,
            )  # fmt: skip


def say_cascade(console: SafeConsole, found: Cascade, costs: str) -> None:
    """What the escalation comes to; `costs` is the verb."""
    gain = "less" if found.saved_usd >= 0 else "more"
    console.print(
        f"Escalation: the requests that may be escalated {costs} {usd(found.usd)}, second answers "
        f"included; asking {found.model_id} at first would cost {usd(found.at_first_usd)}. That is "
        f"{usd(abs(found.saved_usd))} {gain}.",
        highlight=False, markup=False,
    )  # fmt: skip


def ways_table(ways: Iterable[AskedWay], mode: str) -> Table:
    """Requests, tokens and USD by route and model."""
    table = plain_table()
    table.add_column("expected", overflow="fold")
    table.add_column("model", overflow="fold")
    for name in ("requests", "input tokens", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    for way in ways:
        counts = (f"{way.requests:,}", f"{way.input_tokens:,}")
        amount = usd(way.expected("realtime" if mode == "realtime" else "batch"))
        table.add_row(way.label, way.model_id, *counts, amount)
    return table


def avoided_table(found: Sequence[Avoided]) -> Table:
    """What is saved, by cause, with the sum: first what is not asked, then what is asked otherwise.

    Only amounts are added up over both: a request may be routed, escalated and cached.
    """
    table = plain_table()
    table.add_column("saved by", overflow="fold")
    for name in ("documents", "requests", "input tokens", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    dropped, otherwise = not_asked(found), asked_otherwise(found)
    for each in (*dropped, *otherwise):
        table.add_row(each.label, *_counts([each]), usd(each.usd))
    if len(dropped) + len(otherwise) > 1:
        counts = ("", "", "") if otherwise else _counts(dropped)
        table.add_row("all", *counts, usd(total_usd(found)))
    return table


def _counts(rows: Sequence[Avoided]) -> tuple[str, str, str]:
    documents = sum(each.documents for each in rows)
    requests = sum(each.requests for each in rows)
    tokens = sum(each.input_tokens for each in rows)
    return f"{documents:,}", f"{requests:,}", f"{tokens:,}"
