"""Where the request of an item is that has no result yet, in words for a person."""

from __future__ import annotations

from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.inspect.snapshot_rows import SnapshotItem
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import manifests
from batch_pipeline.flow.status import night_state
from batch_pipeline.flow.status import progress as progress_of
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import shards
from batch_pipeline.ledger.admission.night_state import state_of
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard, ShardState
from batch_pipeline.ledger.submissions import submissions
from batch_pipeline.ledger.submissions.submissions import LIVE, State, Submission
from batch_pipeline.wording import moment

_STATES = {
    State.INTENT: "it is being sent",
    State.SEALED: "it is being sent",
    State.UNKNOWN: "it was sent, and whether the API has it is not known yet",
    State.ACCEPTED: "it is at the API",
    State.CALLING: "it is being asked in real time",
    State.ENDED: "it is answered, and its results are to be collected",
}


def of(pipeline: Pipeline, spec: JobSpec, night: Night, item: SnapshotItem | None) -> str:
    """Where the request of an item waits: in a batch, in a shard that may not go, or unplanned."""
    with pipeline.ledger.read() as connection:
        state = progress_of.of_night(connection, night.id)
        planned = shards.list_shards(connection, night.id, ShardState.WAITING, ShardState.CLAIMED)
        live = {s.shard_id: s for s in submissions.of_night(connection, night.id, *LIVE)}
    unit = None if item is None else item.unit
    shard = None if unit is None else _shard_with(pipeline, planned, unit)
    if shard is not None and (sent := live.get(shard.id)) is not None:
        return _in_flight(sent)
    facts = night_state.facts_of(state, spec.alerts, Declaration.of(spec))
    why = str(state_of(facts))
    if item is not None and item.answered_by is not None:
        return f"it waits for the answer of {item.answered_by!r}: {why}"
    if shard is not None:
        pilot = "the pilot's sample" if shard.pilot else f"a {shard.engine} shard"
        return f"it waits in {pilot} of {shard.requests:,} requests: {why}"
    return f"it is open and in no shard yet: {why}"


def _shard_with(pipeline: Pipeline, planned: list[Shard], unit: str) -> Shard | None:
    for shard in planned:
        units = manifests.read(pipeline.files, shard.manifest, ["unit"]).column("unit")
        if unit in units.to_pylist():
            return shard
    return None


def _in_flight(sent: Submission) -> str:
    text = _STATES.get(sent.state, f"it is {sent.state}")
    about = [f"{sent.requests:,} requests together"]
    if sent.batch_id is not None:
        about.insert(0, f"batch {sent.batch_id}")
    if sent.accepted_at is not None:
        about.append(f"accepted {moment(sent.accepted_at)}")
    if sent.expires_at is not None and sent.state is State.ACCEPTED:
        about.append(f"expires {moment(sent.expires_at)}")
    return f"{text} ({', '.join(about)})"
