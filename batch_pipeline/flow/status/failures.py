"""Nights that fail: why, and what to do about it, where a person looks who was not there.

A step that ends with an error leaves its reason with the night in the ledger, sends an alert, and
writes a short report. The next step of its kind that ends well takes that away. What a gate or a
pause holds back is no failure: that is told as the night's state. Where the ledger cannot be
written, the message is sent all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from batch_pipeline import logs
from batch_pipeline.api.failures import cause_of, is_outage, refuses_account, refuses_key
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import (
    AccountError,
    AccountPausedError,
    ApiError,
    BatchPipelineError,
    GateClosedError,
    InputDataError,
    LedgerError,
    NoCredentialsError,
    StorageError,
    UsageError,
)
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import (
    alerts,
    failure_page,
    night_state,
    notification,
    progress,
    warnings,
)
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.flow.status.warnings import GATES, HOME_UNAVAILABLE, STORAGE
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.accounts.accounts import REFUSED_TIMES
from batch_pipeline.ledger.admission.night_state import Kind
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.safe_text import get_logger, one_line
from batch_pipeline.storage import remote, storage_errors
from batch_pipeline.wording import clipped

log = get_logger(__name__)

ACCOUNT, API, INTERNAL = "account", "api", "internal"
# Causes that pass, by themselves or once a person has seen to them: then the night goes on.
PASSING = (ACCOUNT, API, STORAGE)
# Causes that are a night's state already, with an alert of their own.
TOLD = frozenset({Kind.REFUSED, Kind.SHORT_OF_BUDGET, *GATES})
REASON_CHARACTERS = 1_000
# How long a step that has failed waits for its page to be written. It gives no signs of life any
# more, so that its run would be taken for dead after a lease.
PAGE_SECONDS = 10.0
# A step that runs the whole night: what it has come through, no other step has to.
WHOLE = "run"


@dataclass(frozen=True)
class Failure:
    """Why a step of a night ended; `reason` and `remedy` are clauses without a full stop."""

    code: str
    reason: str
    remedy: str


@contextmanager
def recorded(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    *,
    step: str,
    by: str,
    asks: bool = False,
    apart: Callable[[Exception], bool] = lambda _: False,
    is_done: bool = True,
) -> Iterator[None]:
    """Record, tell and raise again an error that ends the block, which is a step of a night; take
    away the failure of an earlier such step where it ends well.

    `by` says which run or person it is, `asks` that the night's submission is wanted. Errors that
    are `apart` concern the run alone: they are not recorded. Without `is_done` the block is a part
    of the step, which overcomes no failure of the other parts.
    """
    with logs.context(job=spec.name, partition=partition):
        try:
            yield
        except GateClosedError:
            # A state of the night. What an earlier run failed at was passed on the way to the gate.
            with contextlib.suppress(Exception):
                overcome(pipeline, spec, partition, step, but=ACCOUNT)
            raise
        except Exception as error:
            if apart(error):
                raise
            try:
                record(pipeline, spec, partition, error, step=step, by=by, asks=asks)
            except Exception as problem:  # noqa: BLE001  # the error itself is what counts
                _tell_without_ledger(pipeline, spec, partition, error, problem)
            raise
        if is_done:
            with contextlib.suppress(Exception):  # the step has done its work
                overcome(pipeline, spec, partition, step)


def record(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    error: Exception,
    *,
    step: str,
    by: str,
    asks: bool = False,
) -> None:
    """Leave an error with its night, which is made where it is new, and tell of it."""
    found = explain(spec, partition, error, pipeline.settings.home)
    night = _night(pipeline, spec, partition, by_hand=step == WHOLE, error=error)
    if night is None:
        return
    with pipeline.ledger.write() as connection:
        if asks:
            nights.update_night(connection, night.id, asked_at=now(connection))
        state = progress.of_night(connection, night.id)
        is_new = not _is_told(state, spec, error)
        if is_new:
            failure = _as_json(found, night, step=step, by=by, at=now(connection))
            state = replace(state, night=replace(state.night, failure=failure))
            failure["of_sender"] = warnings.is_of_sender(state)
            nights.update_night(connection, night.id, failure=failure)
    # A new alert is logged with the same words.
    if not alerts.look(pipeline, spec.alerts, state):
        log.error("%s %s failed: %s; %s", spec.name, partition, found.reason, found.remedy)
    if is_new and not state.complete:
        # The home may be what has failed, and was waited for long enough.
        with contextlib.suppress(Exception), remote.patience(PAGE_SECONDS):
            failure_page.write(pipeline, state.night)


def passes(error: BaseException, home: str) -> bool:
    """Whether a step that ended with an error is worth repeating once its cause is gone."""
    return isinstance(error, Exception) and _code(error, home) in PASSING


def is_of_account(error: BaseException) -> bool:
    """Whether the API refuses the key or the account, or there is no key."""
    if isinstance(error, ApiFailure):
        return refuses_account(error)
    return isinstance(error, AccountError | NoCredentialsError)


@contextmanager
def of_storage_told(pipeline: Pipeline, what: str) -> Iterator[None]:
    """Tell of an error of home or ledger in the block, which is no step of a night."""
    try:
        yield
    except Exception as error:
        home = pipeline.settings.home
        if _code(error, home) == STORAGE:
            _send_unrecorded(pipeline, what, str(storage_errors.explain(error, home) or error))
        raise


def explain(spec: JobSpec, partition: str, error: Exception, home: str) -> Failure:
    """What an error says to a person who was not there."""
    code = _code(error, home)
    known = storage_errors.explain(error, home) if code == STORAGE else None
    said = str(known if known is not None and not isinstance(error, StorageError) else error)
    if code == INTERNAL:
        said = f"{type(error).__name__}: {said}"
    # What messages of the home say of going on is said by the remedy.
    said = one_line(said.partition("Nothing is lost")[0])
    # Each place that shows the reason names the night itself.
    said = said.removeprefix(f"{spec.name} {partition}: ")
    reason = clipped(said.strip().rstrip("."), REASON_CHARACTERS)
    again = f"`batch-pipeline run {spec.name} --partition {partition}`"
    paused = isinstance(error, AccountPausedError)
    remedy = _SETTLE if paused else _REMEDIES.get(code, f"correct it, {_AGAIN}")
    return Failure(code, reason, remedy.format(again))


def _code(error: Exception, home: str) -> str:
    """The kind of an error: that of the command line's JSON, with few exceptions."""
    if is_of_account(error):
        return ACCOUNT
    if isinstance(error, ApiFailure):
        return API
    if isinstance(error, LedgerError) and _is_of_database(error):
        return STORAGE
    if isinstance(error, BatchPipelineError):
        return error.code
    return INTERNAL if storage_errors.explain(error, home) is None else STORAGE


