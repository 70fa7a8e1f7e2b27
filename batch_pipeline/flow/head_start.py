"""Worker processes that are up by the time that there is something to read.

A process takes as long to load what it needs as the command line takes to open the ledger and to
see whether the night is new. Where the input is large, the one is done beside the other; nothing
here is slow to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.flow.sources import Sources, environ_with, find_sources
from batch_pipeline.flow.workers import Workers

if TYPE_CHECKING:
    from batch_pipeline.settings import Settings
    from batch_pipeline.spec import JobSpec

# Below this another process has hardly started when this one is through.
PROCESSES_FROM_BYTES = 40 << 20


def worth_processes(sources: Sources) -> bool:
    """Whether an input is so large that other processes start sooner than this one reads it."""
    return sum(file.size for file in sources.files) >= PROCESSES_FROM_BYTES


@contextmanager
def head_start(settings: Settings, spec: JobSpec, partition: str) -> Iterator[Workers]:
    """Workers that may be up already, for the reading of this night's input if it is read.

    They end with the block at the latest.
    """
    with Workers(settings.workers) as workers:
        try:
            sources = find_sources(spec.input.path, partition, environ_with(settings.home))
        except BatchPipelineError:
            # It is told where the input is wanted: a night may have been read long ago.
            pass
        else:
            if worth_processes(sources):
                workers.start("batch_pipeline.flow.preparing")
        yield workers
