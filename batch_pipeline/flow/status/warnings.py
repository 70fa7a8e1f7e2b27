"""Warnings of a night: its batches' (`batch_warnings`), and limits that were passed.

A pure function of a night's progress. Command line and Dagster show the same warnings and log each
`cause` once; `alerts` sends them to people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batch_pipeline.flow.answers.outcomes import RESULTS_GONE
from batch_pipeline.flow.status import night_state
from batch_pipeline.flow.status.batch_warnings import (
    DAY,
    UNKNOWN_LASTS_SECONDS,
    NightWarning,
    of_submission,
    of_unknown,
)
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger import waits
from batch_pipeline.ledger.admission.night_state import Kind, states_of
from batch_pipeline.ledger.answers_files import Stands
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.ledger.sums import FeeKind
from batch_pipeline.wording import duration, moment, usd

# Codes by kind: what only a person can lift, and gates, which are alerts and no warnings because
# every place that shows warnings shows the night's state beside them.
STOPPED = {
    Kind.KEY_REFUSED: "key_refused",
    Kind.PAUSED: "account_paused",
    Kind.REFUSED: "night_refused",
    Kind.FAILED: "night_failed",
    Kind.SHORT_OF_BUDGET: "budget_reached",
}
# A failure of the home or of the ledger's database is one of all nights.
STORAGE, HOME_UNAVAILABLE = "storage", "home_unavailable"
GATES = {Kind.PILOT_CLOSED: "gate_closed", Kind.BREAKER_OPEN: "breaker_open"}

# An API that does not answer for longer than this is told to a person.
OUTAGE_SECONDS = 12 * 60.0
# A loss by the prompt cache is told from this number of requests on: the first ones only write.
TELLING_REQUESTS = 20
# A new batch, or one that has just ended, may be answered with 404 for minutes.
MISSING_SECONDS = 10 * 60.0


def of(state: Progress, alert_limits: AlertsSpec) -> list[NightWarning]:
    """A night's warnings, the account's first, then by batch; of a complete one passed limits."""
    if state.complete:
        return [*_limits(state, alert_limits), *_of_escalation(state)]
    found = list(of_state(state, alert_limits, STOPPED))
    found.extend(_of_api(state))
    found.extend(_limits(state, alert_limits))
    found.extend(_of_escalation(state))
    found.extend(of_unknown(state))
    for submission in state.submissions:
        found.extend(of_submission(submission, state.at))
    since = state.night.storm_since
    if since is not None:
        message = (
            f"nearly all answers have failed for {duration(state.at - since)}, for reasons that "
            "pass (overload, an outage of the API); they are asked again ever more rarely, once an "
            "hour at least, and no attempt is counted"
        )
        lasts = state.at - since > DAY
        found.append(NightWarning("api_storm", message, key=f"{since:.0f}", alerts=lasts))
    return found


# Why answers keep standing that were to be escalated, by cause.
_STANDS = {
    Stands.SHARE: "more than retry.escalate.max_share were to be escalated; {0} of them keep their "
    "first answer: raise it, or ask the stronger model at first (routes)",
    Stands.BUDGET: "no ceiling in USD has room to escalate {0} answers, which succeeded and are "
    "unsure: they stand",
    Stands.DEADLINE: "{0} unsure answers stand: to escalate them would miss the deadline",
    Stands.IN_VAIN: "the stronger model gave no good answer to {0} requests: their first answer, "
    "which succeeded and is unsure, stands",
}


def _of_escalation(state: Progress) -> Iterator[NightWarning]:
    """What was to be escalated and keeps its first answer; told, and no alert."""
    for cause, count in state.stands.items():
        message = _STANDS[cause].format(f"{count:,}")
        yield NightWarning("not_escalated", message, key=str(cause), alerts=False)
    if state.unjudged:
        yield NightWarning(
            "escalation_unjudged",
            f"retry.escalate.where is NULL or cannot be evaluated for {state.unjudged:,} answers: "
            "they keep their answer",
            key="",
            alerts=False,
        )


def of_state(
    state: Progress, alert_limits: AlertsSpec, codes: Mapping[Kind, str]
) -> Iterator[NightWarning]:
    """A warning for each kind in `codes` that applies to a night, and that does not pass by itself
    while something of the night is under way."""
    for found in states_of(night_state.facts_of(state, alert_limits)):
        if found.kind is Kind.RUNNING:
            return
        if found.kind is Kind.FAILED and is_of_sender(state):
            continue
        if found.kind in codes:
            code = codes[found.kind]
            if found.kind is Kind.FAILED and _failure(state)["code"] == STORAGE:
                code = HOME_UNAVAILABLE
            held = f"{state.waiting:,} requests are held back; " if state.waiting else ""
            message = f"{found.reason}; {held}{found.remedy}"
            # What its account was told for is no news once the account can be used again.
            alerts = found.kind is not Kind.FAILED or not _failure(state).get("of_sender")
            yield NightWarning(code, message, key=_key(found.kind, state), alerts=alerts)


def _failure(state: Progress) -> Mapping[str, Any]:
    return state.night.failure or {}


def is_of_sender(state: Progress) -> bool:
    """Whether a night failed because its account is refused, paused or unanswered, and still is:
    another warning tells of that."""
    account, code = state.account, _failure(state).get("code")
    if code == "account":
        return account.key_refused is not None or account.paused_at is not None
    return code == "api" and account.unanswered is not None


def _key(kind: Kind, state: Progress) -> str:
    """What tells an occurrence of a night's state from an earlier one of the same kind."""
    if kind is Kind.FAILED:
        # Told again where it fails for another reason, or on another day.
        failure = _failure(state)
        return f"{failure['code']} {moment(failure['since']):.10}"
    if kind is Kind.KEY_REFUSED:
        return f"{(state.account.refused or {}).get('since', 0):.0f}"
    if kind is Kind.PAUSED:
        return f"{state.account.paused_at or 0:.0f}"
    if kind is Kind.PILOT_CLOSED and state.snapshot is not None:
        return f"{state.snapshot.declaration_hash} {state.snapshot.content_hash}"
    return _declared(state)


