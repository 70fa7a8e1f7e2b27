"""The metadata of materializations and observations: headlines first, units in the names.

Numbers that Dagster plots are rounded, since it prints them as they come.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ParamSpec

import dagster as dg

from batch_pipeline import safe_text
from batch_pipeline.flow import paths
from batch_pipeline.flow.night_input import InputTaken
from batch_pipeline.flow.outcomes import Status
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import eta, progress, warnings
from batch_pipeline.flow.status.account_state import AccountState, troubles_of
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.partitions import path_patterns
from batch_pipeline.jobs.spec import AlertsSpec, JobSpec
from batch_pipeline.ledger.admission.admission import Waiting
from batch_pipeline.ledger.admission.night_state import Kind, NightState
from batch_pipeline.ledger.approvals import Approval, Gate, lets_go, needs_review
from batch_pipeline.orchestration.names import COLLECTED_RESULTS, COST_REPORT, DEAD_LETTER
from batch_pipeline.orchestration.shown import images
from batch_pipeline.orchestration.shown.job_description import cell
from batch_pipeline.pricing.tokens import TOKENS
from batch_pipeline.reporting import report_markdown
from batch_pipeline.reporting.report import Report, SetAside
from batch_pipeline.wording import usd

Metadata = Mapping[str, dg.MetadataValue | str | int | float | bool]
P = ParamSpec("P")

ROW_COUNT = "dagster/partition_row_count"
URI = "dagster/uri"
GREEN, RED, GREY = "#1f9d55", "#d64545", "#c4c4cc"
MOST_GROUPS = 8


def _safely(made: Callable[P, Metadata]) -> Callable[P, Metadata]:
    """A function whose metadata hold data of users and of the API as they may be shown."""

    @functools.wraps(made)
    def safely(*args: P.args, **kwargs: P.kwargs) -> Metadata:
        return safe_text.shown(made(*args, **kwargs))

    return safely


@_safely
def of_input(spec: JobSpec, taken: InputTaken, notices: Sequence[str] = ()) -> Metadata:
    """A night's input, and what a person should know of the job's model and parameters."""
    snapshot = taken.snapshot
    filtered = snapshot.count_set_aside(Status.FILTERED)
    aside = snapshot.count_set_aside() - filtered
    headline = f"{snapshot.items:,} documents, {snapshot.units:,} requests"
    if filtered:
        headline += f", {filtered:,} filtered"
    if aside:
        headline += f", {aside:,} set aside"
    if snapshot.duplicates:
        headline += f", {snapshot.duplicates:,} answered by an identical one"
    return {
        "summary": f"{headline} ({taken.note})",
        ROW_COUNT: snapshot.items,
        "requests": snapshot.units,
        "invalid_input": snapshot.count_set_aside("invalid_input"),
        "too_large": snapshot.count_set_aside("too_large"),
        **({"filtered": filtered} if filtered else {}),
        "duplicates": snapshot.duplicates,
        "request_megabytes": round(snapshot.request_bytes / 1e6, 3),
        **_origin(spec, taken),
        **_estimate(taken.night.estimate),
        **_avoided(taken.night.estimate),
        **({"warnings": "; ".join(notices)} if notices else {}),
    }


def _origin(spec: JobSpec, taken: InputTaken) -> dict[str, dg.MetadataValue | str]:
    """Where the rows are from: a path, or a source and which version of it was read."""
    source = taken.snapshot.source
    if source is None:
        partition = taken.night.partition
        path = path_patterns.fill(spec.input.origin, spec.partitions, partition)
        return {"path": dg.MetadataValue.path(safe_text.one_line(path))}
    version = {} if source["version"] is None else {"source_version": source["version"]}
    return {"source": source["origin"], **version}


def _avoided(found: Mapping[str, Any] | None) -> dict[str, dg.MetadataValue | float]:
    """What the declaration saves, by cause, as expected; what depends on the pilot is left out."""
    rows = [] if found is None else found.get("avoided", [])
    rows = [row for row in rows if not row.get("conditional")]
    if not rows:
        return {}
    lines = [
        f"| {cell(row['cause'])} | {row['documents']:,} | {row['requests']:,} "
        f"| {row['input_tokens']:,} | {usd(Decimal(str(row['avoided_usd'])))} |"
        for row in rows
    ]
    head = ["| saved by | documents | requests | input tokens | USD |", "|---|--:|--:|--:|--:|"]
    return {
        "avoided": dg.MetadataValue.md("\n".join([*head, *lines])),
        "avoided_usd": round(sum(row["avoided_usd"] for row in rows), 6),
    }


def _estimate(found: Mapping[str, Any] | None) -> dict[str, dg.MetadataValue | float]:
    """What the night is expected to cost, as a number to plot and as a table."""
    if found is None:
        return {}
    batch, realtime, tokens = found["batch"], found["realtime"], found["tokens"]
    rows = [
        ("expected, USD", batch["expected_usd"], realtime["expected_usd"]),
        (f"with the buffer of {found['buffer']:.0%}", *_both(found, "with_buffer_usd")),
        ("if every request were P95", *_both(found, "at_p95_usd")),
        ("hours", round(batch["hours"], 1), round(realtime["hours"], 1)),
    ]
    lines = [f"| {name} | {one:,} | {other:,} |" for name, one, other in rows]
    advice = found["recommendation"]
    caching = found.get("caching")
    about = f" Caching: {caching['summary']}." if caching else ""
    table = "\n".join(["| | as batches | in real time |", "|---|---|---|", *lines])
    return {
        "expected_cost_usd": found["expected_usd"],
        "estimate": dg.MetadataValue.md(
            f"{table}\n\nInput tokens from {tokens['input_from']}; output from "
            f"{tokens['output_from']}.{about} Recommended: {advice['mode']}; {advice['reason']}."
        ),
    }


def _both(found: Mapping[str, Any], name: str) -> tuple[float, float]:
    return found["batch"][name], found["realtime"][name]


@_safely
def of_waiting_pilot(waiting: Waiting) -> Metadata:
    return {
        "summary": f"no verdict yet: {waiting}",
        "requests_waiting": waiting.requests,
    }


@_safely
def of_gate(partition: str, verdict: Mapping[str, Any], given: Sequence[Approval]) -> Metadata:
    """The pilot's verdict on its check; with the partition, since a check's history has no column
    for that."""
    return {
        "partition": partition,
        "verdict": ("; ".join(verdict["reasons"]) or "open")
        + _approved(verdict, given)
        + _came_to(verdict),
        **of_page(verdict),
        "sample_requests": verdict["sample"],
        **_rates(verdict),
        **_projection(verdict),
        "examples": " | ".join(verdict["examples"]) or "none",
    }


def _rates(verdict: Mapping[str, Any]) -> dict[str, float]:
    return {
        "error_rate_percent": _percent(verdict["error_rate"]),
        "truncated_rate_percent": _percent(verdict["truncated_rate"]),
        "refused_rate_percent": _percent(verdict["refused_rate"]),
        "invalid_output_rate_percent": _percent(verdict["invalid_output_rate"]),
    }


def _projection(verdict: Mapping[str, Any]) -> dict[str, float]:
    """What the night is projected to cost, and the interval where there is one."""
    found = {
        "projected_cost_usd": verdict["projected_usd"],
        "projected_low_usd": verdict["projected_low_usd"],
        "projected_high_usd": verdict["projected_high_usd"],
    }
    return {name: round(usd, 6) for name, usd in found.items() if usd is not None}


@_safely
def of_pilot(verdict: Mapping[str, Any], given: Sequence[Approval], *, simulated: bool) -> Metadata:
    reasons = f" ({'; '.join(verdict['reasons'])})" if verdict["reasons"] else ""
    gate = "gate open" if verdict["open"] else "gate closed"
    return {
        "summary": f"{gate}{reasons}{_approved(verdict, given)}{_came_to(verdict)}",
        **of_page(verdict),
        "sample_requests": verdict["sample"],
        **_rates(verdict),
        **_projection(verdict),
        "mean_input_tokens": round(verdict["mean_input_tokens"], 1),
        "mean_output_tokens": round(verdict["mean_output_tokens"], 1),
        "cache_read_percent": _percent(verdict["cache_read_share"]),
        **_took(verdict),
        **_near_duplicates(verdict),
        **_routes(verdict),
        "simulated": simulated,
    }


def _near_duplicates(verdict: Mapping[str, Any]) -> dict[str, str]:
    found = verdict.get("near_duplicates")
    return {} if found is None else {"near_duplicates": found["reason"]}


def _routes(verdict: Mapping[str, Any]) -> dict[str, str | float]:
    """The same by route, and what was escalated, where there is any of it."""
    found: dict[str, str | float] = {}
    if verdict.get("escalated_rate"):
        found["escalated_percent"] = _percent(verdict["escalated_rate"])
    if verdict.get("routes"):
        found["routes"] = "; ".join(
            f"{route['route'] or 'none'} ({route['model_id']}): {route['sample']:,} tried, "
            f"{route['error_rate']:.1%} failed, "
            f"projected {usd(Decimal(str(route['projected_usd'])))}"
            for route in verdict["routes"]
        )
    return found


def _took(verdict: Mapping[str, Any]) -> dict[str, float]:
    names = ("latency_p50_ms", "latency_p95_ms", "turnaround_seconds")
    return {name: round(verdict[name], 1) for name in names if verdict.get(name) is not None}


def _approved(verdict: Mapping[str, Any], given: Sequence[Approval]) -> str:
    """Who let a pilot go that is closed or to be reviewed, or that this is still to be done."""
    review = bool(verdict["open"]) and needs_review(verdict)
    of_pilot = [approval for approval in given if approval.gate is Gate.PILOT]
    if verdict["open"] and not review:
        return ""
    if not lets_go(verdict, given):
        return "; waits for a person's review" if review else ""
    said = "approved" if review else "overruled"
    return f"; {said} by {of_pilot[-1].approved_by}: {of_pilot[-1].reason}"


def of_page(verdict: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Where the pilot's page is; Dagster makes a link of an address, and of a path one to copy."""
    page = verdict.get("page")
    if page is None:
        return {}
    address = page.startswith(("http://", "https://"))
    made = dg.MetadataValue.url(page) if address else dg.MetadataValue.path(page)
    return {"pilot_page": made}


