"""`BatchJobComponent`: a job's `defs.yaml` as a Dagster component."""

from __future__ import annotations

from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict

from batch_pipeline.jobs import loading
from batch_pipeline.jobs.declared_model import DeclaredModel
from batch_pipeline.jobs.input_sources import SqlSourceSpec
from batch_pipeline.jobs.spec import JobSpec, PromptSpec
from batch_pipeline.orchestration.build import build_batch_job
from batch_pipeline.orchestration.scaffolder import BatchJobScaffolder


class JobAttributes(BaseModel):
    """The keys of a declaration as a JSON Schema, for editors and for `dg check yaml`.

    It accepts anything when a component loads: `jobs.loading` reads the file then and names all
    problems at once with file, line and key, as the command line does.
    """

    model_config = ConfigDict(extra="allow")

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        schema = JobSpec.model_json_schema(*args, **kwargs)
        _allow_files(schema, JobSpec)
        for part in (PromptSpec, SqlSourceSpec):
            _allow_files(schema["$defs"][part.__name__], part)
        return schema


_FILE_EXAMPLES = {
    "output_schema": "answer.schema.json",
    "system": "system.md",
    "user": "user.md",
    "query": "tickets.sql",
}


def _allow_files(schema: dict[str, Any], model: type[DeclaredModel]) -> None:
    """Add the `<key>_file` keys to a model's schema: they are no fields of the model."""
    for key in model.FILE_KEYS:
        schema["properties"][f"{key}_file"] = {
            "type": "string",
            "description": f"A file that holds `{key}`, relative to this one.",
            "examples": [_FILE_EXAMPLES[key]],
        }
        if key in schema.get("required", ()):
            schema["required"].remove(key)


@dg.scaffold_with(BatchJobScaffolder)
class BatchJobComponent(dg.Component):
    """One job: declared in a `defs.yaml`, or in Python by `BatchJobComponent(spec)`."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        return JobAttributes

    @classmethod
    def load(
        cls,
        attributes: BaseModel | None,  # noqa: ARG003  # Dagster has filled in templates
        context: dg.ComponentLoadContext,
    ) -> BatchJobComponent:
        """Read the file itself instead of `attributes`: in a declaration `{{ }}` is literal."""
        return cls(loading.load_job(context.path / loading.FILE_NAME))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002
        return build_batch_job(self.spec)
