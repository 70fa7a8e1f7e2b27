"""Warnings of a night: batches near their expiry, uncollected results, limits that were passed.

A pure function of a night's progress. Command line and Dagster show the same warnings and log each
`cause` once; `alerts` sends them to people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch_pipeline.flow.outcomes import RESULTS_GONE
from batch_pipeline.flow.status import night_state
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger import waits
from batch_pipeline.ledger.admission.night_state import Kind, states_of
from batch_pipeline.ledger.answers_files import Stands
from batch_pipeline.ledger.submissions import State, Submission
from batch_pipeline.ledger.sums import FeeKind
from batch_pipeline.wording import duration, moment, usd

# Codes by kind: what only a person can lift, and gates, which are alerts and no warnings because
# every place that shows warnings shows the night's state beside them.
STOPPED = {
    Kind.PAUSED: "account_paused",
    Kind.REFUSED: "night_refused",
    Kind.SHORT_OF_BUDGET: "budget_reached",
}
GATES = {Kind.PILOT_CLOSED: "gate_closed", Kind.BREAKER_OPEN: "breaker_open"}

HOUR = 3600.0
DAY = 24 * HOUR
# A batch ends 24 hours after its creation at the latest; what it has not answered then expires.
NEAR_EXPIRY_SECONDS = 2 * HOUR
# The API keeps results for 29 days from a batch's creation, not from its end.
RESULTS_KEPT_SECONDS = 29 * DAY
NEAR_DELETION_SECONDS = 5 * DAY
# Ended batches are collected within minutes, unless what collects them has stopped.
UNCOLLECTED_SECONDS = 6 * HOUR
# Most submissions of unknown outcome are found within minutes: those are worth no alert.
UNKNOWN_LASTS_SECONDS = 1 * HOUR
# An API that does not answer for longer than this is told to a person.
OUTAGE_SECONDS = 12 * 60.0
# A cancel takes minutes; a batch that does not end after it is waited for until it expires.
CANCEL_SECONDS = 1 * HOUR
# A loss by the prompt cache is told from this number of requests on: the first ones only write.
TELLING_REQUESTS = 20
# A new batch, or one that has just ended, may be answered with 404 for minutes.
MISSING_SECONDS = 10 * 60.0


@dataclass(frozen=True)
class NightWarning:
    """One thing to look at; `batch` is None where it is not about one batch.

    `key` tells one occurrence from the next (after a corrected declaration) where the batch does
    not, `alerts` says whether an alert is sent too.
    """

    code: str
    message: str
    batch: str | None = None
    key: str = ""
    alerts: bool = True

    @property
    def cause(self) -> str:
        """What identifies an occurrence: each cause is told once, however long it lasts."""
        return " ".join(filter(None, (self.code, self.key or self.batch)))

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "batch": self.batch}


def of(state: Progress, alert_limits: AlertsSpec) -> list[NightWarning]:
    """A night's warnings, the account's first, then by batch; of a complete one passed limits."""
    if state.complete:
        return [*_limits(state, alert_limits), *_of_escalation(state)]
    found = list(of_state(state, alert_limits, STOPPED))
    found.extend(_of_api(state))
    found.extend(_limits(state, alert_limits))
    found.extend(_of_escalation(state))
    found.extend(_unknown(state))
    for submission in state.submissions:
        found.extend(_of_submission(submission, state.at))
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
        if found.kind in codes:
            held = f"{state.waiting:,} requests are held back; " if state.waiting else ""
            message = f"{found.reason}; {held}{found.remedy}"
            yield NightWarning(codes[found.kind], message, key=_key(found.kind, state))


def _key(kind: Kind, state: Progress) -> str:
    """What tells an occurrence of a night's state from an earlier one of the same kind."""
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
            f"the key is one of workspace {account.key_workspace}, and {len(flying):,} batches are "
            f"in flight in workspace {account.workspace}: set ANTHROPIC_API_KEY to a key of that "
            "workspace, which alone can fetch their results",
            key=f"{account.workspace} {account.key_workspace}",
        )
    elif len(flying) > 1 and len(missing) == len(flying):
        lasted = state.at - max(s.missing_since or 0.0 for s in missing)
        if lasted > MISSING_SECONDS:
            yield NightWarning(
                "other_workspace",
                f"for {duration(lasted)} the API has known none of the {len(flying):,} batches in "
                "flight (HTTP 404): is the key one of another workspace? Set ANTHROPIC_API_KEY to "
                "a key of the workspace that made them, which alone can fetch their results",
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
    if state.cached.saved_usd < 0 and state.cached.requests >= TELLING_REQUESTS:
        message = f"{state.cached.describe()}; see the hit rate that pays in the report"
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


def _unknown(state: Progress) -> Iterator[NightWarning]:
    """One warning for all submissions of unknown outcome: a fault of the network makes many.

    An alert for it is sent once a day, by the day since which the first has been unknown.
    """
    unknown = [s for s in state.submissions if s.state is State.UNKNOWN]
    if not unknown:
        return
    since = min(s.window_from or s.intent_at for s in unknown)
    lasted = state.at - since
    requests = sum(s.requests for s in unknown)
    one = unknown[0].token if len(unknown) == 1 else None
    which = f"submission {one}" if one else f"{len(unknown):,} submissions"
    last = f" (the latest: {unknown[-1].error})" if unknown[-1].error else ""
    telling = next((s for s in unknown if s.candidates or s.waits_for), unknown[0])
    yield NightWarning(
        "unknown_outcome",
        f"{which} of {requests:,} requests: {'its' if one else 'their'} outcome has been unknown "
        f"for {duration(lasted)}{last}; {_waits_for(telling, state.at)}",
        one,
        key=f"{moment(since):.10}",
        alerts=lasted > UNKNOWN_LASTS_SECONDS,
    )


def _of_submission(submission: Submission, at: float) -> Iterator[NightWarning]:
    name = submission.batch_id or submission.token
    if submission.state is State.ACCEPTED and submission.expires_at is not None:
        yield from _near_expiry(name, submission.expires_at - at)
    cancelled = submission.cancel_requested_at
    if submission.state is State.ACCEPTED and cancelled is not None:
        lasted = at - cancelled
        if lasted > CANCEL_SECONDS:
            yield NightWarning(
                "cancel_lasts",
                f"batch {name} was cancelled {duration(lasted)} ago and has not ended; it is asked "
                "for on, and what was answered is collected when it ends or expires",
                name,
            )
    if submission.state in (State.ACCEPTED, State.ENDED):
        yield from _uncollected(submission, name, at)


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


def _waits_for(submission: Submission, at: float) -> str:
    """What has to happen until the outcome of a submission is known."""
    if submission.candidates_from is not None and submission.candidates:
        first, *others = submission.candidates
        more = f" and {len(others):,} others" if others else ""
        lasted = duration(at - submission.candidates_from)
        return (
            f"it waits for batch {first}{more}, which may be its own or another tenant's and had "
            f"not ended {lasted} ago: only the results tell. A batch ends within 24 hours"
        )
    if submission.waits_for is not None:
        return f"it is not sent again, since the API's list proves nothing: {submission.waits_for}"
    return "the API's list is consulted until it is found, or proven absent"


def _missing_lines(submission: Submission, name: str, at: float) -> NightWarning:
    """What is missing of a batch whose results are fetched again and again."""
    rest = submission.until_download(at)
    kept = ""
    if submission.published is not None:
        kept = "The other answers are published"
        again = submission.published["counts"].get("again", 0)
        kept += f", of which {again:,} failed and are asked again after it; " if again else "; "
    return NightWarning(
        "results_incomplete",
        f"batch {name}, after {submission.downloads} whole downloads: {submission.error} {kept}"
        f"the next download is due in {duration(rest)}, and nothing of it is sent again meanwhile",
        name,
        key="published" if kept else "",
        alerts=bool(kept),
    )


def _failed_download(submission: Submission, name: str, at: float) -> NightWarning:
    """The results of a batch that the API does not give now."""
    rest = submission.until_download(at)
    waited = at - (submission.ended_at if submission.ended_at is not None else at)
    return NightWarning(
        "download_failed",
        f"the download of batch {name} failed ({submission.error}; number "
        f"{submission.failed_downloads} in a row); the next one is due in {duration(rest)}, and "
        "nothing of it is sent again meanwhile",
        name,
        alerts=waited > UNKNOWN_LASTS_SECONDS,
    )


def _near_expiry(name: str, left: float) -> Iterator[NightWarning]:
    if left > NEAR_EXPIRY_SECONDS:
        return
    when = (
        f"expires in {duration(left)}" if left > 0 else f"should have expired {duration(-left)} ago"
    )
    yield NightWarning(
        "near_expiry",
        f"batch {name} {when} and has not been seen to end; what it leaves unanswered is sent "
        "again",
        name,
    )


def _uncollected(submission: Submission, name: str, at: float) -> Iterator[NightWarning]:
    if submission.accepted_at is not None:
        left = submission.accepted_at + RESULTS_KEPT_SECONDS - at
        if left <= 0:
            yield NightWarning(
                "results_gone",
                f"the results of batch {name} were not collected within 29 days; the API has "
                f"deleted them {duration(-left)} ago. Its documents are set aside with the next "
                "run",
                name,
            )
            return
        if left <= NEAR_DELETION_SECONDS:
            yield NightWarning(
                "results_near_deletion",
                f"the results of batch {name} are deleted by the API in {duration(left)} and are "
                "not collected; run the night, or switch its sensor on",
                name,
            )
            return
    if submission.state is State.ENDED and submission.failed_downloads:
        yield _failed_download(submission, name, at)
    elif submission.state is State.ENDED and submission.downloads:
        yield _missing_lines(submission, name, at)
    waited = at - (submission.ended_at if submission.ended_at is not None else at)
    if submission.state is State.ENDED and waited > UNCOLLECTED_SECONDS:
        yield NightWarning(
            "uncollected",
            f"batch {name} ended {duration(waited)} ago and is not collected; is the sensor "
            "switched on? `batch-pipeline run` collects too",
            name,
        )
