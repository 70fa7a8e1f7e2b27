"""A night's input, taken: by one process, or in steps by several.

Belongs here: what is recorded of the snapshot that the files make. Whether they are read is in
`found_input`, how they become a snapshot in `dataset`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from batch_pipeline import telemetry
from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import found_input, paths
from batch_pipeline.flow.costs import estimate, estimate_json
from batch_pipeline.flow.dataset import (
    input_dataset,
    kept_units,
    shared_beginning,
    shared_reading,
)
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.sources.find import refuse_another_shape
from batch_pipeline.flow.found_input import Found
from batch_pipeline.flow.gates import models
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import results_folder
from batch_pipeline.flow.results.typed import carried
from batch_pipeline.jobs.partitions import due_times
from batch_pipeline.jobs.partitions.due_times import Start
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, readings
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.readings import Reading
from batch_pipeline.ledger.snapshots import NewSnapshot, Snapshot
from batch_pipeline.safe_text import get_logger
from batch_pipeline.settings import is_simulated

log = get_logger(__name__)


@dataclass(frozen=True)
class InputTaken:
    """A night and its snapshot; `note` tells a person why it was kept or what has changed."""

    night: Night
    snapshot: Snapshot
    note: str

    @classmethod
    def kept(cls, found: Found) -> InputTaken | None:
        """Of a night that keeps its snapshot; None: it does not."""
        if found.kept is None:
            return None
        assert found.current is not None
        return cls(found.night, found.current, found.kept)


@telemetry.traced("take_input")
def take_input(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    *,
    again: bool = False,
    start: Start = Start.PERSON,
) -> InputTaken:
    """Take the night's snapshot, or keep it where neither files nor declaration have changed.

    `again` reads the files even if they look unchanged. While batches of the night are in flight
    the snapshot stays: what changed is taken up by the next run after their end. `start` says who
    began the night: its deadline is fixed with the snapshot. Processes that take the input of a job
    that is spread, at the same time, read it together.
    """
    if spec.spread > 1:
        begun = begin_input(pipeline, spec, night, again=again)
        return begun.kept or end_input(pipeline, spec, begun.night, start=start)
    found = found_input.look(pipeline, spec, night, again=again)
    return InputTaken.kept(found) or _take(pipeline, spec, found, start)


@dataclass(frozen=True)
class Begun:
    """An input whose reading has begun, and how many workers are worth starting for it.

    0: `end_input` does all there is to do. `kept` is there where nothing is.
    """

    night: Night
    workers: int
    kept: InputTaken | None = None


def begin_input(pipeline: Pipeline, spec: JobSpec, night: Night, *, again: bool = False) -> Begun:
    """Look for the night's input, and let workers read it where it has to be read: `take_input`.

    The first of three steps that have home and ledger in common and nothing else. Each may be run
    again, by any process: what has been read by then stays read.
    """
    found = found_input.look(pipeline, spec, night, again=again)
    if found.kept is not None:
        _drop_readings_of_other_input(pipeline, spec, found)
        return Begun(found.night, 0, InputTaken.kept(found))
    sources = found.to_read
    _refuse(pipeline, spec, found.night, sources)
    alone = found.is_kept_on(Declaration.of(spec))
    workers = shared_beginning.begin(
        pipeline, spec, found.night, sources, found.former, alone=alone
    )
    return Begun(found.night, workers)


def read_share(pipeline: Pipeline, spec: JobSpec, night: Night) -> int:
    """Read pieces of the night's input until none is left; returns how many.

    Several processes do this at once. Where the reading is over there is nothing to do. Raises
    InputDataError for what stops the night.
    """
    reading = _reading_of(pipeline, night)
    if reading is None or not reading.pieces:
        return 0
    worker = _worker(pipeline, spec, night, reading)
    return 0 if worker is None else worker.work()


def end_input(
    pipeline: Pipeline, spec: JobSpec, night: Night, *, start: Start = Start.PERSON
) -> InputTaken:
    """Read what is left, wait for what others read, and make the whole the night's snapshot.

    Where another process has done so, and where `begin_input` found nothing to be read, the night
    keeps the snapshot that it has.
    """
    reading = _reading_of(pipeline, night)
    if reading is None or reading.pieces is None:
        return _keep_or_take(pipeline, spec, night, start)
    if reading.pieces:
        taken = _end_shared(pipeline, spec, night, reading, start)
    else:
        found = found_input.look(pipeline, spec, night, again=True)
        taken = InputTaken.kept(found) or _take(pipeline, spec, found, start)
    with pipeline.ledger.write() as connection:
        readings.drop_one(connection, reading.id)
    return taken or _keep_or_take(pipeline, spec, night, start)


def _end_shared(
    pipeline: Pipeline, spec: JobSpec, night: Night, reading: Reading, start: Start
) -> InputTaken | None:
    """What `end_input` does of an input that is in pieces; None: another process did."""
    found = found_input.of_night(pipeline, night)
    worker = _worker(pipeline, spec, found.night, reading)
    if worker is None:
        return None
    with (
        suppress(results_folder.NightChangedError),
        worker.put_together(found.former) as whole,
    ):
        if whole is not None:
            found = replace(found, sources=whole.sources)
            return _switch(pipeline, spec, found, whole.snapshot, start)
    return None


def _reading_of(pipeline: Pipeline, night: Night) -> Reading | None:
    with pipeline.ledger.read() as connection:
        return readings.of_night(connection, night.id)


def _worker(
    pipeline: Pipeline, spec: JobSpec, night: Night, reading: Reading
) -> shared_reading.Worker | None:
    """A worker for a reading; None where another process has finished it meanwhile."""
    with suppress(FileNotFoundError):
        return shared_reading.Worker(pipeline, spec, night, reading)
    return None


def _drop_readings_of_other_input(pipeline: Pipeline, spec: JobSpec, found: Found) -> None:
    """Drop what a process that died has begun to read of an input that is not there any more."""
    night, sources, key = found.night, found.sources, None
    if sources is not None:
        key = shared_beginning.key_of(pipeline, spec, night, sources, found.former)
    with pipeline.ledger.write() as connection:
        readings.drop(connection, night.id, unless_key=key)


def _take(pipeline: Pipeline, spec: JobSpec, found: Found, start: Start) -> InputTaken:
    """Read the input and make it the night's snapshot."""
    new = _read(pipeline, spec, found)
    try:
        return _switch(pipeline, spec, found, new, start)
    except results_folder.NightChangedError:
        return _keep_or_take(pipeline, spec, found.night, start)


