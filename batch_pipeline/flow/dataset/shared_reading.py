"""An input that several workers read at once, who have home and ledger in common and nothing else.

The pieces of the input are the units of work. The worker that claims one prepares it in a local
folder and puts its part files into the reading's folder in the home. The worker that claims the end
puts the pieces together in their order, as if it had read all of them itself: where they are cut,
and what is made of each, follows from the input and the declaration alone. The part files are given
their names in the snapshot inside the store, so that they are not read and written again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import sqlalchemy as sa

from batch_pipeline import telemetry
from batch_pipeline.errors import InputDataError, UsageError
from batch_pipeline.flow import paths
from batch_pipeline.flow.concurrency import is_gone, map_in_threads
from batch_pipeline.flow.dataset.choosing.asked_before import Former
from batch_pipeline.flow.dataset.documents.resolve import DocumentInput
from batch_pipeline.flow.dataset.input_dataset import (
    PROCESSES_FROM_BYTES,
    documents_of,
    require_libraries,
    write_facts,
)
from batch_pipeline.flow.dataset.prepare import prepare
from batch_pipeline.flow.dataset.process_pool import Task, WorkerDiedError, map_in_processes
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.reading.splits import Piece
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.shared_beginning import as_it_is, folder_of, way_of_reading
from batch_pipeline.flow.dataset.shared_plan import (
    ABOUT,
    PIECES,
    files_of,
    from_json,
    named,
    part_names,
    piece_in,
    signatures_name,
    sources_of,
    to_json,
)
from batch_pipeline.flow.dataset.snapshot import Codec
from batch_pipeline.flow.dataset.whole_input import Whole, add_signatures, conclude
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import readings
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes.heartbeat import beating
from batch_pipeline.ledger.readings import MOST_TRIES, Claim, Place, Reading
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.safe_text import get_logger
from batch_pipeline.storage.files import Files

log = get_logger(__name__)

# How often a worker looks whether the others have done what they claimed.
LOOK_SECONDS = 0.5
# Requests that a store takes its time for.
_COPIED_AT_ONCE = 8


class PutTogether(NamedTuple):
    """A snapshot that is published, and the input that it was read from."""

    snapshot: NewSnapshot
    sources: Sources


class Worker:
    """One of the workers that read an input.

    Raises UsageError where this worker would read rows otherwise than the reading was begun, and
    InputDataError for what stops the night. FileNotFoundError where the reading is over already.
    """

    def __init__(self, pipeline: Pipeline, spec: JobSpec, night: Night, reading: Reading) -> None:
        self._pipeline, self._spec, self._night, self._reading = pipeline, spec, night, reading
        self._holder = f"{pipeline.holder}:{uuid.uuid4().hex[:8]}"
        with pipeline.files.open(f"{folder_of(reading)}/{ABOUT}") as file:
            # Not orjson: names of files need not be UTF-8.
            about = json.load(file)
        self._input = sources_of(about, ())
        if not reading.key.startswith(way_of_reading(pipeline, spec, night, self._input)):
            raise UsageError(
                f"{spec.name} {night.partition}: this worker has another version of the package, "
                "or another declaration of the job, than the one that began to read the input. "
                "Give all workers the same code and the same jobs, then run the night again."
            )
        require_libraries(spec)
        many = about["bytes"] >= PROCESSES_FROM_BYTES
        self._processes = pipeline.settings.workers if many else 1

    def work(self) -> int:
        """Prepare pieces until there is none that could be claimed now; returns how many."""
        place = {"job": self._spec.name, "partition": self._night.partition}
        try:
            # One span for all of a worker's pieces: processes of their own read them.
            with telemetry.span("read_pieces", **place), self._at_work() as desk:
                count = self._work_at(desk)
                telemetry.note(pieces=count)
                return count
        except FileNotFoundError:
            # Another worker has finished the reading meanwhile, or has dropped it.
            if as_it_is(self._pipeline, self._reading) is not None:
                raise
            return 0

    def _work_at(self, desk: _Desk) -> int:
        count, after = 0, -1

        def new_ones() -> Iterator[Claim]:
            nonlocal after
            while (claim := self._claim(readings.claim_next, after)) is not None:
                after = claim.number
                yield claim

        while True:
            try:
                count += self._prepare(desk, new_ones(), self._processes)
                break
            except WorkerDiedError as error:
                log.warning("%s %s: %s", self._spec.name, self._night.partition, error)
        # What has ended a worker is read one piece at a time, in a process of its own: so it is
        # found out which piece it is.
        while (claim := self._claim(readings.claim_left, is_gone)) is not None:
            self._refuse_after_many_tries(claim)
            with suppress(WorkerDiedError):
                count += self._prepare(desk, [claim], 1, apart=True)
        return count

    @contextmanager
    def put_together(self, former: Former | None) -> Iterator[PutTogether | None]:
        """The snapshot that all pieces make, published in the home.

        Prepares what is left first, and waits for living workers. None: another worker has finished
        the reading, or has dropped it. The block is to make the snapshot the night's own.
        """
        while (claim := self._claim(readings.claim_end, is_gone)) is None:
            found = as_it_is(self._pipeline, self._reading)
            if found is None:
                yield None
                return
            if found.problem is not None:
                raise InputDataError(found.problem["message"])
            if not self.work():
                time.sleep(LOOK_SECONDS)
        try:
            self._refuse_after_many_tries(claim)
            with self._kept():
                yield self._whole(former)
        except BaseException:
            self._let_go([claim], blameless=True)
            raise
        with self._pipeline.ledger.write() as connection:
            readings.drop_one(connection, self._reading.id)
        self._pipeline.files.remove(folder_of(self._reading))

    def _claim(self, claim: Callable[..., Claim | None], *further: Any) -> Claim | None:
        lease = self._pipeline.settings.lease_seconds
        with self._pipeline.ledger.write() as connection:
            return claim(connection, self._reading, self._holder, lease, *further)

    @contextmanager
    def _at_work(self) -> Iterator[_Desk]:
        files, reading = self._pipeline.files, self._reading
        documents = documents_of(
            self._pipeline, self._spec, self._night.partition, self._input, store_sources=True
        )
        with (
            files.staged() as folder,
            files.open(f"{folder_of(reading)}/{PIECES}", ahead=False) as plan,
            self._kept(),
        ):
            folder.mkdir(parents=True)
            declaration, carried = Declaration.of(self._spec), self._spec.output.carry
            about = declaration, folder, reading.codec, carried, documents, folder_of(reading)
            yield _Desk(plan, about)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Extend the claims while the block runs."""
        lease = self._pipeline.settings.lease_seconds

        def keep() -> bool:
            with self._pipeline.ledger.write() as connection:
                readings.keep(connection, self._reading, self._holder, lease)
            return True

        with beating(f"reading-{self._reading.id}", lease / 4, keep):
            yield

    def _prepare(
        self, desk: _Desk, claims: Iterable[Claim], processes: int, *, apart: bool = False
    ) -> int:
        """Prepare pieces as they are claimed; returns how many."""
        count = 0
        under_way: deque[Claim] = deque()

        def tasks() -> Iterator[Task]:
            for claim in claims:
                under_way.append(claim)
                yield desk.task(claim)

        try:
            with closing(
                map_in_processes(prepare_claimed, tasks(), processes, apart=apart)
            ) as made:
                for result in made:
                    with self._pipeline.ledger.write() as connection:
                        count += readings.done(connection, under_way[0], result)
                    under_way.popleft()
        except WorkerDiedError:
            self._let_go(under_way, blameless=False)
            raise
        except BaseException as error:
            if isinstance(error, InputDataError):
                self._fail(under_way[0], str(error))
            self._let_go(under_way, blameless=True)
            raise
        return count

    def _refuse_after_many_tries(self, claim: Claim) -> None:
        if claim.tries <= MOST_TRIES:
            return
        if claim.place is None:
            what = "to put the pieces of the input together"
        else:
            with self._at_work() as desk:
                what = f"to read {named(desk.piece(claim.place))}"
        message = (
            f"{self._spec.name} {self._night.partition}: {what} has ended {MOST_TRIES} workers, "
            "perhaps because they were out of memory; nothing was sent. Give them more "
            "(`resources`), or BATCH_PIPELINE_WORKERS=1, then run the night again."
        )
        self._fail(claim, message)
        raise InputDataError(message)

    def _fail(self, claim: Claim, message: str) -> None:
        with self._pipeline.ledger.write() as connection:
            readings.fail(connection, self._reading, claim.number, message)

    def _let_go(self, claims: Iterable[Claim], *, blameless: bool) -> None:
        # The error itself is what counts; without this the claims end with their lease.
        with suppress(sa.exc.DBAPIError), self._pipeline.ledger.write() as connection:
            for claim in claims:
                readings.let_go(connection, claim, blameless=blameless)

    def _whole(self, former: Former | None) -> PutTogether:
        """Put the pieces together and publish them."""
        pipeline, spec, files = self._pipeline, self._spec, self._pipeline.files
        with pipeline.ledger.read() as connection:
            pieces = readings.all_done(connection, self._reading)
            places = readings.places_of(connection, self._reading)
        plan = files.read(f"{folder_of(self._reading)}/{PIECES}") or b""
        read = [piece_in(plan[slice(*place)]) for place in places]
        sources = replace(self._input, files=tuple(files_of(read)))
        whole = Whole(Declaration.of(spec), None, spec.output.carry)
        parts: list[str] = []
        with files.staged() as folder:
            folder.mkdir(parents=True)
            for piece, done in zip(read, pieces, strict=True):
                prepared = from_json(done, folder_of(self._reading))
                whole.add(piece[0].file, prepared)
                parts += map(str, prepared.parts)
                if prepared.signatures is not None:
                    with files.open(str(prepared.signatures)) as signatures:
                        add_signatures(folder, signatures)
            whole.end()
            layer = files, parts
            new = conclude(
                pipeline, spec, self._night.partition, sources, whole, folder, layer, former
            )
            write_facts(folder, new)
            _publish(files, parts, folder, new)
        return PutTogether(new, sources)


