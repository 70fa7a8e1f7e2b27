"""What the commands show: tables for people, documents for programs.

Nothing from a user's data is read as markup: an id may hold brackets. `status` has a module of its
own; what moves while a night runs is `live`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from batch_pipeline.cli.output import Output, as_typed
from batch_pipeline.wording import clipped, percent, usd

if TYPE_CHECKING:
    from batch_pipeline.flow.dataset.files import Sources
    from batch_pipeline.flow.planning.plan import ShardLimits
    from batch_pipeline.flow.prune import Pruned
    from batch_pipeline.flow.redrive import Redriven
    from batch_pipeline.flow.results.dead_letters import Group
    from batch_pipeline.jobs.loading import JobScan
    from batch_pipeline.jobs.spec import JobSpec
    from batch_pipeline.ledger.approvals import Approval
    from batch_pipeline.ledger.nights import Night
    from batch_pipeline.ledger.snapshots import NewSnapshot
    from batch_pipeline.reporting.report import Report
    from batch_pipeline.settings import Settings

SIMULATED = "[bold yellow]simulated: no money was spent, the answers are made up[/]"
# What fits beside the other columns on 80; `--json` has messages and ids whole.
MESSAGE_CHARACTERS = 160
ID_CHARACTERS = 40
NAMED_IDS = 20


def show_jobs(output: Output, settings: Settings, scan: JobScan) -> None:
    """The good jobs in a table, what is wrong with the others on stderr."""
    from batch_pipeline.jobs.partitions import newest_key

    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = [
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
    document: dict[str, Any] = {"jobs_dir": str(settings.jobs_dir), "jobs": rows}
    problems = "\n".join(str(error) for error in scan.errors.values())
    if problems:
        document["error"] = {"code": "invalid_declaration", "message": problems}

    def show() -> None:
        table = plain_table()
        table.add_column("job", overflow="fold")
        for name in ("model", "newest night", "schedule"):
            table.add_column(name, no_wrap=True)
        table.add_column("description")
        for row in rows:
            cells = (
                row["name"],
                row["model_id"],
                row["newest_partition"] or "none yet",
                row["schedule"] or "-",
                row["description"],
            )
            table.add_row(*map(Text, cells))
        Console().print(table)

    if rows or output.as_json:
        output.answer(document, show)
    elif not problems:
        output.say(f"No job is declared: there is no <job>/defs.yaml under {settings.jobs_dir}.")
    if problems:
        output.say(f"Error: {problems}")


def show_validation(
    output: Output,
    spec: JobSpec,
    partition: str,
    sources: Sources,
    snapshot: NewSnapshot,
    limits: ShardLimits,
    retires: str | None,
) -> None:
    """What a night would send; `retires` says when its model does, if that is soon."""
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
        "duplicates": snapshot.duplicates,
        "requests": snapshot.units,
        "request_bytes": snapshot.request_bytes,
        "batches_at_least": max(by_count, by_bytes),
        "warnings": [] if retires is None else [retires],
    }

    def show() -> None:
        console = Console()
        console.print(f"{spec.name} {partition}: valid; nothing was sent.", highlight=False)
        table = _facts_table()
        for name, value in document.items():
            if name not in ("job", "partition", "valid", "warnings"):
                table.add_row(name.replace("_", " "), f"{value:,}")
        console.print(table)
        if retires is not None:
            console.print(f"Note: {retires}.", highlight=False, markup=False)

    output.answer(document, show)


def show_report(output: Output, report: Report) -> None:
    """A night's outcome and cost."""
    from batch_pipeline.reporting.report_json import to_json

    def show() -> None:
        console = Console()
        state = "complete" if report.complete else "not complete"
        console.print(f"{report.job} {report.partition}: {state}", highlight=False)
        table = _facts_table()
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
            ("per good answer", usd(report.cost_per_succeeded_usd)),
            ("billed without use", usd(report.wasted_usd)),
        ]
        if report.estimated_usd is not None:
            rows.append(("estimated", usd(report.estimated_usd)))
        if report.cache_hit_rate:
            rows.append(("cache hit rate", percent(report.cache_hit_rate)))
        for row in rows:
            table.add_row(*row)
        console.print(table)
        if report.simulated:
            console.print(SIMULATED)
        _print_path(console, "Results", report.results_path)

    output.answer(to_json(report), show)


def show_dead_letters(output: Output, night: Night, groups: Sequence[Group], folder: str) -> None:
    """What was set aside, by reason and error."""
    document = {
        "job": night.job,
        "partition": night.partition,
        "dead_letter": sum(group.items for group in groups),
        "groups": [asdict(group) for group in groups],
        "path": folder,
    }

    def show() -> None:
        console = Console()
        if not groups:
            console.print(f"{night.job} {night.partition}: nothing is set aside.", highlight=False)
            return
        table = plain_table()
        table.add_column("items", justify="right", no_wrap=True)
        table.add_column("reason", no_wrap=True)
        table.add_column("error", ratio=3)
        table.add_column("for example", overflow="fold", ratio=2)
        for group in groups:
            error = ": ".join(filter(None, (group.error_type, group.example_message)))
            if group.systematic:
                error = f"systematic: {error}"
            table.add_row(
                f"{group.items:,}",
                group.reason,
                Text(clipped(error, MESSAGE_CHARACTERS)),
                Text(", ".join(clipped(text, ID_CHARACTERS) for text in group.example_ids)),
            )
        console.print(table)
        _print_path(console, "With their input", folder)

    output.answer(document, show)


def show_approval(output: Output, night: Night, given: Approval) -> None:
    """What was recorded, and what to do now."""
    document = {"job": night.job, "partition": night.partition, **given.as_json()}

    def show() -> None:
        print(
            f"{night.job} {night.partition}: the {given.gate} gate was overruled by "
            f"{given.approved_by}: {given.reason}"
        )
        print(f"Go on with: {as_typed()} run {night.job} --partition {night.partition}")

    output.answer(document, show)


def show_pruned(output: Output, job: str, before: str, pruned: Pruned, *, dry_run: bool) -> None:
    """What went of which nights, and which stay."""
    from batch_pipeline.flow import prune

    document = {"job": job, "before": before, "dry_run": dry_run, **pruned.as_json()}

    def show() -> None:
        for line in prune.describe(pruned, dry_run=dry_run):
            print(f"{job} {line}" if pruned.freed or pruned.kept else line)

    output.answer(document, show)


def say_redriven(output: Output, redriven: Redriven) -> None:
    """Which dead letters go again, before the night runs on, and which cannot."""
    sent, missing = redriven.sent, redriven.missing
    if missing:
        ids = ", ".join(missing[:NAMED_IDS]) + (", …" if len(missing) > NAMED_IDS else "")
        output.say(f"Not in the input any more, their dead letters stay ({len(missing):,}): {ids}")
    if not sent:
        output.say("No dead letter is to be sent again.")
        return
    by_reason = ", ".join(f"{count:,} {status}" for status, count in sorted(sent.items()))
    output.say(f"Sent again: {by_reason}. From here on `run` goes on with it.")


def plain_table() -> Table:
    """A table with columns close together, for 80 characters."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)


def _facts_table() -> Table:
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    return table


def _print_path(console: Console, what: str, path: str) -> None:
    console.print(f"{what}: {path}", soft_wrap=True, highlight=False, markup=False)
