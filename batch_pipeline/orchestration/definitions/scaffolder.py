"""`dg scaffold defs batch_pipeline.BatchJobComponent NAME`: a working job in place of `{}`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click
import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.scaffolding import job_files


class ScaffoldParams(BaseModel):
    """What `--json-params` may hold."""

    model_config = ConfigDict(extra="forbid")

    file: str | None = Field(
        default=None,
        description="A file of documents (or a glob) that the job is guessed from; without one "
        "the job has three documents of its own.",
    )
    id_column: str | None = Field(
        default=None, description="The column that names an item, where the guess is wrong."
    )
    model_id: str = Field(default=job_files.DEFAULT_MODEL, description="The model to ask.")


class BatchJobScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes what `batch-pipeline init` writes."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Write the job's files. click shows the error without a trace where that cannot be."""
        params, folder = request.params, request.target_path
        try:
            if request.append or request.scaffold_format != "yaml":
                raise click.ClickException(
                    "a job is a defs.yaml in a folder of its own: leave out --append and --format; "
                    "in Python call batch_pipeline.build_batch_job(JobSpec(...))"
                )
            job = job_files.new_job(
                folder,
                params.file,
                root=request.project_root or Path.cwd(),
                id_column=params.id_column,
                model_id=params.model_id,
            )
            job_files.write(job)
        except (BatchPipelineError, click.ClickException) as error:
            # dg has made the folder already; an empty one would be in the way of the next try.
            with suppress(OSError):
                folder.rmdir()
            message = error.message if isinstance(error, click.ClickException) else str(error)
            raise click.ClickException(message) from None
