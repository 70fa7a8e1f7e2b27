"""The state of a night, read off its progress; and the error that says so to a person.

The decision and its words stand in `ledger.admission.night_state`, which admission uses too.
"""

from __future__ import annotations

from dataclasses import replace

from batch_pipeline.errors import (
    AccountPausedError,
    ApiError,
    BatchPipelineError,
    GateClosedError,
)
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates import night_gates
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger.admission.night_state import (
    PROCESSED,
    Facts,
    Gates,
    Kind,
    NightState,
    ShortOfBudget,
    state_of,
)
from batch_pipeline.ledger.admission.queue import ROOM_WANTED_SECONDS, refused_until
from batch_pipeline.ledger.nights import Night
from batch_pipeline.safe_text import one_line

ERRORS: dict[Kind, type[BatchPipelineError]] = {
    Kind.PAUSED: AccountPausedError,
    Kind.REFUSED: ApiError,
    Kind.PILOT_CLOSED: GateClosedError,
    Kind.BREAKER_OPEN: GateClosedError,
    Kind.SHORT_OF_BUDGET: GateClosedError,
}
GATE_KINDS = frozenset(kind for kind, error in ERRORS.items() if error is GateClosedError)


def of_progress(state: Progress, alert_limits: AlertsSpec) -> NightState:
    """The state of a night as far as the ledger tells, for `status` and alerts."""
    return state_of(facts_of(state, alert_limits))


def facts_of(
    state: Progress, alert_limits: AlertsSpec, declaration: Declaration | None = None
) -> Facts:
    """The facts in a night's progress; `declaration` is the job's present one, where known."""
    night, snapshot = state.night, state.snapshot
    verdict = night.pilot if night_gates.verdict_applies(night.pilot, snapshot) else None
    changed = (
        snapshot is not None and declaration is not None and not declaration.has_made(snapshot)
    )
    gates = Gates(
        declaration_changed=changed and state.waiting > 0,
        pilot=night_gates.pilot_gate(verdict, state.approvals),
        judged=verdict is not None,
        breaker=state.breaker(alert_limits) if state.waiting else None,
    )
    facts = Facts(
        job=night.job,
        partition=night.partition,
        accounts=tuple(each.name for each in state.accounts),
        complete=state.complete,
        held=night.held_at is not None,
        paused=state.account.paused_reason,
        probe_at=state.account.probe_at,
        refused=night.refused,
        key_refused=state.account.key_refused,
        failed=None
        if night.failure is None
        else (night.failure["reason"], night.failure["remedy"]),
        gates=gates,
        unanswered=(state.account.unanswered or {}).get("reason"),
        at_work=PROCESSED if state.at_work else None,
    )
    return _with_room(facts, state) if state.waiting else facts


def _with_room(facts: Facts, state: Progress) -> Facts:
    """The facts with what the last attempt at submission found in its way, as the ledger has it."""
    full = refused_until(state.account, state.at)
    if full is None and state.night.wanted_room_at > state.at - ROOM_WANTED_SECONDS:
        full = "it found no room in the account's queue"
    short = state.night.short_of_budget
    # What was planned before it failed may go, unless everything fails.
    rests = state.night.storm_since is not None or state.waiting == state.night.unplanned
    facts = replace(facts, waits_for=state.night.waits_for)
    facts = replace(facts, backing_off=state.night.resting(state.at) if rests else None)
    return replace(
        facts, short_of_budget=None if short is None else ShortOfBudget(**short), queue_full=full
    )


def error_of(night: Night, state: NightState, waiting: int) -> BatchPipelineError:
    """The error that tells a person why a night does not move; only for the kinds in `ERRORS`."""
    examples = "".join(f"\n  {one_line(example)}" for example in state.examples)
    remedy = f"{state.remedy[:1].upper()}{state.remedy[1:]}."
    return ERRORS[state.kind](
        f"{night.job} {night.partition}: {state.reason}. {waiting:,} requests are held back."
        f"{examples}\n{remedy} What was answered is kept."
    )