def _came_to(verdict: Mapping[str, Any]) -> str:
    """The sample in words: tried, failed, projected, and fields that are always the same."""
    if not verdict["sample"]:
        return ""
    failed = round(verdict["error_rate"] * verdict["judged"])
    cost = usd(Decimal(str(verdict["projected_usd"])))
    text = f"; {verdict['sample']:,} tried, {failed:,} failed, the night would cost {cost}"
    same = verdict.get("always_same") or ()
    return f"{text}; always the same: {', '.join(same)}" if same else text


@_safely
def of_submission(
    state: Progress,
    why: NightState | None,
    alert_limits: AlertsSpec,
    accounts: Sequence[AccountState] = (),
) -> Metadata:
    """Where a night stands; `why` says why requests wait, `accounts` are its owner's.

    The same keys for the submission and for the observations that follow it: Dagster shows the
    newest value of each key, so that a key of the former alone would be out of date on the page.
    """
    waiting = "nothing waits"
    if state.waiting:
        waiting = f"{state.waiting:,} requests wait{f': {why}' if why else ''}"
    elif why is not None and why.kind is Kind.HELD:
        # What a terminated run had claimed counts as in flight, though its calls are not made.
        waiting = str(why)
    simulated = "simulated; " if state.account.simulated else ""
    return {
        "summary": "; ".join([simulated + headline(state), *eta.describe(state)]),
        "waiting": waiting,
        "what_follows": what_follows(state.night.job, state),
        "warnings": "; ".join(warning.message for warning in warnings.of(state, alert_limits))
        or "none",
        **_deadline(state),
        **_caching(state),
        **_accounts(accounts),
        **_numbers(state),
    }