def _is_of_database(error: LedgerError) -> bool:
    """Whether a ledger could not be opened because its database does not answer."""
    cause = error.__cause__
    return isinstance(cause, sa.exc.DBAPIError) and not storage_errors.is_damage(cause)


_BY_ITSELF = "under Dagster the night goes on by itself then, otherwise with {0}"
_AGAIN = "then launch the night again, or {0}"
_SETTLE = f"settle it in the API's console; {_BY_ITSELF}"
# What is to be done, by code; {0} is the command that runs the night.
_REMEDIES = {
    ACCOUNT: f"give the account a key that the API takes, wherever nights are run; {_BY_ITSELF}",
    API: f"nothing is lost, and the API's status page may tell more; {_BY_ITSELF}",
    STORAGE: f"see to the disk, the bucket or the database; {_BY_ITSELF}",
    InputDataError.code: f"put the data right, {_AGAIN}",
    INTERNAL: (
        "this may be a fault of batch-pipeline: the log of its run has the trace; launch the night "
        "again, or {0}"
    ),
}


def _night(
    pipeline: Pipeline, spec: JobSpec, partition: str, *, by_hand: bool, error: Exception
) -> Night | None:
    """The night that failed, made where it is new; None: a wrong command in a new home, which is
    told to the person who typed it and leaves nothing behind."""
    owner = pipeline.likely_owner(spec)
    with pipeline.ledger.read() as connection:
        known = nights.find_night(connection, spec.name, partition, owner.name)
        begun = bool(known or nights.list_nights(connection, job=spec.name))
    if by_hand and isinstance(error, UsageError) and not begun:
        return None
    if _is_of_sender(error):
        # No fault of the moment, since a step has failed for it: alerts tell of it at once.
        pipeline.connections.note_unusable(owner, error, times=REFUSED_TIMES)
    else:
        pipeline.connections.register(owner)
    with pipeline.ledger.write() as connection:
        return nights.open_night(connection, spec.name, partition, owner.name)


