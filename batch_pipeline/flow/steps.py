"""The steps of a night, each of which may be run at any time, twice, or after a crash.

The command line's `run`, the Dagster assets and the sensor's follow-ups call these same functions;
each looks at the ledger and does what is left to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from batch_pipeline import telemetry
from batch_pipeline.api.failures import most_hopeful
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.flow import caching, night_input, organisation_limits, publishing
from batch_pipeline.flow.batches import reconciliation, submission
from batch_pipeline.flow.batches.polling import poll
from batch_pipeline.flow.batches.submission import Submitted
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.deadline import takeover
from batch_pipeline.flow.gates import budget, night_gates
from batch_pipeline.flow.gates.prices import price_for
from batch_pipeline.flow.pilot import pilot_run
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.planning.new_shards import ShardLimits
from batch_pipeline.flow.realtime import calls
from batch_pipeline.flow.results import claims, results_folder, standing_answers
from batch_pipeline.flow.reuse import copies, twins
from batch_pipeline.flow.status import outage
from batch_pipeline.flow.status import progress as progress_of
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, shards, waits
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Waiting
from batch_pipeline.ledger.admission.night_state import Facts, Kind, state_of
from batch_pipeline.ledger.answers_files import Stands
from batch_pipeline.ledger.database import ledger
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Engine, ShardState
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions import listed_batches, refusals, submissions, transitions
from batch_pipeline.safe_text import get_logger
from batch_pipeline.wording import duration

log = get_logger(__name__)


def open_night(pipeline: Pipeline, spec: JobSpec, partition: str) -> Night:
    """The night of the owner of the job's accounts, made if it is new; these may send it now."""
    owner = pipeline.owner(spec)
    publishing.sweep(pipeline)
    organisation_limits.refresh(pipeline, owner.accounts)
    with pipeline.ledger.write() as connection:
        night = nights.open_night(connection, spec.name, partition, owner.name)
        if tuple(night.sent_by) != owner.accounts:
            nights.update_night(connection, night.id, accounts=list(owner.accounts))
        return nights.get_night(connection, night.id)


def release(pipeline: Pipeline, night: Night, *, resume: bool) -> Night:
    """Lift the night's refusal, and let a paused account and downloads that failed be tried at
    once; with `resume` lift its hold after a cancel too.

    The person who starts a night is taken to have seen to their causes.
    """
    with pipeline.ledger.write() as connection:
        for account in night.sent_by:
            accounts.probe_at_once(connection, account)
        nights.update_night(connection, night.id, refused=None)
        refusals.forget(connection, night.id)
        transitions.download_at_once(connection, night.id)
        if resume:
            nights.update_night(connection, night.id, held_at=None)
        return nights.get_night(connection, night.id)


def note_asked(pipeline: Pipeline, night: Night, *, wanted: bool = True) -> None:
    """Note that the night's submission is wanted, or that it is to be asked for anew. What a pause
    or a failure stops of what is wanted goes on by itself."""
    with pipeline.ledger.write() as connection:
        at = ledger.now(connection) if wanted else None
        nights.update_night(connection, night.id, asked_at=at)


def reuse_answers(pipeline: Pipeline, spec: JobSpec, night: Night) -> Waiting | None:
    """Let earlier nights of the job answer what they can; returns what that waits for, or None.

    Comes before anything of the night is planned, and is decided once for each of its snapshots.
    """
    if spec.reuse is None:
        return None
    before = pipeline.refreshed(night)
    awaited = copies.settle(pipeline, spec, night)
    night, snapshot = plan.current(pipeline, night)
    if awaited is not None:
        facts = Facts(night.job, night.partition, waits_for=awaited)
        return Waiting(state_of(facts), night.open_requests)
    if night.revision != before.revision:
        night_input.keep_estimate(pipeline, spec, night, snapshot)
    return None


@telemetry.traced("pilot")
def run_pilot(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
) -> dict[str, Any] | Waiting:
    """Bring the pilot as far as it goes now: its verdict, or why it waits."""
    waiting = reuse_answers(pipeline, spec, night)
    if waiting is not None:
        return waiting
    caching.count(pipeline, spec, night)
    return pilot_run.run_pilot(pipeline, spec, night, price_for(spec))