def _accounts(accounts: Sequence[AccountState]) -> dict[str, dg.MetadataValue]:
    """The accounts as a table, where there are several."""
    if len(accounts) < 2:
        return {}
    rows = [
        f"| {cell(each.name)} | {cell(each.organisation)} | {each.word} "
        f"| {each.at_api.queued:,} | {each.room:,} | {each.month} |"
        for each in accounts
    ]
    head = ["| account | organisation | state | queued | room | this month |",
            "|---|---|---|--:|--:|--:|"]  # fmt: skip
    troubles = [f"\n- {cell(line)}" for line in troubles_of(accounts)]
    return {"accounts": dg.MetadataValue.md("\n".join([*head, *rows, *troubles]))}


def _deadline(state: Progress) -> dict[str, str]:
    said = progress.deadline_details(state.night, state.at)
    return {} if said is None else {"deadline": said}


def _caching(state: Progress) -> dict[str, str | float]:
    if not state.caching:
        return {}
    used = state.cached
    return {
        "caching": state.caching,
        "cache_hit_percent": _percent(used.hit_rate or 0.0),
        "cache_written_tokens": used.written_tokens,
        "cache_saved_usd": _usd(used.saved_usd),
    }


def what_follows(job: str, state: Progress) -> str:
    """What happens by itself once a run has done what could be done at once."""
    if state.complete:
        return "Nothing: the night is complete."
    if state.snapshot is None:
        return "Nothing: its input has not been taken; materialize input_dataset first."
    held = state.night.held_at is not None
    if held and not state.at_work:
        return f"Nothing, it is held: resume it with {job}_control."
    return (
        f"Nothing is to be launched: the sensor {job}_batches sends what waits, collects batches "
        f"as they end, and materializes {COLLECTED_RESULTS}, {DEAD_LETTER} and {COST_REPORT} when "
        "the night is complete. It has to be on."
    )


def headline(state: Progress) -> str:
    """Where a night stands, in the words of an observation's description."""
    if state.snapshot is None:
        return "no input yet"
    if state.complete:
        return f"finished: {state.describe()}"
    return state.describe()