def _of_api(state: Progress) -> Iterator[NightWarning]:
    """Waits that the API asked for, and batches that it does not know under the present key."""
    account = state.account
    if account.unanswered is not None:
        since, asked = account.unanswered["since"], account.unanswered["at"]
        yield NightWarning(
            "api_unavailable",
            f"the API has not answered since {moment(since)}, last asked at {moment(asked)} "
            f"({account.unanswered['reason']}); nothing is lost, and the night goes on by itself "
            "once it answers",
            key=f"{since:.0f}",
            alerts=asked - since >= OUTAGE_SECONDS,
        )
    if waits.lasts(account.reads_wait_until, state.at):
        until = moment(account.reads_wait_until)
        yield NightWarning(
            "api_wait",
            f"the API asked not to be asked for batches now; it is asked again at {until}",
            alerts=False,
        )
    calls = max([(s.progress or {}).get("waits_until") or 0.0 for s in state.live], default=0.0)
    if waits.lasts(calls, state.at):
        yield NightWarning(
            "api_wait",
            f"the API asked real-time calls to wait; they go on at {moment(calls)}",
            batch="calls",
            alerts=False,
        )
    flying = [s for s in state.live if s.state is State.ACCEPTED]
    missing = [s for s in flying if s.missing_since is not None]
    if flying and account.workspace != account.key_workspace:
        yield NightWarning(
            "other_workspace",
            f"the key of account {account.name} is one of workspace {account.key_workspace}, and "
            f"{len(flying):,} batches are in flight in workspace {account.workspace}: set a key of "
            "that workspace, which alone can fetch their results",
            key=f"{account.workspace} {account.key_workspace}",
        )
    elif len(flying) > 1 and len(missing) == len(flying):
        lasted = state.at - max(s.missing_since or 0.0 for s in missing)
        if lasted > MISSING_SECONDS:
            names = ", ".join(sorted({s.account for s in missing}))
            yield NightWarning(
                "other_workspace",
                f"for {duration(lasted)} the API has known none of the {len(flying):,} batches in "
                f"flight (HTTP 404): is the key of account {names} one of another workspace? "
                "Set a key of the workspace that made them, which alone can fetch their results",
                key=f"{min(s.missing_since or 0.0 for s in missing):.0f}",
                alerts=lasted > UNKNOWN_LASTS_SECONDS,
            )
    else:
        yield from _missing(missing, state.at)


def _missing(missing: Sequence[Submission], at: float) -> Iterator[NightWarning]:
    for submission in missing:
        lasted = at - (submission.missing_since or at)
        if lasted > MISSING_SECONDS:
            yield NightWarning(
                "batch_missing",
                f"for {duration(lasted)} the API has not known batch {submission.batch_id} (HTTP "
                "404): was it deleted, or is the key one of another workspace? It is asked for on; "
                "29 days after its creation its documents are set aside",
                submission.batch_id,
                alerts=lasted > UNKNOWN_LASTS_SECONDS,
            )