def _keep_or_take(pipeline: Pipeline, spec: JobSpec, night: Night, start: Start) -> InputTaken:
    found = found_input.look(pipeline, spec, night, again=False)
    return InputTaken.kept(found) or _take(pipeline, spec, found, start)


def _switch(
    pipeline: Pipeline, spec: JobSpec, found: Found, new: NewSnapshot, start: Start
) -> InputTaken:
    """Make a snapshot the night's own, unless it is. Raises NightChangedError."""
    night, current = found.night, found.current
    if (
        current is not None
        and night.published
        and (new.folder, new.signature) == (current.folder, current.signature)
    ):
        return InputTaken(night, current, "input unchanged")
    carried.prepare(pipeline.files, new, spec.output.carry, found.to_read)
    try:
        snapshot = results_folder.switch_snapshot(
            pipeline,
            night,
            new,
            deadline=lambda taken_at: due_times.of_night(spec, night.partition, taken_at, start),
        )
    except results_folder.NightChangedError:
        log.info("%s %s was changed by another process meanwhile", night.job, night.partition)
        raise
    log.info(
        "%s %s: %s items, %s not sent, %s answered by another's request",
        night.job,
        night.partition,
        f"{new.items:,}",
        new.describe_set_aside(),
        f"{new.duplicates:,}",
    )
    note = _note(pipeline, night, found.former_account, current, new)
    keep_estimate(pipeline, spec, night, snapshot)
    return InputTaken(pipeline.refreshed(night), snapshot, note)


def _note(
    pipeline: Pipeline,
    night: Night,
    former: Account | None,
    current: Snapshot | None,
    new: NewSnapshot,
) -> str:
    if former is not None:
        return _start_over(pipeline, night, former)
    if current is not None:
        return f"input read again: {input_dataset.compare(pipeline.files, current, new)}"
    return "input read"


def keep_estimate(pipeline: Pipeline, spec: JobSpec, night: Night, snapshot: Snapshot) -> None:
    """Record what the night is expected to cost, for the report to compare it with the bill."""
    expected = estimate_json.as_json(estimate.expectation(pipeline, spec, night, snapshot))
    with pipeline.ledger.write() as connection:
        if nights.get_night(connection, night.id).snapshot_id == snapshot.id:
            nights.update_night(connection, night.id, estimate=expected)


def _read(pipeline: Pipeline, spec: JobSpec, found: Found) -> NewSnapshot:
    """The snapshot of the input as it is now; what a redrive kept is kept on."""
    night, current = found.night, found.current
    _refuse(pipeline, spec, night, found.to_read)
    declaration = Declaration.of(spec)
    read = partial(
        input_dataset.read_snapshot, pipeline, spec, night.partition, found.to_read,
        former=found.former,
    )  # fmt: skip
    if current is None or not found.is_kept_on(declaration):
        return read()
    with kept_units.settled_otherwise(pipeline, night, current, declaration) as kept:
        return read(kept=kept)


def _refuse(pipeline: Pipeline, spec: JobSpec, night: Night, sources: Sources) -> None:
    """Raise for what stops the night before its input is read."""
    models.check(spec, pipeline.api_for(spec))
    _refuse_simulated(spec, night, sources)
    refuse_another_shape(pipeline, spec, night.partition, sources.copied)


def _refuse_simulated(spec: JobSpec, night: Night, sources: Sources) -> None:
    copied = sources.copied
    if copied is not None and copied.simulated and not is_simulated(night.owner):
        raise InputDataError(
            f"{spec.name} {night.partition}: the answers of {copied.origin} are a simulator's, and "
            f"this night would be bought of the API; nothing was sent. Run {spec.input.job} for "
            f"owner {night.owner!r} first."
        )


def _start_over(pipeline: Pipeline, night: Night, former: Account) -> str:
    what = "simulated" if former.simulated else f"run for owner {former.name!r}"
    if former.simulated:
        # Raw lines of the API are kept for ever; a simulator's must not lie among them.
        pipeline.files.remove(paths.raw(night.job, night.partition))
        pipeline.files.remove(paths.raw_realtime(night.job, night.partition))
    note = f"this night was {what} before; it starts over for owner {night.owner!r}"
    log.warning("%s %s: %s", night.job, night.partition, note)
    return note
