"""An API that does not answer: noted in the ledger for `status` and alerts, and waited for.

The command line and the steps of Dagster's runs wait here at their start, as they do in the middle
of a night. Dagster's own retries are of no use for that: a run gives no sign of life while it waits
for one, and would be taken for dead.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from batch_pipeline.api.failures import is_outage, refuses_key
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import ApiUnavailableError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import alerts, progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import accounts, nights
from batch_pipeline.safe_text import get_logger
from batch_pipeline.settings import SIMULATOR_ACCOUNT

log = get_logger(__name__)


def wait_for_api(
    pipeline: Pipeline, spec: JobSpec, partition: str, *, patience: float = math.inf
) -> None:
    """Return once the API answers, asked again after each poll interval.

    An alert is sent for the night when that takes long. Raises ApiUnavailableError, or ApiFailure,
    where it takes longer than `patience` (seconds).
    """
    began = time.monotonic()
    while True:
        try:
            with noted(pipeline, pipeline.account.name):
                return
        except (ApiUnavailableError, ApiFailure) as error:
            if not is_outage(error):
                raise
            name = note_unreached(pipeline, error)
            with pipeline.ledger.write() as connection:
                night = nights.open_night(connection, spec.name, partition, name)
                state = progress.of_night(connection, night.id)
            alerts.look(pipeline, spec.alerts, state)
            if time.monotonic() - began >= patience:
                raise
            pause = pipeline.settings.poll_seconds
            place = f"{spec.name} {partition}"
            log.warning("%s waits for the API, asked again in %.0f s: %s", place, pause, error)
        time.sleep(pause)


@contextmanager
def noted(pipeline: Pipeline, account: str) -> Iterator[None]:
    """Note an outage or a refusal of the key that shows in the block, which asks the API; and the
    end of one that is known.

    Where one is known the API is asked once more, because the block need not ask anything.
    """
    with pipeline.ledger.read() as connection:
        known = accounts.get_account(connection, account)
    troubled = known.unanswered is not None or known.refused is not None
    try:
        if troubled:
            pipeline.api.list_batches(None, 1)
        yield
    except ApiFailure as failure:
        note(pipeline, account, failure)
        if refuses_key(failure):
            with pipeline.ledger.write() as connection:
                accounts.note_refused(connection, account, str(failure))
        raise
    if troubled:
        with pipeline.ledger.write() as connection:
            accounts.note_answered(connection, account)
            accounts.note_accepted(connection, account)


def note(pipeline: Pipeline, account: str, failure: ApiFailure) -> None:
    """Note that the API did not answer; a refusal is an answer."""
    with pipeline.ledger.write() as connection:
        if is_outage(failure):
            accounts.note_unanswered(connection, account, str(failure))
        elif accounts.get_account(connection, account).unanswered is not None:
            accounts.note_answered(connection, account)


def note_unreached(pipeline: Pipeline, error: Exception) -> str:
    """Note that the API did not answer at the start, where it alone could tell which account the
    key belongs to; returns the name of the account that it is taken for."""
    with pipeline.ledger.write() as connection:
        name = accounts.likely(connection, pipeline.settings.account)
        accounts.register_account(connection, name, simulated=name == SIMULATOR_ACCOUNT)
        accounts.note_unanswered(connection, name, str(error))
    return name
