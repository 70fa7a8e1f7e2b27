"""Which executor runs the steps of this package's jobs, and of asset selections.

The jobs use the code location's own executor, and the in-process one where it has none: their steps
follow one another, and a process for each step takes longer to start than most steps run. The
packaged code location takes its executor from BATCH_PIPELINE_EXECUTOR.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

# The type that `define_asset_job` returns is not public. Dagster passes the executor of the code
# location only to its `resolve`.
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from batch_pipeline.errors import UsageError

VARIABLE = "BATCH_PIPELINE_EXECUTOR"
BROKER, BACKEND = "DAGSTER_CELERY_BROKER_URL", "DAGSTER_CELERY_BACKEND_URL"
# What a step imports: the process of a step is a fork of one that has imported all of it.
_PRELOADED = (
    "batch_pipeline.definitions",
    "batch_pipeline.orchestration.steps.submit_steps",
    "batch_pipeline.orchestration.steps.collect_steps",
    "batch_pipeline.api.client",
)


class AssetJob(UnresolvedAssetJobDefinition):
    """A job over assets whose steps run in the run's own process, unless its code location has an
    executor."""

    def resolve(
        self,
        asset_graph: Any,
        default_executor_def: dg.ExecutorDefinition | None = None,
        resource_defs: Mapping[str, dg.ResourceDefinition] | None = None,
    ) -> dg.JobDefinition:
        """The job, once the assets and the executor of its code location are known."""
        executor = default_executor_def or dg.in_process_executor
        return super().resolve(asset_graph, executor, resource_defs)


def of_name(name: str) -> dg.ExecutorDefinition:
    """The executor that BATCH_PIPELINE_EXECUTOR names.

    Raises UsageError where there is none of that name, or its package is not installed.
    """
    match name:
        case "in_process":
            return dg.in_process_executor
        case "multiprocess":
            started = {"start_method": {"forkserver": {"preload_modules": list(_PRELOADED)}}}
            return dg.multiprocess_executor.configured(started, name="multiprocess")
        case "celery":
            celery = _executor("dagster_celery", "celery_executor", "celery")
            # Addresses hold passwords: they are read when a run starts, and shown nowhere.
            told = {"broker": BROKER, "backend": BACKEND}
            given = {key: {"env": each} for key, each in told.items() if os.environ.get(each)}
            return celery.configured(given, name="celery")
        case "k8s":
            return _executor("dagster_k8s", "k8s_job_executor", "k8s")
        case _ if ":" in name:
            module, _, attribute = name.partition(":")
            return _executor(module, attribute, None)
        case _:
            raise UsageError(
                f"{VARIABLE} is {name!r}; set it to in_process, multiprocess, celery, k8s, or to "
                "MODULE:NAME of an executor of Dagster's, or unset it for in_process"
            )


def _executor(module: str, attribute: str, extra: str | None) -> dg.ExecutorDefinition:
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = (
            "check the name, and that the code location's environment has it"
            if extra is None
            else f"install batch_pipeline[{extra}]"
        )
        raise UsageError(
            f"{VARIABLE} asks for {module}:{attribute}, which cannot be loaded: {error}; {remedy}"
        ) from error
    if not isinstance(found, dg.ExecutorDefinition):
        raise UsageError(f"{VARIABLE} is {module}:{attribute}, which is no executor of Dagster's")
    return found
