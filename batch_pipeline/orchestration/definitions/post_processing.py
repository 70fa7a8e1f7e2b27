"""Applies `post_processing` of a job's file, as Dagster does to component files in a project.

Jobs of the jobs folder are read by this package's own loader, since `load_from_defs_folder` needs a
project around the folder. In a project Dagster applies the same keys by itself.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg

# Nothing public applies the post-processing of a file that lies outside a project.
from dagster.components.component.template_vars import find_inline_template_vars_in_module
from dagster.components.core.defs_module import asset_post_processor_list_from_post_processing_dict
from dagster.components.resolved.core_models import post_process_defs

from batch_pipeline.errors import DeclarationError
from batch_pipeline.jobs.yaml_files.loading import JobFile


def apply(definitions: dg.Definitions, job: JobFile) -> dg.Definitions:
    """The definitions of a job with what its file sets on assets, templates filled in.

    Raises DeclarationError, with file and line, where Dagster refuses it.
    """
    processing = dict(job.beside.post_processing)
    if not processing:
        return definitions
    try:
        context = dg.ResolutionContext.default().with_scope(**_template_vars(job))
        processors = asset_post_processor_list_from_post_processing_dict(context, processing)
        with warnings.catch_warnings():
            # Dagster warns of a beta parameter that its own call has.
            warnings.simplefilter("ignore", dg.BetaWarning)
            found: dg.Definitions = post_process_defs(definitions, processors)
        return found
    except DeclarationError:
        raise
    except Exception as error:
        raise DeclarationError(f"{job.place_of(('post_processing',))}: {error}") from error


def _template_vars(job: JobFile) -> dict[str, Any]:
    name = job.beside.template_vars_module
    if name is None:
        return {}
    try:
        module = _module_beside(job.path, name) if name.startswith(".") else import_module(name)
    except (ImportError, FileNotFoundError) as error:
        place = job.place_of(("template_vars_module",))
        raise DeclarationError(f"{place}: cannot be imported: {error}") from error
    found = find_inline_template_vars_in_module(module)
    return {key: _value(job, key, function) for key, function in found.items()}


def _value(job: JobFile, name: str, function: Callable[..., Any]) -> Any:
    if inspect.signature(function).parameters:
        raise DeclarationError(
            f"{job.place_of(('template_vars_module',))}: {name} takes a context, which there is in "
            "the defs folder of a Dagster project only; write it without"
        )
    return function()


def _module_beside(file: Path, name: str) -> ModuleType:
    """The module that a name like `.template_vars` means: a file in the job's folder."""
    path = file.parent.joinpath(*name[1:].split(".")).with_suffix(".py")
    full_name = f"batch_pipeline_jobs.{file.parent.name}{name}"
    found = importlib.util.spec_from_file_location(full_name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{path} is no module")
    module = importlib.util.module_from_spec(found)
    sys.modules[full_name] = module
    found.loader.exec_module(module)
    return module
