"""The one Dagster resource: a `Pipeline` over the home, ledger and API of the environment."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import dagster as dg

from batch_pipeline import logs, telemetry
from batch_pipeline.settings import Settings

if TYPE_CHECKING:
    from batch_pipeline.flow.connections import Apis
    from batch_pipeline.flow.pipeline import Pipeline

RESOURCE_KEY = "batch_pipeline"


class PipelineResource(dg.ConfigurableResource[Any]):
    """Makes a `Pipeline` for each step and each sensor evaluation; a test overrides `pipeline`.

    Each closes its own: a code server lives for weeks, and a ledger that it kept open would never
    be whole in its one file. The APIs' connections are shared by all pipelines of the process, so
    that a sensor knows whose nights it looks at while the API fails. The environment is read at
    that moment, not when definitions load.
    """

    def pipeline(self) -> Pipeline:
        """A pipeline to use in a `with` block; UsageError where the environment is wrong."""
        # Most processes that load definitions do no work.
        from batch_pipeline.flow.pipeline import Pipeline  # noqa: PLC0415

        settings = Settings.from_environment(relative_home=False)
        # Each process of Dagster opens a pipeline before it does anything here.
        logs.to_stderr()
        telemetry.configure()
        return Pipeline(settings, apis=_shared_apis(settings))


@lru_cache(maxsize=4)
def _shared_apis(_settings: Settings) -> Apis:
    from batch_pipeline.flow.connections import Apis  # noqa: PLC0415

    return Apis()


# One object for all jobs: merging definitions accepts a key twice only for the same object.
DEFAULT = PipelineResource()
