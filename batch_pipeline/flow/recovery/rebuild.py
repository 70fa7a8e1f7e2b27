"""Makes a night's rows of the ledger again from what its home holds.

What is there already stays, so that a recovery that was killed is simply run again. Answers that
are in the home settle their items; a batch whose answers are not there is looked for at the API;
calls go on from their journal. Waiting shards are dropped: what is open is planned anew, by the one
rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from batch_pipeline.errors import BatchPipelineError, InputDataError
from batch_pipeline.flow import paths, steps
from batch_pipeline.flow.answers.answers import REST
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.recovery import copies, tally
from batch_pipeline.flow.recovery.copies import Copied
from batch_pipeline.flow.recovery.found import Found, without_manifest
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.results.typed import rows
from batch_pipeline.jobs.accounts.accounts_file import AccountNames
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.jobs.yaml_files.loading import find_job
from batch_pipeline.ledger import nights, shards
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.home import restoring
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.safe_text import get_logger
from batch_pipeline.settings import is_simulated
from batch_pipeline.storage.files import Files

log = get_logger(__name__)

COLLECTED, TO_COLLECT, TO_FIND, CALLS, UNNAMED = (
    "collected", "to_collect", "looked_for", "calls", "unidentified",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """What was found of one night of one owner: submissions, and files of copied answers."""

    job: str
    partition: str
    owner: str
    found: Sequence[Found]
    copied: Sequence[Copied] = ()


def parts_of(found: Sequence[Found], copied: Sequence[Copied], likely: AccountNames) -> list[Part]:
    """What was found by night; submissions of which nothing names the account are taken for those
    of the `likely` one."""
    grouped: dict[tuple[str, str, str], list[Found]] = {}
    copies: dict[tuple[str, str, str], list[Copied]] = {}
    for file in copied:
        key = (file.job, file.partition, file.owner)
        grouped.setdefault(key, [])
        copies.setdefault(key, []).append(file)
    for one in found:
        one.owner = one.owner or likely.owner
        one.account = one.account or likely.name
        grouped.setdefault((one.job, one.partition, one.owner), []).append(one)
    return [Part(*key, ones, copies.get(key, ())) for key, ones in sorted(grouped.items())]


def fate_of(one: Found) -> str:
    """What is made of a found submission.

    Lines that the home has are collected as if they were downloaded; where it has none, rows of
    results stand for them. What is asked again or judged needs the files of its snapshot.
    """
    if one.answers is not None:
        return COLLECTED
    lines = one.journal or one.raw
    if one.shown and not (lines and one.readable):
        return COLLECTED
    if one.sent is None or not one.readable:
        return UNNAMED
    if one.sent.engine == "realtime":
        return CALLS
    return TO_COLLECT if one.batch_id is not None else TO_FIND


def restore(pipeline: Pipeline, part: Part) -> None:
    """Make the rows of a night, and build its results folder from the answers that are there."""
    spec = _declared(pipeline, part.job)
    deduplicate = spec is None or spec.deduplicate
    models = [one.model for one in part.found if one.model is not None]
    lost = _lost_snapshot(models[0] if models else spec.model_id if spec else "")
    snapshots = _snapshots(pipeline, part)
    tallies: dict[str, list[tally.Tally]] = {}
    requests: dict[str, tally.Requests | None] = {}
    for one in part.found:
        known = None if one.sent is None else snapshots.get(one.sent.snapshot)
        requests[one.token] = asked = tally.requests_of(pipeline.files, one.sent, known)
        if fate_of(one) == COLLECTED:
            one.answers = _named_by_token(pipeline.files, one) or tally.answers_from_results(
                pipeline.files, one, deduplicate=deduplicate
            )
            rest = one.answers.replace(".parquet", f"{REST}.parquet")
            files = [one.answers, *pipeline.files.glob(rest)]
            read = [tally.of_answers(pipeline.files, path, asked) for path in files]
            tallies[one.token] = [each for each in read if each is not None]
    with pipeline.ledger.write() as connection:
        for name in {one.account for one in part.found if one.account is not None}:
            accounts.register(connection, _names(pipeline, name, part.owner))
        accounts.register_account(connection, part.owner, simulated=is_simulated(part.owner))
        night = nights.open_night(connection, part.job, part.partition, part.owner)
        current = night.snapshot_id
        for file in part.copied:
            snapshot_id = copies.restore(connection, night, file, snapshots, lost)
            current = snapshot_id if file.snapshot in snapshots else current
        for one in sorted(part.found, key=lambda one: _left_at(one, tallies)):
            counted = tallies.get(one.token, [])
            if not counted and fate_of(one) in (COLLECTED, UNNAMED):
                continue
            sent = one.sent or without_manifest(one)
            sent = replace(sent, intent_at=_left_at(one, tallies) or now(connection))
            known = snapshots.get(sent.snapshot)
            snapshot_id = restoring.snapshot(connection, night, known or lost)
            if known is not None:
                current = snapshot_id
            asked = requests[one.token]
            parts = asked.parts if asked is not None else None
            made = restoring.submission(
                connection, night, snapshot_id, sent, one.batch_id, parts=parts
            )
            if counted and made.collected_at is None:
                whole = sum(each.answers for each in counted) >= sent.requests
                booked = [(each.counts, each.cost_usd) for each in counted]
                restoring.collected(connection, made, booked, whole=whole)
        # An older ledger has shards whose requests were planned otherwise after it, and bought.
        shards.drop_waiting(connection, night.id)
        night = nights.get_night(connection, night.id)
        nights.update_night(
            connection,
            night.id,
            snapshot_id=current,
            revision=night.revision + 1,
            completed_at=None,
            refused=None,
        )
        shown = nights.shown_night(connection, part.job, part.partition)
        if shown is None or is_simulated(shown.owner):
            nights.show_night(connection, night)
    _settle(pipeline, pipeline.refreshed(night), lost, spec)


def _names(pipeline: Pipeline, account: str, owner: str) -> AccountNames:
    """An account that a home names, which need not be declared any more."""
    simulated = is_simulated(owner)
    declared = pipeline.accounts.declared_as(account)
    if declared is not None:
        names = pipeline.accounts.names(declared, simulated=simulated)
        if names.name == account:
            return names
    return AccountNames(account, owner, account, simulated=simulated)


def _named_by_token(files: Files, one: Found) -> str | None:
    """The path of a submission's answers, which get the name that the ledger looks for.

    In a remote home the ledger knew their name, and that of the rest.
    """
    if one.answers is None or not files.is_remote:
        return one.answers
    folder = one.answers.rpartition("/")[0]
    for path in files.glob(f"{folder}/{one.token}*.parquet"):
        suffix = REST if f"/{one.token}{REST}" in path else ""
        if path != (target := f"{folder}/{one.token}{suffix}.parquet"):
            files.move(path, target)
    return f"{folder}/{one.token}.parquet"


def _settle(pipeline: Pipeline, night: Night, lost: NewSnapshot, spec: JobSpec | None) -> None:
    """Build the results folder, count what is open, and mark the night complete if it is."""
    if night.snapshot_id is None:
        # Its input is read again by the next run, which finds its answers then. A night that was
        # pruned is done for good.
        if _was_pruned(pipeline, night):
            _close(pipeline, night, lost)
        return
    if not night.published:
        return
    _declare_output(pipeline, night, spec)
    results_folder.rebuild(pipeline, night)
    seen = plan.view(pipeline, night)
    left = plan.count_unsettled(pipeline, seen)
    with pipeline.ledger.write() as connection:
        nights.update_night(connection, night.id, open_requests=left)
    steps.finish(pipeline, pipeline.refreshed(night))


def _declare_output(pipeline: Pipeline, night: Night, spec: JobSpec | None) -> None:
    """Let a night publish the typed rows that its job declares, if it is still declared."""
    try:
        if spec is not None:
            rows.declare(pipeline, spec, night)
    except InputDataError as error:
        log.warning("%s %s: without its typed rows: %s", night.job, night.partition, error)


def _was_pruned(pipeline: Pipeline, night: Night) -> bool:
    """Whether a night without its snapshots was complete: its report says so."""
    data = pipeline.files.read(paths.report(night.job, night.partition, ".json"))
    folder = paths.snapshots(night.job, night.partition)
    if data is None or pipeline.files.glob(f"{folder}/*/*.parquet"):
        return False
    return bool(orjson.loads(data).get("complete"))


def _close(pipeline: Pipeline, night: Night, lost: NewSnapshot) -> None:
    """Restore a pruned night from its results: complete, its input not to be read again."""
    files = pipeline.files.list(paths.results(night.job, night.partition), ".parquet")
    settled = pipeline.files.dataset(files).to_table(["status"]).column("status").to_pylist()
    statuses = Counter(settled)
    # All of its requests count as made before: none is to be planned.
    new = replace(lost, folder="pruned", items=len(settled), kept=len(settled))
    with pipeline.ledger.write() as connection:
        snapshot_id = restoring.snapshot(connection, night, new)
        restoring.settled(connection, snapshot_id, statuses)
        at = now(connection)
        nights.update_night(
            connection, night.id, snapshot_id=snapshot_id, open_requests=0, pruned_at=at,
            completed_at=at,
        )  # fmt: skip


def _left_at(one: Found, tallies: dict[str, list[tally.Tally]]) -> float:
    """When a submission left; where that is not known, when its answers were collected; or 0."""
    if one.sent is not None and one.sent.intent_at:
        return one.sent.intent_at
    counted = tallies.get(one.token)
    return counted[0].collected_at.timestamp() if counted else 0.0


def _snapshots(pipeline: Pipeline, part: Part) -> dict[str, NewSnapshot]:
    """The snapshots of found submissions whose files are there, by folder."""
    known = {}
    folders = {one.sent.snapshot for one in part.found if one.sent is not None}
    for folder in folders | {file.snapshot for file in part.copied}:
        data = pipeline.files.read(paths.snapshot_facts(folder)) if folder else None
        if data is not None:
            known[folder] = NewSnapshot.from_json({**orjson.loads(data), "folder": folder})
    return known


def _lost_snapshot(model_id: str) -> NewSnapshot:
    """Stands for a snapshot whose files are gone: answers that it asked for refer to it."""
    declaration = Declaration(model_id, 1, None, "", {}, (), None, True, "id", 0)
    return NewSnapshot(
        folder="lost",
        signature="",
        content_hash="",
        declaration_hash=declaration.hash,
        declaration=declaration.to_json(),
        parts=0,
        items=0,
        set_aside={},
        duplicates=0,
        request_bytes=0,
    )


def _declared(pipeline: Pipeline, job: str) -> JobSpec | None:
    """The job, where it is still declared."""
    try:
        return find_job(pipeline.settings.jobs_dir, job)
    except BatchPipelineError:
        return None
