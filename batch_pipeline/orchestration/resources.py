"""The one resource: access to the home, the ledger and the API, as the environment says."""

from __future__ import annotations

from functools import lru_cache

import dagster as dg

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.settings import Settings

RESOURCE_KEY = "batch_pipeline"


class PipelineResource(dg.ConfigurableResource[Pipeline]):
    """Hands out the process's `Pipeline`; a test overrides `pipeline`.

    The environment is read when a run or a tick asks, not when definitions load. One pipeline a
    process: a code server evaluates a sensor every minute for weeks, and each new one would open
    connections to ledger and API of its own.
    """

    def pipeline(self) -> Pipeline:
        """Raises UsageError where the environment is wrong; the API is asked only once needed."""
        return _shared(Settings.from_environment(relative_home=False))


@lru_cache(maxsize=4)
def _shared(settings: Settings) -> Pipeline:
    return Pipeline(settings)


# One object for all jobs: merging definitions accepts a key twice only for the same object.
DEFAULT = PipelineResource()
