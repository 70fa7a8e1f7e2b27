"""One LLM answer for each of a million documents, overnight, at half price.

What a Python user needs is exported here. The names are imported on first use: importing a part of
the package, as the command line does, must not load Dagster.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batch_pipeline.component import BatchJobComponent
    from batch_pipeline.jobs.spec import JobSpec
    from batch_pipeline.orchestration.build import build_batch_job

__all__ = ["BatchJobComponent", "JobSpec", "build_batch_job"]

_MODULES = {
    "BatchJobComponent": "batch_pipeline.component",
    "JobSpec": "batch_pipeline.jobs.spec",
    "build_batch_job": "batch_pipeline.orchestration.build",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # Dagster's tools find the component by listing the module.
    return [*globals(), *__all__]
