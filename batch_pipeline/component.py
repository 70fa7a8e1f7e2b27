"""`BatchJobComponent`: a job's `defs.yaml` as a Dagster component."""

from __future__ import annotations

import dagster as dg
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.jobs.yaml_files import loading
from batch_pipeline.orchestration.definitions.build import build_batch_job
from batch_pipeline.orchestration.definitions.scaffolder import BatchJobScaffolder


class JobAttributes(BaseModel):
    """The keys of a declaration as a JSON Schema, for editors and for `dg check yaml`.

    It accepts anything when a component loads: `jobs.yaml_files.loading` reads the file then and
    names all problems at once with file, line and key, as the command line does.
    """

    model_config = ConfigDict(extra="allow")

    @classmethod
    def __get_pydantic_json_schema__(
        cls,
        core_schema: CoreSchema,
        handler: GetJsonSchemaHandler,
    ) -> JsonSchemaValue:
        # dg puts all components into one schema, so that `model_json_schema` is not asked.
        return dict(handler.resolve_ref_schema(handler(JobSpec.__pydantic_core_schema__)))


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
