"""How `status` shows nights and their batches: within 80 columns, or as a document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from batch_pipeline.cli.output import Output, as_typed
from batch_pipeline.cli.tables import SIMULATED, SafeConsole, plain_table
from batch_pipeline.flow.status import eta, failure_page, night_state, progress, warnings
from batch_pipeline.flow.status.account_state import AccountState, troubles_of
from batch_pipeline.flow.status.batch_warnings import NightWarning
from batch_pipeline.flow.status.never_begun import NeverBegun
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger.admission.night_state import Kind, NightState
from batch_pipeline.ledger.alerts import Alert
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.safe_text import one_line
from batch_pipeline.settings import Settings
from batch_pipeline.wording import duration, iso_or_none, usd

# Kinds that have another name for people than in the code.
_WORDS = {
    Kind.PILOT_CLOSED: "gate closed",
    Kind.API_UNAVAILABLE: "no answer",
    Kind.EARLIER_ANSWERS_FIRST: "waits for answers",
    Kind.SHORT_OF_BUDGET: "budget reached",
    Kind.SHARD_TOO_LARGE: "batch too large",
    Kind.OLDER_NIGHT_FIRST: "older first",
}


def word_of(kind: Kind) -> str:
    """The state of a night in a word or two, for the table and for `state` in JSON."""
    return _WORDS.get(kind, kind.value.replace("_", " "))


def show_status(
    output: Output,
    settings: Settings,
    states: Sequence[progress.Progress],
    alert_limits: Mapping[str, AlertsSpec],
    recorded: Mapping[int, Sequence[Alert]],
    ledger_problem: str | None,
    *,
    details: bool,
    never_begun: NeverBegun | None = None,
    accounts: Sequence[AccountState] = (),
) -> None:
    """One line a night, and its warnings; with `details` its batches and alerts too. The `accounts`
    of the nights' owners follow where there are several.

    `alert_limits` are by job; a job that is declared no more has the defaults.
    `recorded` are the alerts of each night, by its id; `ledger_problem` says why nothing would be
    sent from this ledger.
    """
    limits = {state.night.id: alert_limits.get(state.night.job, AlertsSpec()) for state in states}
    found = {
        state.night.id: night_state.of_progress(state, limits[state.night.id]) for state in states
    }
    warned = {state.night.id: warnings.of(state, limits[state.night.id]) for state in states}
    document = {
        "nights": [
            {
                **_document(state, found[state.night.id], limits[state.night.id], details=details),
                "warnings": [warning.as_json() for warning in warned[state.night.id]],
                "alerts": [alert.as_json() for alert in recorded[state.night.id]],
            }
            for state in states
        ],
        "ledger_problem": ledger_problem,
        "never_begun": None if never_begun is None else never_begun.as_json(),
        "accounts": [account.as_json() for account in accounts],
    }

    def show() -> None:
        console = SafeConsole()
        if never_begun is not None:
            console.print(str(never_begun), soft_wrap=True, highlight=False, markup=False)
            return
        if not states:
            text = f"Nothing has been run yet under {settings.home}; see `{as_typed()} jobs`."
            console.print(text, soft_wrap=True, highlight=False, markup=False)
            return
        console.print(_nights_table(states, found))
        for state in states:
            if details and state.submissions:
                console.print(_batches_table(state))
            notes = _warnings(state, warned[state.night.id])
            if details:
                notes += _notes(state, found[state.night.id], warned[state.night.id])
                notes += _alerts(recorded[state.night.id], warned[state.night.id])
            _print_lines(console, notes)
        if len(accounts) > 1:
            console.print(accounts_table(accounts))
        _print_lines(console, troubles_of(accounts))
        if any(state.account.simulated for state in states):
            console.print(SIMULATED)

    output.answer(document, show)


def _print_lines(console: SafeConsole, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(f"  {one_line(line)}", soft_wrap=True, highlight=False, markup=False)


def _nights_table(states: Sequence[progress.Progress], found: Mapping[int, NightState]) -> Table:
    table = plain_table()
    for name in ("night", "owner", "state"):
        table.add_column(name, overflow="fold")
    for name in ("items", "done", "aside", "batches", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for state in states:
        table.add_row(
            f"{state.night.job} {state.night.partition}",
            state.night.owner,
            word_of(found[state.night.id].kind),
            f"{state.items:,}",
            f"{state.settled / state.items:.0%}" if state.items else "n/a",
            f"{state.dead_letter:,}",
            f"{state.batches_ended}/{state.batches}",
            usd(state.total_cost_usd),
        )
    return table


def accounts_table(states: Sequence[AccountState]) -> Table:
    """The accounts, a line each; the room is that of the organisation, which its accounts share."""
    table = plain_table()
    for name in ("account", "organisation", "state"):
        table.add_column(name, overflow="fold")
    for name in ("queued", "room", "this month"):
        table.add_column(name, justify="right", no_wrap=True)
    for state in states:
        table.add_row(
            state.name,
            state.organisation,
            state.word,
            f"{state.at_api.queued:,}",
            f"{state.room:,}",
            state.month,
        )
    return table


def _batches_table(state: progress.Progress) -> Table:
    table = plain_table()
    table.add_column(f"batches of {state.night.partition}", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("requests", justify="right")
    table.add_column("sent (UTC)", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    for submission in state.submissions:
        sent, ended = submission.accepted_at or submission.intent_at, submission.ended_at
        table.add_row(
            _name(submission),
            str(submission.state),
            f"{submission.requests:,}",
            datetime.fromtimestamp(sent, UTC).strftime("%m-%d %H:%M"),
            "-" if ended is None else duration(max(0.0, ended - sent)),
        )
    return table


def _warnings(state: progress.Progress, found: Sequence[NightWarning]) -> list[str]:
    place = f"{state.night.job} {state.night.partition}"
    return [f"warning: {place}: {warning.message}" for warning in found]


def _alerts(recorded: Sequence[Alert], warned: Sequence[NightWarning]) -> list[str]:
    """What was told and when; what a warning says already is not said again."""
    shown = {warning.message for warning in warned}
    lines = []
    for alert in recorded:
        at = datetime.fromtimestamp(alert.sent_at or alert.recorded_at, UTC)
        said = f"{alert.code}, as above" if alert.message in shown else alert.message
        lines.append(f"alert ({alert.state} {at:%m-%d %H:%M}): {said}")
    return lines


def _notes(
    state: progress.Progress, found: NightState, warned: Sequence[NightWarning]
) -> list[str]:
    """What a person should know beyond table and warnings."""
    notes = []
    if state.waiting:
        notes.append(f"{state.waiting:,} requests wait to be sent")
    if state.filtered and state.snapshot is not None:
        by = ", ".join(f"{count:,} {why}" for why, count in state.snapshot.filtered_by.items())
        notes.append(f"{state.filtered:,} documents are filtered ({by})")
    if state.reused:
        notes.append(f"{state.reused:,} requests are answered by earlier nights, at no cost")
    near = (state.night.pilot or {}).get("near_duplicates")
    if near is not None:
        notes.append(f"near duplicates: {near['reason']}")
    if state.night.held_twins:
        notes.append(f"{state.night.held_twins:,} near duplicates wait for their leaders' answers")
    wanted = progress.deadline_details(state.night, state.at)
    if wanted is not None:
        notes.append(wanted)
    if state.caching:
        notes.append(f"caching: {state.caching}")
    said = any(
        each.message.startswith(found.reason) or each.code == found.kind.value for each in warned
    )
    if found.remedy and not said:
        notes += [str(found), *(f"  {example}" for example in found.examples)]
    notes += [
        f"the {given.gate} gate was approved by {given.approved_by}: {given.reason}"
        for given in state.approvals
    ]
    notes += [
        f"{done.kind} by {done.done_by}: {done.outcome}{f' ({done.reason})' if done.reason else ''}"
        for done in state.actions
    ]
    notes += [f"{_name(s)}: {s.error}" for s in state.submissions if s.error]
    return notes


def _name(submission: Submission) -> str:
    if submission.engine == "batch":
        return submission.batch_id or f"(no id yet, token {submission.token})"
    return "(real-time calls)"


def _document(
    state: progress.Progress, found: NightState, alert_limits: AlertsSpec, *, details: bool
) -> dict[str, Any]:
    breaker = state.breaker(alert_limits)
    document = {
        **progress.as_json(state),
        "state": word_of(found.kind),
        "night_state": found.as_json(),
        "statuses": state.statuses,
        "filtered_by": {} if state.snapshot is None else state.snapshot.filtered_by,
        "waiting": state.waiting,
        "in_flight": state.in_flight,
        "unknown": state.unknown,
        "to_collect": state.to_collect,
        "batches_ended": state.batches_ended,
        "error_rate": round(state.error_rate, 6),
        **eta.as_json(state),
        "deadline_at": iso_or_none(state.night.deadline_at),
        "deadline": progress.deadline_details(state.night, state.at),
        "cost_usd": float(state.total_cost_usd),
        "caching": progress.caching_as_json(state),
        "pilot": state.night.pilot,
        "breaker": None
        if breaker is None
        else {"reason": breaker.reason, "examples": breaker.examples},
        "approvals": [given.as_json() for given in state.approvals],
        "paused_reason": state.account.paused_reason,
        "failure": failure_page.as_json(state.night),
    }
    if details:
        document["actions"] = [done.as_json() for done in state.actions]
        document["submissions"] = [_submission_document(s) for s in state.submissions]
    return document


def _submission_document(submission: Submission) -> dict[str, Any]:
    return {
        "batch_id": submission.batch_id,
        "mode": submission.engine,
        "state": submission.state,
        "requests": submission.requests,
        "cost_usd": None if submission.cost_usd is None else float(submission.cost_usd),
        "accepted_at": iso_or_none(submission.accepted_at),
        "expires_at": iso_or_none(submission.expires_at),
        "ended_at": iso_or_none(submission.ended_at),
        "caching": submission.caching,
        "marked_models": submission.marked_models,
        "error": submission.error,
    }
