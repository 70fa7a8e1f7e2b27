"""JobSpec: all that a job declares, checked.

Belongs here: the rules between keys. The keys themselves are in `job_keys`, reading YAML is in
`loading`. A file that a declaration names (`user_file`) is read on construction, so that a spec
holds texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jsonschema_rs
import orjson
from pydantic import ValidationInfo, field_validator, model_validator
from pydantic_core import ValidationError

from batch_pipeline.jobs import parameters
from batch_pipeline.jobs.declared_model import JsonObject, problem_with
from batch_pipeline.jobs.filters import NearDuplicatesSpec, ReuseSpec
from batch_pipeline.jobs.input.inputs import CsvSpec, InputSpec
from batch_pipeline.jobs.job_keys import JobKeys
from batch_pipeline.jobs.outputs import OutputSpec
from batch_pipeline.jobs.partitions import path_patterns
from batch_pipeline.jobs.partitions.cron import cron_problem
from batch_pipeline.jobs.partitions.declared_partitions import Declared, PartitionsSpec
from batch_pipeline.jobs.prompts.per_row import PerRowSpec
from batch_pipeline.jobs.prompts.prompts import PromptSpec
from batch_pipeline.jobs.routes import AskedOtherwise, unreachable_routes
from batch_pipeline.jobs.sending import (
    MAX_BYTES_PER_BATCH,
    MAX_REQUESTS_PER_BATCH,
    AlertsSpec,
    BudgetSpec,
    LimitsSpec,
    PilotSpec,
    PricesSpec,
    RealtimeSpec,
    RetrySpec,
)

__all__ = [
    "MAX_BYTES_PER_BATCH",
    "MAX_REQUESTS_PER_BATCH",
    "AlertsSpec",
    "BudgetSpec",
    "CsvSpec",
    "InputSpec",
    "JobSpec",
    "LimitsSpec",
    "PilotSpec",
    "PricesSpec",
    "PromptSpec",
    "RealtimeSpec",
    "RetrySpec",
]

# Where a value stands in a declaration.
KeyPath = tuple[str | int, ...]


class JobSpec(JobKeys):
    """One job, as declared in YAML or in Python.

    In Python, parts may be given as mappings, and `base_dir` is the folder that relative paths and
    files refer to (the current folder unless given). Raises pydantic's ValidationError, which lists
    every problem with its key. Files are read on construction: `prompt.system`, `prompt.user` and
    `output_schema` have the content of their `*_file`.
    """

    def __init__(self, /, *, base_dir: Path | str | None = None, **declared: Any) -> None:
        # pydantic's documented way of giving a constructor a validation context
        self.__pydantic_validator__.validate_python(
            declared, self_instance=self, context={"base_dir": base_dir}
        )

    @field_validator("params")
    @classmethod
    def _params_that_can_work(cls, value: JsonObject, info: ValidationInfo) -> JsonObject:
        declared = {**info.data, "params": value}
        found = [
            problem_with(path[1:], message)
            for path, message in parameters.problems(declared, "params.")
        ]
        if found:
            raise ValidationError.from_exception_data("params", found)
        return value

    @model_validator(mode="after")
    def _parts_that_work_together(self) -> Self:
        found = [
            problem_with(path, message)
            for path, message in parameters.problems(self.declared())
            if path[0] != "params"
        ]
        further = (
            *self._ways_that_cannot_work(),
            *self._escalation_that_cannot_work(),
            *self._examples_that_break_the_schema(),
        )
        found += [problem_with(path, message) for path, message in further]
        if found:
            raise ValidationError.from_exception_data("job", found)
        return self

    def _ways_that_cannot_work(self) -> Iterator[tuple[KeyPath, str]]:
        """What is wrong with routes and the models of rows beside the rest of the job."""
        if self.per_row.model_id is not None and self.routes:
            both = "per_row.model_id and routes both choose the model; keep one"
            yield ("per_row", "model_id"), both
        for path, asked in self.asked_by_routes():
            if path[0] == "routes" and _asks(asked) == _asks(self):
                yield path, "asks as the rest of the job does; remove the route, or change it"
        yield from unreachable_routes(self.routes)
        for path, asked in self.asked_all_ways()[1:]:
            for key, message in parameters.problems(asked.declared()):
                if key[0] in ("params", "model_id", "max_tokens"):
                    yield (*path, *key), message
        if self.retry.explain and self.output_schema is None:
            nothing = "explains what broke the schema, and there is no output_schema; declare one"
            yield ("retry", "explain"), nothing

    def _escalation_that_cannot_work(self) -> Iterator[tuple[KeyPath, str]]:
        escalate, under = self.retry.escalate, ("retry", "escalate")
        if escalate is None:
            return
        if self.output_schema is None and escalate.reads("parsed"):
            missing = "reads parsed, which is NULL without output_schema; read content instead"
            yield (*under, "where"), missing
        if parameters.undated(escalate.model_id) == parameters.undated(self.model_id):
            same = f"is the job's own model ({self.model_id}); name a stronger one"
            yield (*under, "model_id"), same

    def _examples_that_break_the_schema(self) -> Iterator[tuple[KeyPath, str]]:
        examples = self.prompt.examples
        if examples is None or self.output_schema is None:
            return
        validator = jsonschema_rs.validator_for(self.output_schema)
        for number, example in enumerate(examples.items):
            try:
                validator.validate(orjson.loads(example.answer_text))
            except orjson.JSONDecodeError:
                message = "is no JSON, which output_schema asks for"
            except jsonschema_rs.ValidationError as error:
                message = f"does not fit output_schema: {error.message}"
            else:
                continue
            if examples.file is None:
                yield ("prompt", "examples", "items", number, "answer"), message
            else:
                line = f"the file's line {number + 1}: answer {message}"
                yield ("prompt", "examples", "file"), line

    def declared(self) -> parameters.Declared:
        """The declaration as the table of parameters reads it."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def asked_by_routes(self) -> list[tuple[KeyPath, JobSpec]]:
        """The job as each of its routes asks, with the path of the route's keys; a model that rows
        may name is a route, too."""
        by_row = self.per_row.model_id
        if by_row is None:
            return [(("routes", n), self._asked(route)) for n, route in enumerate(self.routes)]
        return [
            (("per_row", "model_id", "models", n), self._asked(AskedOtherwise(model_id=model_id)))
            for n, model_id in enumerate(by_row.models)
        ]

    def asked_all_ways(self) -> list[tuple[KeyPath, JobSpec]]:
        """The job in each way that its requests are asked: as declared, by its routes, and by the
        escalation; each with the path of its keys."""
        found: list[tuple[KeyPath, JobSpec]] = [((), self), *self.asked_by_routes()]
        if self.retry.escalate is not None:
            found.append((("retry", "escalate"), self._asked(self.retry.escalate)))
        return found

    def _asked(self, otherwise: AskedOtherwise) -> JobSpec:
        model_id = otherwise.model_id or self.model_id
        asked = {
            "model_id": model_id,
            "max_tokens": otherwise.max_tokens or self.max_tokens,
            "params": otherwise.params_over(self.params),
            # What the job states are prices of its own model.
            "prices": self.prices if model_id == self.model_id else None,
        }
        per_row = PerRowSpec(max_tokens=self.per_row.max_tokens)
        alone = {"routes": (), "retry": RetrySpec(), "per_row": per_row}
        return self.model_copy(update={**asked, **alone})

    @field_validator("output_schema")
    @classmethod
    def _usable_schema(cls, value: JsonObject | None, info: ValidationInfo) -> JsonObject | None:
        if value is None:
            return None
        output_config = info.data.get("params", {}).get("output_config")
        if isinstance(output_config, dict) and "format" in output_config:
            raise ValueError(
                "params.output_config.format asks for structured output too; keep one of the two"
            )
        problem = _schema_problem(value)
        if problem is not None:
            raise ValueError(problem)
        return value

    @field_validator("output")
    @classmethod
    def _a_schema_to_type_by(cls, value: OutputSpec, info: ValidationInfo) -> OutputSpec:
        if value.typed and info.data.get("output_schema", value) is None:
            raise ValueError(
                "typed: true gives the fields of `output_schema` columns of their own, and none is "
                "declared; declare one, or remove `typed`"
            )
        return value

    @field_validator("partitions")
    @classmethod
    def _new_input_every_night(cls, value: Declared, info: ValidationInfo) -> Declared:
        source: InputSpec | None = info.data.get("input")
        if value is None or source is None:
            return value
        repeats = source.repeats()
        if repeats is not None:
            raise ValueError(
                f"{repeats}, so every night would buy the same answers again; add it, or set "
                "input.same_every_night: true if that is meant"
            )
        same = source.same_every_night
        problem = path_patterns.problem(source.patterns, value, same_every_night=same)
        if problem is not None:
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _source_that_suits(self) -> Self:
        found = []
        if self.input.job == self.name:
            found.append(problem_with(("input", "job"), "is this job itself; name another one"))
        sql, declared = self.input.sql, self.partitions
        if (
            sql is not None
            and sql.binds - {"partition"}
            and not isinstance(declared, PartitionsSpec)
        ):
            message = "binds the times of a partition, and the job declares no partitions of time"
            found.append(problem_with(("input", "sql", "query"), message))
        if declared is None:
            no_times = path_patterns.problem(self.input.patterns, None, same_every_night=True)
            found += [] if no_times is None else [problem_with(("input",), no_times)]
        if found:
            raise ValidationError.from_exception_data("job", found)
        return self

    @field_validator("schedule")
    @classmethod
    def _five_field_cron(cls, value: str | None) -> str | None:
        problem = cron_problem(value) if value is not None else None
        if problem is not None:
            raise ValueError(problem)
        return value

    @field_validator("retry")
    @classmethod
    def _more_room_than_before(cls, value: RetrySpec, info: ValidationInfo) -> RetrySpec:
        room, before = value.truncated_max_tokens, info.data.get("max_tokens")
        if room is not None and before is not None and room <= before:
            problem = problem_with(
                ("truncated_max_tokens",), f"must be more than max_tokens ({before}), not {room}"
            )
            raise ValidationError.from_exception_data("retry", [problem])
        return value

    @field_validator("near_duplicates")
    @classmethod
    def _answers_that_can_be_compared(
        cls, value: NearDuplicatesSpec | None, info: ValidationInfo
    ) -> NearDuplicatesSpec | None:
        if value is None or value.action == "filter":
            return value
        if info.data.get("output_schema", value) is None:
            raise ValueError(
                "action: reuse compares the answers of near duplicates, which needs an "
                "`output_schema`; declare one, or set action: filter"
            )
        pilot: PilotSpec | None = info.data.get("pilot")
        if pilot is not None and pilot.size == 0:
            raise ValueError(
                "action: reuse lets the pilot find out whether near duplicates have equal answers; "
                "set pilot.size, or action: filter"
            )
        return value

    @field_validator("reuse")
    @classmethod
    def _nights_before_another(
        cls, value: ReuseSpec | None, info: ValidationInfo
    ) -> ReuseSpec | None:
        if value is None or "partitions" not in info.data:
            return value
        declared: Declared = info.data["partitions"]
        if declared is None:
            raise ValueError(
                "takes over answers of earlier nights, but the job has one night only; declare "
                "`partitions`, or remove `reuse`"
            )
        if not isinstance(declared, PartitionsSpec):
            raise ValueError(
                "takes over answers of earlier nights, but no name is earlier than another; "
                "declare `partitions` that are times, or remove `reuse`"
            )
        return value

    @field_validator("deadline")
    @classmethod
    def _time_or_hours(cls, value: str | None, info: ValidationInfo) -> str | None:
        pattern = r"([01]\d|2[0-3]):[0-5]\d|[1-9]\d*h"
        if value is not None and not re.fullmatch(pattern, value):
            raise ValueError(
                f'must be a time of day like "06:00" or hours like "8h", not {value!r}'
            )
        if value is not None and info.data.get("mode", "auto") != "auto":
            raise ValueError(
                "is for mode auto, which turns to real time for what would miss it; "
                "set mode: auto, or remove the deadline"
            )
        return value


def _asks(spec: JobSpec) -> tuple[str, int, JsonObject]:
    return parameters.undated(spec.model_id), spec.max_tokens, dict(spec.params)


def _schema_problem(schema: JsonObject) -> str | None:
    """What is wrong with a JSON Schema; None if nothing is. Nothing is fetched."""

    def refuse(uri: str) -> Any:
        raise ValueError(f"{uri} would have to be fetched; put it into the schema itself")

    try:
        jsonschema_rs.validator_for(schema, retriever=refuse)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        place = "/".join(map(str, getattr(error, "instance_path", ())))
        where = f" at {place}" if place else ""
        return f"is not a valid JSON Schema{where}: {getattr(error, 'message', error)}"
    return None