def _is_of_sender(error: Exception) -> bool:
    """Whether the API refuses the key or the account that asked, or does not answer."""
    cause = cause_of(error)
    if cause is None:
        return False
    return isinstance(error, AccountPausedError) or is_outage(cause) or refuses_key(cause)


def _is_told(state: Progress, spec: JobSpec, error: Exception) -> bool:
    """Whether an error is but the night's state, which is told with an alert of its own."""
    if not isinstance(error, ApiError):
        return False
    return night_state.of_progress(state, spec.alerts).kind in TOLD


def _as_json(found: Failure, night: Night, *, step: str, by: str, at: float) -> dict[str, Any]:
    """What the ledger keeps; `since`: the first time in a row that it failed for such a reason.

    `of_sender` is added: whether its account was refused, paused or unanswered then, which has an
    alert of its own.
    """
    before = night.failure or {}
    since = before["since"] if before.get("code") == found.code else at
    return {**asdict(found), "at": at, "since": since, "step": step, "by": by}


def overcome(
    pipeline: Pipeline, spec: JobSpec, partition: str, step: str, *, but: str | None = None
) -> None:
    """Take away failures of the partition that a step which ended well has overcome, except those
    of the code `but`.

    Of all owners: before the API has answered, the night's owner is a guess.
    """
    with pipeline.ledger.read() as connection:
        every = nights.list_nights(connection, job=spec.name, partition=partition)
    found = [
        night
        for night in every
        if night.failure is not None
        and (step == WHOLE or night.failure["step"] in (step, WHOLE))
        and night.failure["code"] != but
    ]
    if not found:
        return
    with pipeline.ledger.write() as connection:
        for night in found:
            nights.update_night(connection, night.id, failure=None)
            if night.failure is not None and night.failure["code"] == ACCOUNT:
                for account in night.sent_by:
                    accounts.note_accepted(connection, account)
    failure_page.remove(pipeline, found[0])


def _tell_without_ledger(
    pipeline: Pipeline, spec: JobSpec, partition: str, error: Exception, problem: Exception
) -> None:
    """Tell of a failure that the ledger cannot hold: a full disk, a database that is down, an
    accounts.yaml that does not say whose the night is."""
    found = explain(spec, partition, error, pipeline.settings.home)
    text = f"{found.reason}; {found.remedy}"
    if problem is not error:
        text += f" (the ledger does not hold this: {clipped(one_line(str(problem)), 300)})"
    log.error("%s %s failed: %s", spec.name, partition, text)
    of_home = _code(problem, pipeline.settings.home) == STORAGE
    code = HOME_UNAVAILABLE if of_home else "night_failed"
    _send_unrecorded(pipeline, f"{spec.name} {partition}", text, code=code)


def _send_unrecorded(
    pipeline: Pipeline, place: str, text: str, *, code: str = HOME_UNAVAILABLE
) -> None:
    with contextlib.suppress(Exception):  # an alert must not hide what it is about
        notification.send_unrecorded(
            pipeline.settings.alert_urls,
            f"{place}: {notification.TITLES[code]}",
            text,
            about=f"{code} {pipeline.settings.ledger_url}",
        )
