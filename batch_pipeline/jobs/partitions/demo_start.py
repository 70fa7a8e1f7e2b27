"""When the partitions of the package's own job begin: a week before the demo was first run.

Declared for good they would begin with the year, and most of what Dagster's pages and plots show
would be days without anything. The folders of the demo's input tell when it was first run.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from batch_pipeline.jobs.partitions.declared_partitions import PartitionsSpec
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.settings import PACKAGED_JOBS, Settings

INPUT = "demo_input"
PDFS = "demo_pdfs"
NIGHTS = 3
DAYS_BEFORE = 7


def is_of_demo(file: Path) -> bool:
    return file.is_relative_to(PACKAGED_JOBS)


def applied(spec: JobSpec) -> JobSpec:
    """The demo's job with partitions from a week before its first run, or before today."""
    settings = Settings.from_environment()
    if not isinstance(spec.partitions, PartitionsSpec) or settings.home_is_remote:
        return spec
    start = first_day(Path(settings.home) / INPUT, datetime.now(UTC).date())
    return spec.model_copy(
        update={"partitions": spec.partitions.model_copy(update={"start": start})}
    )


def first_day(folder: Path, today: date) -> date:
    """The first partition; the demo's first run wrote input for the days right before it."""
    days = [day for name in _names(folder) if (day := _day(name)) is not None]
    first_run = min(days) + timedelta(days=NIGHTS) if days else today
    return min(first_run, today) - timedelta(days=DAYS_BEFORE)


def _names(folder: Path) -> list[str]:
    try:
        return [found.name for found in folder.iterdir()]
    except OSError:
        return []


def _day(name: str) -> date | None:
    try:
        return date.fromisoformat(name)
    except ValueError:
        return None
