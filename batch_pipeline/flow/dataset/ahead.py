"""The input of a new night, read while the API is connected to.

To load the SDK and to hear from the API takes a second or two of one core, and whose night it is,
the API's or a simulator's, is known only then. What the input is does not depend on it. A night
that was begun before, under whatever account, is not read ahead: what there is to be read of it
follows from how it stands.

Nothing that is imported here is slow to import: the processes that read start at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batch_pipeline.flow.concurrency import Stop, beside
from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.dataset.files import Sources
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger.first_look import has_night

if TYPE_CHECKING:
    from batch_pipeline.jobs.spec import JobSpec
    from batch_pipeline.ledger.snapshots import NewSnapshot


class InputAhead:
    """A snapshot that is being read, if any."""

    def __init__(self) -> None:
        self._sources: Sources | None = None
        self._wait: Callable[[], NewSnapshot] | None = None
        self._free = threading.Event()

    def begin(self, sources: Sources, wait: Callable[[], NewSnapshot]) -> None:
        self._sources, self._wait = sources, wait

    def take_part(self) -> None:
        """What the process has to do besides mostly waits from here on."""
        self._free.set()

    def takes_part(self) -> bool:
        return self._free.is_set()

    def take(self, sources: Sources) -> NewSnapshot | None:
        """The snapshot of these files, once; None: they are not what was read, or nothing was.

        Waits for it, and raises what the reading raised.
        """
        wait, self._wait = self._wait, None
        if wait is None or self._sources != sources:
            return None
        self.take_part()
        return wait()


@contextmanager
def reading_ahead(pipeline: Pipeline, spec: JobSpec, partition: str) -> Iterator[InputAhead]:
    """Read a new night's input beside the block, which connects to the API and goes on from there.

    Other processes do the reading until this one takes part. Ends it where the block fails. Raises
    UsageError for a missing key and InputDataError for missing files before anything is begun, and
    UsageError for a missing price before the block is.
    """
    ahead = InputAhead()
    pipeline.require_key()
    if not _is_new(pipeline, spec, partition):
        yield ahead
        return
    sources = input_dataset.find_input(pipeline, spec, partition)
    workers = input_dataset.workers_for(pipeline, sources, beside=True)
    stop = Stop()

    def free() -> bool:
        stop.check()
        return ahead.takes_part()

    def read() -> NewSnapshot:
        return input_dataset.read_snapshot(
            pipeline, spec, partition, sources, workers=workers, free=free
        )

    # Before the thread has to share the interpreter with all that is imported next.
    workers.start()
    with workers, beside(read, stop) as wait:
        # Slow to import, and others are reading.
        from batch_pipeline.flow.gates.prices import price_for  # noqa: PLC0415

        price_for(spec)
        ahead.begin(sources, wait)
        yield ahead


def _is_new(pipeline: Pipeline, spec: JobSpec, partition: str) -> bool:
    begun = has_night(pipeline.settings.ledger_url, spec.name, partition)
    if begun is not None:
        return not begun
    from batch_pipeline.ledger import nights  # noqa: PLC0415

    with pipeline.ledger.read() as connection:
        return not nights.list_nights(connection, job=spec.name, partition=partition)
