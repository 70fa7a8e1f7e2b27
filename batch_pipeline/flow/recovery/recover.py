"""Rebuilds a ledger that was lost, restored from before or exchanged, so that nothing that was
bought is bought again.

The rows come from the home, batches of which the home has no answers from the API's list. Only when
each listed batch is known to be ours or another tenant's are home and ledger bound to each other;
until then nothing can send (`home_mark`). Run again, it goes on; what is there stays.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import ApiError, LedgerError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.recovery import copies, listed, rebuild
from batch_pipeline.flow.recovery import found as home
from batch_pipeline.flow.recovery.found import Found
from batch_pipeline.flow.recovery.listed import Listed
from batch_pipeline.ledger.home import identity, restoring
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# What nothing in a home or at the API tells.
NOT_KNOWN = (
    "approvals of gates, cancels (a held night goes on) and alerts that were sent",
    "redrives: answers that were redriven count as final again",
    "deadlines that were fixed, and verdicts of pilots; they are judged again",
    "months of answers of an earlier version: ceilings count them for the month of collection",
    "prices that a job stated for answers collected since; their costs are as they were booked",
)


@dataclass(frozen=True)
class Recovered:
    """What a recovery has found, and made of it unless it was a dry run.

    `submissions` by what became of them; `possibly_billed` are calls without an answer. `complete`:
    home and ledger belong together again, and nights go on. `missing_documents` are paths in the
    home of kept documents without which requests cannot be made again.
    """

    accounts: Sequence[str]
    nights: Sequence[dict[str, Any]]
    submissions: dict[str, int]
    batches: Listed
    possibly_billed: Sequence[dict[str, Any]]
    unidentified: Sequence[str]
    dry_run: bool
    complete: bool
    not_known: Sequence[str] = NOT_KNOWN
    missing_documents: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        return {
            "account": ", ".join(self.accounts),
            "accounts": list(self.accounts),
            "nights": list(self.nights),
            "submissions": self.submissions,
            "batches": {
                "ours": self.batches.ours,
                "foreign": len(self.batches.foreign),
                "not_ended": self.batches.running,
                "unreadable": self.batches.unreadable,
            },
            "possibly_billed": list(self.possibly_billed),
            "unidentified": list(self.unidentified),
            "missing_documents": list(self.missing_documents),
            "not_known": list(self.not_known),
            "dry_run": self.dry_run,
            "complete": self.complete,
        }


def recover(
    pipeline: Pipeline, *, dry_run: bool = False, wait: bool = True, give_up: bool = False
) -> Recovered:
    """Rebuild the ledger of a home.

    With `wait` until every listed batch has ended. `give_up` lets nights go on although there are
    answers of which nothing tells whose requests they answer. Raises LedgerError for the ledger of
    another home, and ApiError where the list of an account cannot be read whole.
    """
    accounts = [pipeline.connections.connect(name).names for name in pipeline.accounts.by_name]
    mark = pipeline.mark
    told = mark.read()
    with pipeline.ledger.write() as connection:
        mine = identity.read(connection)
    if told is not None and mine.home not in (None, told["home"]):
        raise LedgerError(mark.another_home(mine))
    # A home of an earlier version has no marks: what was in flight has left nothing else.
    marked = told is not None or bool(mark.sent())
    with pipeline.ledger.read() as connection:
        known, taken = restoring.known(connection), restoring.manifests_sent(connection)
        copied = copies.find(pipeline.files, connection)
    collected = {token for token, state in known.items() if state is State.COLLECTED}
    found = home.find(pipeline.files, mark, collected, taken)
    lacking = [one for one in found if _is_lacking(one, known)]
    parts = rebuild.parts_of(lacking, copied, accounts[0])
    fates = Counter(rebuild.fate_of(one) for part in parts for one in part.found)
    billed = _possibly_billed(pipeline, [one for part in parts for one in part.found])
    unnamed = [one.token for one in found if rebuild.fate_of(one) == rebuild.UNNAMED]
    for part in parts if not dry_run else ():
        log.info("%s %s: %d submissions", part.job, part.partition, len(part.found))
        rebuild.restore(pipeline, part)
    tokens = {*known, *(one.token for one in found)} - set(unnamed)
    taken |= {one.sent.manifest for one in found if one.sent is not None}
    sizes = set() if marked else _sizes_of_unknown(pipeline, taken)
    while True:
        try:
            by_account = {
                each.name: listed.identify(pipeline, each.name, tokens, sizes, dry_run=dry_run)
                for each in accounts
            }
        except ApiFailure as failure:
            if dry_run or not wait or failure.status in (401, 403):
                raise ApiError(
                    f"The API's list of batches cannot be read whole ({failure}). Nothing is sent "
                    "before it can: run the same command again."
                ) from failure
            log.warning("the list cannot be read whole, and is read again: %s", failure)
        else:
            batches = Listed.of_all(by_account.values())
            if dry_run or not wait or not batches.pending:
                break
            log.info("%d listed batches have not ended; nothing is sent", len(batches.pending))
        time.sleep(pipeline.settings.poll_seconds)
    unidentified = [*unnamed, *batches.unnamed]
    complete = not dry_run and not batches.pending and (give_up or not unidentified)
    if complete:
        for name, found_there in by_account.items():
            listed.forget(pipeline, name, found_there.unnamed)
        highest = max((each.number for each in mark.sent()), default=0)
        with pipeline.ledger.write() as connection:
            identity.raise_sent(connection, highest)
        mark.bind()
    return Recovered(
        [each.name for each in accounts],
        [
            {"job": part.job, "partition": part.partition, "account": part.owner,
             "submissions": len(part.found)}
            for part in parts
        ],
        dict(fates),
        batches,
        billed,
        unidentified,
        dry_run,
        complete,
        missing_documents=sorted({path for one in found for path in one.missing_documents}),
    )  # fmt: skip


def _is_lacking(one: Found, known: Mapping[str, State]) -> bool:
    """Whether the ledger does not know a submission, or less of it than the home does."""
    state = known.get(one.token)
    if state is None:
        return rebuild.fate_of(one) != rebuild.UNNAMED
    behind = one.sent is not None and state in (State.INTENT, State.SEALED)
    return one.answers is not None or behind


def _possibly_billed(pipeline: Pipeline, found: Sequence[Found]) -> list[dict[str, Any]]:
    """Real-time calls without an answer: those that were in flight may have been billed."""
    billed = []
    for one in found:
        if rebuild.fate_of(one) == rebuild.CALLS and one.sent is not None:
            calls = home.calls_without_an_answer(pipeline.files, one.sent)
            if calls:
                billed.append({"job": one.job, "partition": one.partition, "calls_at_most": calls})
    return billed


def _sizes_of_unknown(pipeline: Pipeline, known: Collection[str]) -> set[int]:
    """The numbers of requests of manifests of which nothing tells whether they were sent."""
    every = pipeline.files.glob("*/manifests/*/partition=*/*.parquet")
    return {pipeline.files.dataset([path]).count_rows() for path in every if path not in known}