@telemetry.traced("submit")
def submit(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    meanwhile: Callable[[], None] = lambda: None,
) -> Submitted:
    """Plan what is open, send what there is room for, and make the calls that go in real time.

    `meanwhile` is called again and again while calls are made.
    """
    _ask_all(pipeline, night.owner, night.sent_by, reconciliation.reconcile)
    awaits = reuse_answers(pipeline, spec, night)
    if awaits is not None:
        return Submitted(0, awaits)
    night, snapshot = plan.current(pipeline, night)
    with pipeline.ledger.read() as connection:
        gates = night_gates.gates_of(connection, spec, Declaration.of(spec), night)
    if gates.declaration_changed or not gates.judged or gates.pilot is not None:
        facts = Facts(night.job, night.partition, gates=gates)
        return Submitted(0, Waiting(state_of(facts), progress(pipeline, night).waiting))
    night = plan.take_back_too_large(pipeline, spec, night)
    _plan(pipeline, spec, night, snapshot)
    caching.prepare(pipeline, spec, night)
    admitted = caching.with_marks(spec, budget.limits(pipeline, spec, night))
    read_gates = night_gates.read_gates(spec)
    submitted = submission.submit_waiting(pipeline, night, admitted, read_gates)
    watched = _watching_deadline(pipeline, spec, night, meanwhile)
    called = calls.send_all(pipeline, spec, night, read_gates, watched)
    waiting = called.waiting if called.waiting.state is not None else submitted.waiting
    if waiting.state is not None and waiting.state.kind is Kind.SHORT_OF_BUDGET:
        waiting = _without_optional(pipeline, spec, night) or waiting
    if waiting.state is None:
        with pipeline.ledger.read() as connection:
            waiting = admission.resting(connection, night) or waiting
    telemetry.note(batches=submitted.batches, waiting=waiting.requests)
    return replace(submitted, waiting=waiting, answers=called.answers)


def _without_optional(pipeline: Pipeline, spec: JobSpec, night: Night) -> Waiting | None:
    """Give up what the night can do without, where no ceiling has room for it and nothing that is
    in flight will make any; returns what waits then, None: there is nothing to give up."""
    with pipeline.ledger.write() as connection:
        if submissions.of_night(connection, night.id, *submissions.LIVE):
            return None
        if not shards.drop_optional(connection, night.id):
            return None
    standing_answers.settle(pipeline, spec, night, Stands.BUDGET)
    with pipeline.ledger.read() as connection:
        left = shards.list_shards(connection, night.id, ShardState.WAITING)
    return None if left else Waiting(None)


@telemetry.traced("plan")
def _plan(pipeline: Pipeline, spec: JobSpec, night: Night, snapshot: Snapshot) -> None:
    """Make shards of the open requests, for the engine that is to answer them.

    Batches are kept so small that several fit under the ceilings in USD at once: a night in one
    batch, reserved at its bound, might not fit although its real cost would.
    """
    with pipeline.ledger.read() as connection:
        if admission.resting(connection, night) is not None:
            return
    found = takeover.course(pipeline, spec, night)
    limits = ShardLimits.of(spec, plan.queue_limit_of(pipeline, spec))
    wants_batches = takeover.wants_batches(pipeline, spec, found, limits)
    if not wants_batches and not found.to_realtime:
        return
    # What succeeded is not moved to real time: it stands where a batch would be too late.
    late = Stands.DEADLINE if takeover.is_late_for_batches(found) else None
    if standing_answers.settle(pipeline, spec, night, late):
        found = takeover.course(pipeline, spec, night)
    with pipeline.ledger.read() as connection:
        bounds = budget.bounds_of(connection, spec, night, snapshot)
        tightest = budget.tightest(spec, pipeline.senders_of(connection, night))
    to_realtime = found.to_realtime
    if wants_batches:
        seen = plan.view(pipeline, night)
        if seen.snapshot.id != snapshot.id:
            return
        engine: Engine = "realtime" if spec.mode == "realtime" else "batch"
        cut = ShardLimits.of_calls(spec) if engine == "realtime" else limits
        also = _escalated(spec) if night.unplanned < snapshot.bought else []
        at_once = budget.requests_at_once(bounds, tightest, snapshot, engine, also)
        plan.plan_all(
            pipeline, seen, cut.at_most(at_once), bounds, spec.retry, engine,
            unsure=late is None,
        )  # fmt: skip
        if found.outlook is not None:
            found = takeover.course(pipeline, spec, night)
        # What stays with real time because it was open is in shards now, and stays all the same.
        to_realtime = max(to_realtime, found.to_realtime)
    if to_realtime:
        takeover.change_over(pipeline, spec, found, to_realtime, limits, bounds)


def _escalated(spec: JobSpec) -> list[Declaration]:
    """What the stronger model is asked, which the first plan of a night does not have yet."""
    if spec.retry.escalate is None:
        return []
    return [Declaration.of(spec.asked_all_ways()[-1][1])]


