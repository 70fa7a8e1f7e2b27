"""Warnings of a night's batches: near their expiry, of unknown outcome, ended and not collected.

Those of the night itself are in `warnings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.wording import duration, moment

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
# A cancel takes minutes; a batch that does not end after it is waited for until it expires.
CANCEL_SECONDS = 1 * HOUR


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


def of_unknown(state: Progress) -> Iterator[NightWarning]:
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


def of_submission(submission: Submission, at: float) -> Iterator[NightWarning]:
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
