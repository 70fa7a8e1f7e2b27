"""The definitions that Dagster loads: all jobs of the jobs folder. Assembly only."""

from __future__ import annotations

import dagster as dg

from batch_pipeline.jobs.yaml_files.loading import load_files
from batch_pipeline.orchestration.definitions import executors, post_processing
from batch_pipeline.orchestration.definitions.build import build_batch_job
from batch_pipeline.settings import Settings


@dg.definitions
def defs() -> dg.Definitions:
    """All jobs, read when the code location loads and not when this module is imported.

    One wrong declaration or setting fails the whole location, with file, line and key. Leaving out
    that one job would be noticed only when its night has not run.
    """
    settings = Settings.from_environment(relative_home=False)
    jobs = load_files(settings.jobs_dir).values()
    # Of jobs, and of runs of any selection of assets.
    executor = dg.Definitions(executor=executors.of_name(settings.executor))
    return dg.Definitions.merge(
        executor, *(post_processing.apply(build_batch_job(job.spec), job) for job in jobs)
    )
