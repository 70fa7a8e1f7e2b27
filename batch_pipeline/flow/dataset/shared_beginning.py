"""An input that several workers are to read: its key, its pieces, and how many workers it is worth.

How the pieces are read is in `shared_reading`, how they are written down in `shared_plan`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version

from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset.choosing.asked_before import Former
from batch_pipeline.flow.dataset.input_dataset import bytes_of, codec_for, documents_of, share_of
from batch_pipeline.flow.dataset.reading import splits
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.reading.splits import pieces_of
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.shared_plan import ABOUT, PIECES, about_of, write_plan
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import readings
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.readings import Reading
from batch_pipeline.storage.files import STAGING_MAX_AGE_SECONDS

# Documents that are kept for a reading are not pruned in this time.
_MAX_AGE_SECONDS = STAGING_MAX_AGE_SECONDS / 2


def key_of(
    pipeline: Pipeline, spec: JobSpec, night: Night, sources: Sources, former: Former | None
) -> str:
    """What tells one reading from another: its first half how rows are read, its second half which.

    The former snapshot belongs to it: rows that it asked may keep their answers.
    """
    which = [sources.signature, None if former is None else former.snapshot.id]
    return way_of_reading(pipeline, spec, night, sources) + _hashed(which)


def way_of_reading(pipeline: Pipeline, spec: JobSpec, night: Night, sources: Sources) -> str:
    """What tells how rows are read: the same of all workers of a reading."""
    documents = asdict(documents_of(pipeline, spec, night.partition, sources)) | {"home": None}
    read = [Declaration.of(spec).to_json(), list(spec.output.carry), documents, splits.PIECE_BYTES]
    return _hashed([*read, version("batch-pipeline")])


def _hashed(values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def begin(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    sources: Sources,
    former: Former | None,
    *,
    alone: bool,
) -> int:
    """Record that an input is to be read; returns how many workers are worth starting for it.

    0: one worker reads it, because it is small, or because of what only one process can look up
    (`alone`). Of a reading that was begun before, pieces that are done stay done.
    """
    key = key_of(pipeline, spec, night, sources, former)
    share = share_of(Declaration.of(spec), spec.output.carry)
    size = bytes_of(sources, share)
    with pipeline.files.staged() as plan, pipeline.files.staged() as about:
        codec = codec_for(pipeline.files, sources, plan.parent)
        with pipeline.ledger.write() as connection:
            reading = readings.begin(connection, night.id, key, codec, _MAX_AGE_SECONDS)
        if reading.pieces is None:
            places = [] if alone else write_plan(plan, pieces_of(sources, share))
            if not workers_wanted(size, len(places), spec.spread):
                places = []
            if places:
                about.write_text(json.dumps(about_of(sources, size)))
                for path, name in ((plan, PIECES), (about, ABOUT)):
                    pipeline.files.make_durable(path)
                    pipeline.files.publish(path, f"{folder_of(reading)}/{name}")
            with pipeline.ledger.write() as connection:
                readings.cut(connection, reading, places)
            reading = as_it_is(pipeline, reading) or reading
    return workers_wanted(size, reading.pieces or 0, spec.spread)


def workers_wanted(size: int, pieces: int, spread: int) -> int:
    """How many workers an input of this many bytes is worth; 0 where that is one."""
    wanted = min(spread, pieces, -(-size // splits.PIECE_BYTES))
    return wanted if wanted > 1 else 0


def as_it_is(pipeline: Pipeline, reading: Reading) -> Reading | None:
    """The reading as the ledger has it now; None: it is gone."""
    with pipeline.ledger.read() as connection:
        found = readings.of_night(connection, reading.night_id)
    return found if found is not None and found.id == reading.id else None


def folder_of(reading: Reading) -> str:
    """The folder in the home for what workers make of an input."""
    return paths.reading(reading.token)