def _numbers(state: Progress) -> dict[str, dg.MetadataValue | str | int | float | bool]:
    """Progress as numbers that Dagster can plot."""
    found: dict[str, dg.MetadataValue | str | int | float | bool] = {
        "complete_percent": _percent(state.settled / state.items if state.items else 1.0),
        "requests_in_flight": state.in_flight,
        "error_rate_percent": _percent(state.error_rate),
        "cost_so_far_usd": round(float(state.total_cost_usd), 6),
    }
    end = eta.expected_usd(state)
    if end is not None:
        found["cost_expected_usd"] = round(float(end), 6)
    return found


@_safely
def of_results(pipeline: Pipeline, state: Progress) -> Metadata:
    where = pipeline.files.uri(paths.results(state.night.job, state.night.partition))
    bar = images.proportions(
        [(state.succeeded, GREEN), (state.dead_letter, RED), (state.filtered, GREY)],
        title="succeeded, dead letters, filtered",
    )
    by_filter = {} if state.snapshot is None else state.snapshot.filtered_by
    filters = "\n".join(f"- {cell(why)}: {count:,}" for why, count in by_filter.items())
    return {
        "outcome": dg.MetadataValue.md(
            f"**{state.succeeded:,}** succeeded, **{state.dead_letter:,}** dead letters, "
            f"**{state.filtered:,}** filtered\n\n{bar}"
        ),
        **({"filtered_by": dg.MetadataValue.md(filters)} if by_filter else {}),
        ROW_COUNT: state.settled,
        "succeeded": state.succeeded,
        "dead_letter": state.dead_letter,
        "dead_letter_percent": _dead_letter_percent(state),
        "path": dg.MetadataValue.path(where),
        URI: where,
        "simulated": state.account.simulated,
    }


@_safely
def of_dead_letters(pipeline: Pipeline, state: Progress, groups: Sequence[SetAside]) -> Metadata:
    night = state.night
    where = pipeline.files.uri(paths.dead_letter(night.job, night.partition))
    systematic = sum(group.systematic for group in groups)
    found: dict[str, dg.MetadataValue | str | int | float | bool] = {
        "reasons": dg.MetadataValue.md(_groups(groups)),
        ROW_COUNT: state.dead_letter,
        "dead_letter_percent": _dead_letter_percent(state),
        "systematic_problems": systematic,
        "path": dg.MetadataValue.path(where),
        URI: where,
        "simulated": state.account.simulated,
    }
    if state.dead_letter:
        found["send_again_after_a_fix"] = (
            f"batch-pipeline dead-letter redrive {night.job} --partition {night.partition}"
        )
    return found


@_safely
def of_report(pipeline: Pipeline, state: Progress, report: Report) -> Metadata:
    night = state.night
    cost_by_night = [float(each.usd) for each in report.trend]
    cost_of_each = [float(each.per_document_usd or 0) for each in report.trend]
    found: dict[str, dg.MetadataValue | str | int | float | bool] = {
        "report": dg.MetadataValue.md(report_markdown.render(report)),
        "cost_usd": _usd(report.costs.billed_usd),
        "savings_usd": _usd(report.costs.savings_usd),
        "cost_per_document_usd": _usd(report.cost_per_document_usd),
        **{name: getattr(report.tokens, name) for name in TOKENS},
        "path": dg.MetadataValue.path(
            pipeline.files.uri(paths.report(night.job, night.partition, ".html"))
        ),
        URI: pipeline.files.uri(paths.report(night.job, night.partition, ".json")),
        "simulated": report.simulated,
    }
    if report.caching is not None:
        found["cache_saved_usd"] = _usd(report.caching.used.saved_usd)
    if report.estimated_usd is not None:
        found["estimated_cost_usd"] = _usd(report.estimated_usd)
    if len(cost_by_night) > 1:
        image = images.bars(cost_by_night, title="cost by night")
        found[f"cost_of_the_last_{len(cost_by_night)}_nights"] = dg.MetadataValue.md(image)
        image = images.bars(cost_of_each, title="cost per document by night")
        found["cost_per_document_by_night"] = dg.MetadataValue.md(image)
    if report.avoided:
        found["avoided_usd"] = _usd(report.avoided_usd)
    return found


def _groups(groups: Sequence[SetAside]) -> str:
    if not groups:
        return "none"
    rows = [
        f"| {group.items:,} | {'**systematic** ' if group.systematic else ''}{group.reason}: "
        f"{cell((group.example_message or group.error_type or '')[:100])} "
        f"| {cell(', '.join(group.example_ids[:2]))} |"
        for group in groups[:MOST_GROUPS]
    ]
    return "\n".join(["| items | reason | e.g. |", "|---|---|---|", *rows])


def _usd(amount: Decimal | None) -> float:
    return round(float(amount or 0), 9)


def _dead_letter_percent(state: Progress) -> float:
    return _percent(state.dead_letter / state.settled if state.settled else 0.0)


def _percent(share: float) -> float:
    return round(100 * share, 2)