def _limits(state: Progress, alert_limits: AlertsSpec) -> Iterator[NightWarning]:
    """Limits of the job that its answers have passed, and an input without a row to be sent."""
    if state.complete and not state.items:
        yield NightWarning(
            "empty_input",
            "the input has no rows, so that the night is complete without a request; check "
            "input.path, and that the night's data has arrived",
            key=str(state.night.revision),
        )
    snapshot = state.snapshot
    if state.complete and snapshot is not None and state.filtered and not snapshot.asked:
        yield NightWarning(
            "everything_filtered",
            f"the filters leave no document to be sent ({snapshot.describe_set_aside()} of "
            f"{state.items:,}); check `filters`, and that the night's data is what they are for",
            key=snapshot.content_hash,
        )
    if state.answered >= alert_limits.after_items and state.error_rate > alert_limits.error_rate:
        yield NightWarning(
            "error_rate",
            f"{state.error_rate:.1%} of {state.answered:,} answered documents are set aside, over "
            f"{alert_limits.error_rate:.1%}",
            key=_declared(state),
        )
    if state.gone_requests:
        yield NightWarning(
            "results_gone",
            f"the results of {state.gone_requests:,} requests can never be had; their documents "
            f"are set aside ({RESULTS_GONE}), and what they cost is not known: at most "
            f"{usd(state.gone_usd_bound)}, which is not in the report's sums. `batch-pipeline "
            f"dead-letter redrive {state.night.job} --partition {state.night.partition}` buys them "
            "again",
            key=str(state.gone_requests),
        )
    # Of the whole night, since what cannot be sent is set aside before anything is answered.
    rate = state.dead_letter / state.items if state.items else 0.0
    if rate > alert_limits.dead_letter_rate:
        yield NightWarning(
            "dead_letter_rate",
            f"{state.dead_letter:,} of the night's {state.items:,} documents are dead letters "
            f"({rate:.1%}, over {alert_limits.dead_letter_rate:.1%}); `batch-pipeline dead-letter "
            f"list {state.night.job} --partition {state.night.partition}` groups them",
            key=_declared(state),
        )
    yield from _fees(state)
    dear = [
        f"{name}: {used.describe()}"
        for name, used in sorted(state.caches.items())
        if used.saved_usd < 0 and used.requests >= TELLING_REQUESTS
    ]
    if dear:
        message = f"{'; '.join(dear)}; see the hit rate that pays in the report"
        yield NightWarning("caching_costs", message, key=_declared(state), alerts=False)
    if state.night.over_budget is not None:
        yield NightWarning("over_budget", state.night.over_budget, key=_declared(state))
    limit = alert_limits.max_usd_per_document
    settled = state.complete or state.settled >= alert_limits.after_items
    if limit is not None and state.settled and settled:
        each = state.total_cost_usd / state.settled
        if each > limit:
            yield NightWarning(
                "cost_per_document",
                f"a document costs {usd(each)}, over {usd(limit)}; "
                f"{usd(state.total_cost_usd)} were billed for {state.settled:,} so far",
                key=_declared(state),
            )


def _declared(state: Progress) -> str:
    """The key of what is told again where a corrected declaration fails too."""
    return state.snapshot.declaration_hash if state.snapshot is not None else ""


def _fees(state: Progress) -> Iterator[NightWarning]:
    """What was billed and has no price here, and models that answered in place of the declared."""
    for fee in state.fees:
        if fee.kind is FeeKind.UNPRICED:
            yield NightWarning(
                "unpriced",
                f"no price is known for {fee.name}, in {fee.quantity:,} answers: no sum holds it "
                "(answers of a model without a price count at that of the declared one). The "
                "organisation's own report has it: `batch-pipeline reconcile-costs`",
                key=fee.name,
            )
        elif fee.kind is FeeKind.OTHER_MODEL and fee.usd is not None:
            more = "more" if fee.usd >= 0 else "less"
            yield NightWarning(
                "other_model",
                f"{fee.quantity:,} answers are of {fee.name} and not of the declared model; they "
                f"are priced as such, {usd(abs(fee.usd))} {more}",
                key=fee.name,
            )