@dataclass(frozen=True)
class _Desk:
    """What a worker needs for each piece: the open plan, and what is the same for all of them."""

    plan: BinaryIO
    about: tuple[Any, ...]

    def piece(self, place: Place) -> Piece:
        start, end = place
        self.plan.seek(start)
        return piece_in(self.plan.read(end - start))

    def task(self, claim: Claim) -> Task:
        assert claim.place is not None
        return (self.piece(claim.place), claim.number, claim.fence, *self.about)


def prepare_claimed(
    piece: Piece,
    number: int,
    fence: int,
    declaration: Declaration,
    folder: Path,
    codec: Codec,
    carried: Sequence[str],
    documents: DocumentInput,
    target: str,
) -> dict[str, Any]:
    """Prepare a piece in a local folder and put its files into the reading's folder in the home;
    returns what the ledger keeps of it."""
    prepared = prepare(
        number, piece, declaration, folder, codec, carried=carried, documents=documents
    )
    files = Files(documents.home)
    names = part_names(target, number, fence, len(prepared.parts))
    made = dict(zip(prepared.parts, names, strict=True))
    if prepared.signatures is not None:
        made[prepared.signatures] = signatures_name(target, number, fence)
    for path, name in made.items():
        files.make_durable(path)
        files.publish(path, name)
        path.unlink(missing_ok=True)
    return to_json(prepared)


def _publish(files: Files, parts: Sequence[str], folder: Path, new: NewSnapshot) -> None:
    """Give the part files their names in the snapshot, and publish what else is in its folder.

    What is killed in the midst of it may be repeated: the name follows from the content. Facts are
    the last in a store, which has no folders that appear as a whole.
    """
    if not files.is_remote:
        for number, part in enumerate(parts):
            files.link(part, folder / paths.part_name(number))
        files.make_durable(folder)
        files.publish(folder, new.folder)
        return
    named = zip(parts, paths.parts_in(new.folder, len(parts)), strict=True)
    for _ in map_in_threads(lambda names: files.copy(*names), named, _COPIED_AT_ONCE):
        pass
    facts = Path(paths.snapshot_facts(str(folder)))
    for file in sorted(folder.iterdir(), key=lambda file: (file == facts, file)):
        files.publish(file, f"{new.folder}/{file.name}")
