"""Polls the API for batches that have ended: those of a whole account in as few calls as possible.

Belongs here: which calls ask, and what their answers mean for submissions in flight. Submissions
whose batch id is not known are looked for in `reconciliation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batch_pipeline.api.protocol import Api, ApiFailure, BatchInfo
from batch_pipeline.flow.batches import cancel, listing
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status.batch_warnings import RESULTS_KEPT_SECONDS
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database import ledger
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# Up to this number of batches one retrieve for each costs no more calls than pages of the list.
FEW = 2
# How far the API's clock may differ. With a larger difference the list is left too early, and
# batches are asked for one by one.
CLOCKS_DIFFER_SECONDS = 2 * 86_400.0


def poll(pipeline: Pipeline, account: str) -> list[Submission]:
    """Mark the account's batches that have ended, in all its nights; returns their submissions."""
    with pipeline.ledger.read() as connection:
        in_flight = submissions.of_account(connection, account, State.ACCEPTED)
        known = accounts.get_account(connection, account)
    api = pipeline.api_of(account)
    infos = look_up(api, in_flight) if in_flight else {}
    workspace = api.workspace
    if workspace is not None and {workspace} != {known.workspace, known.key_workspace}:
        with pipeline.ledger.write() as connection:
            accounts.note_workspace(connection, account, workspace, in_flight=bool(in_flight))
    if not in_flight:
        return []
    _note_missing(pipeline, in_flight, infos)
    for submission in in_flight:
        if submission.batch_id not in infos:
            _end_if_deleted(pipeline, submission)
    cancel.repeat(pipeline, [s for s in in_flight if _ignores_cancel(s, infos)])
    ended = [s for s in in_flight if s.batch_id in infos and infos[s.batch_id].ended]
    if ended:
        with pipeline.ledger.write() as connection:
            for submission in ended:
                transitions.end(connection, submission)
    return ended


def _note_missing(
    pipeline: Pipeline, in_flight: Sequence[Submission], infos: Mapping[str, BatchInfo]
) -> None:
    """Note which batches the API does not know, for `status` and alerts to tell.

    A new batch may be missing for minutes. None of all that are in flight: the key may be one of
    another workspace.
    """
    missing = {s.id for s in in_flight if s.batch_id not in infos}
    if not missing and not any(s.missing_since is not None for s in in_flight):
        return
    with pipeline.ledger.write() as connection:
        at = ledger.now(connection)
        for submission in in_flight:
            transitions.note_missing(connection, submission, at, missing=submission.id in missing)


def _ignores_cancel(submission: Submission, infos: Mapping[str, BatchInfo]) -> bool:
    """Whether a cancel was recorded and the API processes the batch as if it had none."""
    info = infos.get(submission.batch_id or "")
    cancelled = submission.cancel_requested_at is not None
    return cancelled and info is not None and info.processing_status == "in_progress"


def _end_if_deleted(pipeline: Pipeline, submission: Submission) -> None:
    """Mark a batch that the API does not list as ended once it is older than results are kept.

    Its night would otherwise wait for ever; `results.lost_results` settles its requests.
    """
    with pipeline.ledger.write() as connection:
        made = submission.accepted_at
        if made is not None and ledger.now(connection) > made + RESULTS_KEPT_SECONDS:
            transitions.end(connection, submission)


def look_up(api: Api, in_flight: Sequence[Submission]) -> dict[str, BatchInfo]:
    """Batches by id; a batch that the API does not know, yet or any more, is left out.

    Reads the list from the newest batch on, until asking for each missing batch by its id costs
    fewer calls than going on.
    """
    wanted = {s.batch_id for s in in_flight if s.batch_id is not None}
    oldest = min(s.accepted_at or s.intent_at for s in in_flight) - CLOCKS_DIFFER_SECONDS
    found: dict[str, BatchInfo] = {}

    def enough(read: Sequence[BatchInfo]) -> bool:
        before = len(found)
        found.update((batch.id, batch) for batch in read if batch.id in wanted)
        made = read[-1].created_at
        # A page of other tenants' batches alone: any number of such pages may follow.
        none_here = len(found) == before
        return len(wanted) - len(found) <= FEW or none_here or (made or oldest) < oldest

    if len(wanted) > FEW:
        try:
            listed = listing.read_list(api, enough)
            found.update((batch.id, batch) for batch in listed.batches if batch.id in wanted)
        except ApiFailure as failure:
            if failure.status != 200:
                raise
            log.info("the list cannot be read, each batch is asked for: %s", failure)
    for batch_id in sorted(wanted - found.keys()):
        try:
            found[batch_id] = api.retrieve_batch(batch_id)
        except ApiFailure as failure:
            if failure.status != 404:
                raise
            # For minutes after a create and after an end the API answers 404 for batches that
            # exist: it proves nothing.
            log.info("batch %s is not there now; asked again with the next poll", batch_id)
    return found