def _watching_deadline(
    pipeline: Pipeline, spec: JobSpec, night: Night, meanwhile: Callable[[], None]
) -> Callable[[], None]:
    """`meanwhile`, followed once in a poll interval by a look at the deadline.

    Calls may be made for so long that a batch at the API would miss the deadline unnoticed.
    """
    looked = time.monotonic()

    def go_on() -> None:
        nonlocal looked
        meanwhile()
        if time.monotonic() - looked >= pipeline.settings.poll_seconds:
            looked = time.monotonic()
            meet_deadline(pipeline, spec, night)

    return go_on


def meet_deadline(pipeline: Pipeline, spec: JobSpec, night: Night) -> None:
    """Take over what is at the API and would miss the night's deadline, if it has one."""
    takeover.meet(pipeline, spec, night)


@telemetry.traced("poll")
def poll_accounts(pipeline: Pipeline, owner: str, senders: Sequence[str]) -> None:
    """See what has ended and what became of unknown submissions, for all nights of these accounts
    and of those that have sent for their owner."""
    _ask_all(pipeline, owner, senders, reconciliation.reconcile, poll)


def poll_account(pipeline: Pipeline, account: str) -> None:
    """As `poll_accounts`, of one account."""
    _ask(pipeline, account, reconciliation.reconcile, poll)


def accounts_to_ask(pipeline: Pipeline, owner: str, senders: Sequence[str]) -> list[str]:
    """The accounts that may send for an owner, and those that have sent what is not settled: they
    may not be the job's any more."""
    with pipeline.ledger.read() as connection:
        unsettled = listed_batches.accounts_unsettled(connection, owner)
    return list(dict.fromkeys([*senders, *sorted(unsettled)]))


def _ask_all(
    pipeline: Pipeline,
    owner: str,
    senders: Sequence[str],
    *reads: Callable[[Pipeline, str], object],
) -> None:
    """`_ask` for each account; one that fails leaves the others. Raises one of the failures where
    all have failed."""
    asked = accounts_to_ask(pipeline, owner, senders)
    failures: list[ApiFailure] = []
    for account in asked:
        began = time.monotonic()
        try:
            _ask(pipeline, account, *reads)
        except ApiFailure as failure:
            failures.append(failure)
            if len(asked) > 1:
                pipeline.connections.rest(account, failure, time.monotonic() - began)
                pipeline.connections.tell(account, failure)
        else:
            pipeline.connections.tell(account, None)
    if len(failures) == len(asked):
        raise most_hopeful(failures)


def _ask(pipeline: Pipeline, account: str, *reads: Callable[[Pipeline, str], object]) -> None:
    """Ask the API for batches and lists, unless it asked to be left alone for a while.

    Its wait is kept in the ledger, an hour of it at most, where all processes and `status` see it.
    """
    with pipeline.ledger.read() as connection:
        until = accounts.get_account(connection, account).reads_wait_until
        if waits.lasts(until, ledger.now(connection)):
            return
    try:
        with outage.noted(pipeline, account):
            for read in reads:
                read(pipeline, account)
    except ApiFailure as failure:
        seconds = failure.retry_after or 0.0
        if seconds > pipeline.settings.poll_seconds:
            with pipeline.ledger.write() as connection:
                accounts.wait_with_reads(connection, account, seconds)
            log.warning("the API is asked for batches again in %s", duration(seconds))
        raise


@telemetry.traced("collect")
def collect_ended(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    collected: Callable[[], None] = lambda: None,
) -> int:
    """Collect the night's ended submissions; returns how many.

    Submissions whose results the API does not give now, or that another process collects, are left
    for the next time. `collected` is called after each one that was collected.
    """
    results_folder.repair(pipeline, night)
    calls.close_abandoned(pipeline, night)
    count = claims.collect_all(pipeline, spec, night, collected)
    telemetry.note(batches=count)
    return count


@telemetry.traced("finish")
def finish(pipeline: Pipeline, night: Night) -> Progress:
    """Mark the night complete if it is: every input item is in the results, once."""
    state = progress(pipeline, night)
    if state.complete or not state.sent_everything or state.night.held_at is not None:
        return state
    if state.night.held_twins:
        twins.settle(pipeline, night)
        return state if pipeline.refreshed(night).held_twins else finish(pipeline, night)
    if not state.night.published:
        # The folder shows another account's; taking the input shows this one again.
        return state
    assert state.snapshot is not None
    results_folder.reconcile_counts(pipeline, state.night, state.snapshot)
    with pipeline.ledger.write() as connection:
        current = nights.get_night(connection, night.id)
        if current.revision == state.night.revision and current.published:
            nights.update_night(connection, night.id, completed_at=state.at)
        return progress_of.of_night(connection, night.id)


def progress(pipeline: Pipeline, night: Night) -> Progress:
    with pipeline.ledger.read() as connection:
        return progress_of.of_night(connection, night.id)
