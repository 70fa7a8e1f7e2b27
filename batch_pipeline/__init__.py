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
    from batch_pipeline.orchestration.definitions.build import build_batch_job
    from batch_pipeline.orchestration.definitions.io_manager import BatchResultsIOManager
    from batch_pipeline.reading.frames import read_results, scan_results

__all__ = [
    "BatchJobComponent",
    "BatchResultsIOManager",
    "JobSpec",
    "build_batch_job",
    "read_results",
    "scan_results",
]

_MODULES = {
    "BatchJobComponent": "batch_pipeline.component",
    "BatchResultsIOManager": "batch_pipeline.orchestration.definitions.io_manager",
    "JobSpec": "batch_pipeline.jobs.spec",
    "build_batch_job": "batch_pipeline.orchestration.definitions.build",
    "read_results": "batch_pipeline.reading.frames",
    "scan_results": "batch_pipeline.reading.frames",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # Dagster's tools find the component by listing the module.
    return [*globals(), *__all__]
