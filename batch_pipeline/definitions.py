"""What Dagster loads: every job of the jobs folder; assembly only."""

from __future__ import annotations

import dagster as dg

from batch_pipeline.jobs.loading import load_jobs
from batch_pipeline.orchestration.build import build_batch_job
from batch_pipeline.settings import Settings


@dg.definitions
def defs() -> dg.Definitions:
    """Read when a code location loads, not when this module is imported.

    One wrong declaration or setting fails the whole location, with file, line and key: a job that
    is quietly missing would be noticed in the morning.
    """
    settings = Settings.from_environment(relative_home=False)
    jobs = load_jobs(settings.jobs_dir)
    return dg.Definitions.merge(*(build_batch_job(spec) for spec in jobs.values()))
