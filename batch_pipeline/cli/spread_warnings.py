"""What `validate` says of a job whose nights are prepared by several workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch_pipeline.flow.dataset.reading.files import Sources
    from batch_pipeline.jobs.spec import JobSpec
    from batch_pipeline.settings import Settings

# Executors whose steps share this machine.
_HERE = ("in_process", "multiprocess")


def of(settings: Settings, spec: JobSpec, sources: Sources) -> Iterator[str]:
    """What keeps the workers of a night from sharing it; nothing where it is not spread."""
    if spec.spread == 1:
        return
    if settings.executor == "in_process":
        yield (
            f"spread: {spec.spread} is done in turn, in one process, with the executor in_process: "
            "set BATCH_PIPELINE_EXECUTOR, or give your code location an executor of its own"
        )
    if settings.executor not in _HERE:
        yield from _not_shared(settings, sources)
    yield from _whole_files(sources)


def _not_shared(settings: Settings, sources: Sources) -> Iterator[str]:
    if settings.ledger_file is not None:
        yield (
            "the ledger is a SQLite file, which workers on other machines do not share: set "
            "BATCH_PIPELINE_LEDGER_URL to a PostgreSQL database"
        )
    if not settings.home_is_remote:
        yield (
            "the home is a local folder: workers on other machines have to see the same one under "
            "the same path; or set BATCH_PIPELINE_HOME to a bucket"
        )
    elif sources.files and not sources.files[0].is_remote:
        yield (
            f"{sources.files[0].path} is a local file: workers on other machines have to see it "
            "under the same path"
        )


def _whole_files(sources: Sources) -> Iterator[str]:
    from batch_pipeline.flow.dataset.reading import splits

    large = [file for file in sources.files if splits.is_one_large_piece(file)]
    if large:
        more = f" and {len(large) - 1:,} more files" if len(large) > 1 else ""
        yield (
            f"{large[0].path} ({large[0].size / 1e6:,.0f} MB){more} is one piece, which one worker "
            "reads: split it, or write Parquet, which is read by its row groups"
        )
