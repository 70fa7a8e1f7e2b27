"""An API that does not answer: noted in the ledger for `status` and alerts, and waited for.

The command line and the steps of Dagster's runs wait here at their start, as they do in the middle
of a night. Dagster's own retries are of no use for that: a run gives no sign of life while it waits
for one, and would be taken for dead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from batch_pipeline.api.failures import cause_of, is_outage, most_hopeful, refuses_key
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import ApiUnavailableError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import alerts, progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# A wait that goes on is logged again after this time.
LOG_SECONDS = 300.0


def wait_for_api(
    pipeline: Pipeline, spec: JobSpec, partition: str, *, patience: float = math.inf
) -> None:
    """Return once the API answers, asked again after each poll interval.

    An alert is sent for the night when that takes long. Raises ApiUnavailableError, or ApiFailure,
    where it takes longer than `patience` (seconds).
    """
    began = time.monotonic()
    told, told_at = "", 0.0
    while True:
        try:
            _ask_once(pipeline, spec)
            return
        except (ApiUnavailableError, ApiFailure) as error:
            if not is_outage(error):
                raise
            # The API alone could tell whether it is a simulator, whose nights are its own.
            owner = pipeline.likely_owner(spec)
            pipeline.connections.note_unusable(owner, error)
            with pipeline.ledger.write() as connection:
                night = nights.open_night(connection, spec.name, partition, owner.name)
                state = progress.of_night(connection, night.id)
            alerts.look(pipeline, spec.alerts, state)
            if time.monotonic() - began >= patience:
                raise
            pause = pipeline.settings.poll_seconds
            said = _said(error)
            if said != told or time.monotonic() - told_at >= LOG_SECONDS:
                told, told_at = said, time.monotonic()
                place = f"{spec.name} {partition}"
                log.warning("%s waits for the API, asked every %.0f s: %s", place, pause, said)
        time.sleep(pause)


def _ask_once(pipeline: Pipeline, spec: JobSpec) -> None:
    """Return if one of the job's accounts answers; raises one of the failures where none does."""
    pipeline.owner(spec)
    failures: list[ApiFailure] = []
    for each in pipeline.answering(spec):
        try:
            with noted(pipeline, each.names.name):
                return
        except ApiFailure as failure:
            failures.append(failure)
    raise most_hopeful(failures)


@contextmanager
def noted(pipeline: Pipeline, account: str) -> Iterator[None]:
    """Note an outage or a refusal of the key that shows in the block, which asks the API; and the
    end of one that is known.

    Where one is known the API is asked once more, because the block need not ask anything.
    """
    with pipeline.ledger.read() as connection:
        found = accounts.get_account(connection, account)
    known = found.unanswered or found.refused
    try:
        if known is not None:
            pipeline.api_of(account).list_batches(None, 1)
        yield
    except ApiFailure as failure:
        note(pipeline, account, failure)
        raise
    if known is not None:
        with pipeline.ledger.write() as connection:
            accounts.note_answered(connection, account)
            accounts.note_accepted(connection, account)


def note(pipeline: Pipeline, account: str, failure: ApiFailure) -> None:
    """Note that the API did not answer, or that it refuses the key; any refusal is an answer."""
    with pipeline.ledger.write() as connection:
        if is_outage(failure):
            accounts.note_unanswered(connection, account, str(failure))
            return
        if accounts.get_account(connection, account).unanswered is not None:
            accounts.note_answered(connection, account)
        if refuses_key(failure):
            accounts.note_refused(connection, account, str(failure))


def note_of_any(pipeline: Pipeline, senders: Sequence[str], failure: ApiFailure) -> None:
    """As `note`, for a failure in a step of a night that these accounts send.

    Of several accounts, the one that failed was noted where it was asked.
    """
    if len(senders) == 1:
        note(pipeline, senders[0], failure)


def _said(error: Exception) -> str:
    """How the API failed, in its own words: the error tells a person to run again, too."""
    return str(cause_of(error) or error)
