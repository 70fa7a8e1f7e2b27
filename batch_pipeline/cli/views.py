"""What the commands show: tables for people, documents for programs, a live bar in between."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from batch_pipeline.cli.output import Output
from batch_pipeline.declarations import JobScan
from batch_pipeline.flow import progress
from batch_pipeline.flow.dead_letter import Group
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import ShardLimits
from batch_pipeline.flow.sources import Sources
from batch_pipeline.money.report import Report, to_json
from batch_pipeline.money.wording import part, usd
from batch_pipeline.partitions import newest_key
from batch_pipeline.settings import Settings
from batch_pipeline.spec import JobSpec
from batch_pipeline.state.nights import NewSnapshot, Night
from batch_pipeline.state.submissions import Submission

log = logging.getLogger(__name__)

# Without a terminal to draw on, a line in the log at least this often.
LOG_SECONDS = 300.0
SIMULATED = "[bold yellow]simulated: no money was spent, the answers are made up[/]"

stderr = Console(stderr=True)


def announce_account(output: Output, pipeline: Pipeline) -> None:
    """Say whose money is spent, before it is."""
    account = pipeline.account
    kind = "simulator, nothing is billed" if account.simulated else "real API, billed"
    output.say(f"Account: {account.name} ({kind})")


@contextmanager
def live_progress() -> Iterator[Callable[[progress.Progress], None]]:
    """A function to call with each new state: draws a bar on a terminal, logs elsewhere."""
    if not stderr.is_terminal:
        yield _logged_progress()
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        console=stderr,
    )
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, [_log_above(stderr)]
    task = bar.add_task("starting", total=None, facts="")

    def watch(state: progress.Progress) -> None:
        name = f"{state.night.job} {state.night.partition}"
        bar.update(
            task,
            description=name,
            completed=state.settled,
            total=state.items or 1,
            facts=_facts(state),
        )

    try:
        with bar:
            yield watch
    finally:
        root.handlers = handlers


def show_jobs(output: Output, settings: Settings, scan: JobScan) -> None:
    now = datetime.now(UTC)
    rows = [
        {
            "name": spec.name,
            "description": spec.description,
            "model_id": spec.model_id,
            "partitions": "daily" if spec.partitions else "one",
            "newest_partition": newest_key(spec.partitions, now),
            "schedule": spec.schedule,
            "input_path": spec.input.path,
        }
        for spec in scan.specs.values()
    ]
    errors = [str(error) for error in scan.errors]
    document = {"jobs_dir": str(settings.jobs_dir), "jobs": rows, "errors": errors}

    def show() -> None:
        table = Table("job", "description", "model", "partitions", "schedule")
        for row in rows:
            table.add_row(
                row["name"],
                row["description"],
                row["model_id"],
                str(row["newest_partition"]) + (" and before" if row["schedule"] else ""),
                row["schedule"] or "-",
            )
        Console().print(table)

    output.answer(document, show)
    for error in errors:
        output.say(f"Error: {error}")


def show_validation(
    output: Output,
    spec: JobSpec,
    partition: str,
    sources: Sources,
    snapshot: NewSnapshot,
    limits: ShardLimits,
) -> None:
    by_count = -(-snapshot.units // limits.requests)
    by_bytes = -(-snapshot.request_bytes // limits.bytes)
    document = {
        "job": spec.name,
        "partition": partition,
        "valid": True,
        "files": len(sources.files),
        "items": snapshot.items,
        "invalid_input": snapshot.invalid_input,
        "too_large": snapshot.too_large,
        "duplicates": snapshot.duplicates,
        "requests": snapshot.units,
        "request_bytes": snapshot.request_bytes,
        "batches_at_least": max(by_count, by_bytes),
    }

    def show() -> None:
        table = Table(title=f"{spec.name} {partition}: valid, nothing was sent", show_header=False)
        for name, value in document.items():
            if name not in ("job", "partition", "valid"):
                table.add_row(name.replace("_", " "), f"{value:,}")
        Console().print(table)

    output.answer(document, show)


def show_status(output: Output, states: Sequence[progress.Progress], *, details: bool) -> None:
    document = {"nights": [_status_document(state, details=details) for state in states]}

    def show() -> None:
        console = Console()
        table = Table(
            "job", "partition", "account", "state", "items", "done", "set aside", "batches"
        )
        table.add_column("waiting", justify="right")
        table.add_column("cost", justify="right")
        for state in states:
            table.add_row(
                state.night.job,
                state.night.partition,
                state.night.account + (" (simulated)" if state.account.simulated else ""),
                _state_word(state),
                f"{state.items:,}",
                part(state.settled, state.items),
                f"{state.dead_letter:,}",
                f"{state.batches_ended}/{state.batches}",
                f"{state.waiting:,}",
                usd(state.total_cost_usd),
            )
        console.print(table)
        for state in states if details else ():
            console.print(_batches_table(state))

    output.answer(document, show)


def show_report(output: Output, report: Report) -> None:
    def show() -> None:
        console = Console()
        state = "complete" if report.complete else "not complete yet"
        table = Table(title=f"{report.job} {report.partition}: {state}", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        rows = [
            ("items", f"{report.items:,}"),
            ("succeeded", f"{report.succeeded:,}"),
            ("set aside (dead letters)", f"{report.dead_letter:,}"),
            ("batches", f"{report.batches:,}"),
            ("input tokens", f"{report.tokens.input_tokens:,}"),
            ("output tokens", f"{report.tokens.output_tokens:,}"),
            ("billed as batches", usd(report.costs.batch_usd)),
            ("billed in real time", usd(report.costs.realtime_usd)),
            ("all in real time", usd(report.costs.counterfactual_usd)),
            ("saved", usd(report.costs.savings_usd)),
            ("per document", usd(report.cost_per_document_usd)),
        ]
        for row in rows:
            table.add_row(*row)
        console.print(table)
        if report.simulated:
            console.print(SIMULATED)
        console.print(f"Results: {report.results_path}", soft_wrap=True, highlight=False)

    output.answer(to_json(report), show)


def show_dead_letters(output: Output, night: Night, groups: Sequence[Group], folder: str) -> None:
    document = {
        "job": night.job,
        "partition": night.partition,
        "dead_letter": sum(group.items for group in groups),
        "groups": [asdict(group) for group in groups],
        "path": folder,
    }

    def show() -> None:
        table = Table("items", "reason", "error", "systematic", "for example")
        for group in groups:
            table.add_row(
                f"{group.items:,}",
                group.reason,
                f"{group.error_type or ''}: {group.example_message or ''}"[:120],
                "yes" if group.systematic else "",
                ", ".join(group.example_ids),
            )
        Console().print(table)
        Console().print(f"With their input: {folder}", soft_wrap=True, highlight=False)

    output.answer(document, show)


def _logged_progress() -> Callable[[progress.Progress], None]:
    last_text, last_at = "", 0.0

    def watch(state: progress.Progress) -> None:
        nonlocal last_text, last_at
        text = f"{state.night.job} {state.night.partition}: {state.describe()}"
        at = time.monotonic()
        if text != last_text or at - last_at >= LOG_SECONDS:
            log.info(text)
            last_text, last_at = text, at

    return watch


def _log_above(console: Console) -> logging.Handler:
    return RichHandler(
        console=console, show_path=False, show_level=False, omit_repeated_times=False
    )


def _facts(state: progress.Progress) -> str:
    parts = [f"{state.batches_ended}/{state.batches} batches"]
    if state.waiting:
        parts.append(f"{state.waiting:,} waiting")
    if state.dead_letter:
        parts.append(f"{state.dead_letter:,} set aside")
    eta = progress.eta_seconds(state)
    if eta is not None and not state.complete:
        parts.append(f"about {eta / 60:.0f} min left" if eta >= 90 else f"about {eta:.0f} s left")
    parts.append(usd(state.total_cost_usd) + (" (simulated)" if state.account.simulated else ""))
    return ", ".join(parts)


def _state_word(state: progress.Progress) -> str:
    if state.complete:
        return "complete"
    if state.night.held_at is not None:
        return "held"
    if state.account.paused_reason is not None:
        return "paused"
    if state.night.pilot is not None and not state.night.pilot["open"]:
        return "gate closed"
    return "running" if state.in_flight or state.to_collect else "open"


def _status_document(state: progress.Progress, *, details: bool) -> dict[str, Any]:
    document = {
        **progress.as_json(state),
        "state": _state_word(state),
        "statuses": state.statuses,
        "waiting": state.waiting,
        "in_flight": state.in_flight,
        "unknown": state.unknown,
        "to_collect": state.to_collect,
        "batches_ended": state.batches_ended,
        "error_rate": round(state.error_rate, 6),
        "eta_seconds": progress.eta_seconds(state),
        "cost_usd": float(state.total_cost_usd),
        "pilot": state.night.pilot,
        "paused_reason": state.account.paused_reason,
    }
    if details:
        document["submissions"] = [_submission_document(s) for s in state.submissions]
    return document


def _submission_document(submission: Submission) -> dict[str, Any]:
    return {
        "batch_id": submission.batch_id,
        "mode": submission.engine,
        "state": submission.state,
        "requests": submission.requests,
        "cost_usd": None if submission.cost_usd is None else float(submission.cost_usd),
        "accepted_at": _iso(submission.accepted_at),
        "expires_at": _iso(submission.expires_at),
        "ended_at": _iso(submission.ended_at),
        "error": submission.error,
    }


def _batches_table(state: progress.Progress) -> Table:
    title = f"{state.night.job} {state.night.partition}"
    table = Table("batch", "mode", "state", "requests", "accepted", "ended", "note", title=title)
    for submission in state.submissions:
        table.add_row(
            submission.batch_id or "-",
            submission.engine,
            submission.state,
            f"{submission.requests:,}",
            _iso(submission.accepted_at) or "-",
            _iso(submission.ended_at) or "-",
            submission.error or "",
        )
    return table


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
