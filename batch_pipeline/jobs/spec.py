"""JobSpec: all that a job declares, checked.

Belongs here: keys, defaults and the rules between keys, as frozen values. Reading YAML is in
`loading`. A file that a declaration names (`user_file`) is read here, so that a spec holds texts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import jsonschema_rs
from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ValidationError

from batch_pipeline.jobs import parameters, thrift
from batch_pipeline.jobs.cron import cron_problem
from batch_pipeline.jobs.declared_model import (
    DeclaredModel,
    JsonObject,
    NonEmpty,
    NonEmptyTexts,
    Rate,
    Text,
    Usd,
    UsdPerMillion,
    base_dir_of,
    problem_with,
    read_json,
)
from batch_pipeline.jobs.partitions import PartitionsSpec
from batch_pipeline.jobs.thrift import (
    AskedOtherwise,
    EscalateSpec,
    FiltersSpec,
    NearDuplicatesSpec,
    ReuseSpec,
    RouteSpec,
)

MAX_REQUESTS_PER_BATCH = 100_000
MAX_BYTES_PER_BATCH = 256_000_000
"""The API's limits of one batch; its documentation says 256 MB, which may be MiB or MB."""

# Where a value stands in a declaration.
KeyPath = tuple[str | int, ...]

_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")


class CsvSpec(DeclaredModel):
    """How CSV files are written: what is between two cells, and the encoding."""

    delimiter: str = ","
    encoding: str = "utf-8"

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        if len(value) != 1 or value in '"\r\n\0':
            raise ValueError(
                f'must be one character like ";" or "\\t" (a tab), no quote and no line break, '
                f"not {value!r}"
            )
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            io.TextIOWrapper(io.BytesIO(), encoding=value).read()
        except (LookupError, UnicodeError, ValueError) as error:
            raise ValueError(
                f"must be a text encoding that Python knows, like utf-8, utf-16 or cp1252, not "
                f"{value!r}"
            ) from error
        return value


class InputSpec(DeclaredModel):
    """Where a night's documents are.

    `path` is absolute or a URL, a glob perhaps, and still holds `{partition}` and `${VAR}`; one
    that begins with `${VAR}` is left as it is, since only the variable tells whether it is
    absolute.
    """

    path: NonEmpty
    id_column: NonEmpty = "id"
    upstream: NonEmptyTexts = ()
    same_every_night: bool = False
    csv: CsvSpec = CsvSpec()

    @field_validator("path")
    @classmethod
    def _absolute_path(cls, value: str, info: ValidationInfo) -> str:
        others = set(_PLACEHOLDER.findall(_VARIABLE.sub("", value))) - {"{partition}"}
        if others:
            raise ValueError(
                f"holds {', '.join(sorted(others))}, but only {{partition}} is filled in "
                "(and ${VAR}, from the environment); other kinds of files need a job each"
            )
        if value.startswith("~"):
            raise ValueError("~ is not expanded; write ${HOME} instead")
        if "://" in value or _VARIABLE.match(value):
            return value
        return str(base_dir_of(info) / value)

    @field_validator("upstream")
    @classmethod
    def _asset_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for key in value:
            if not re.fullmatch(r"[^/\s]+(/[^/\s]+)*", key):
                raise ValueError(f"{key!r} is not a Dagster asset key like raw/contracts")
        return value


class PromptSpec(DeclaredModel):
    """The prompt's texts; `user` is a template with `{column}` placeholders."""

    FILE_KEYS = ("system", "user")

    system: Text | None = None
    user: Text

    @field_validator("system", "user")
    @classmethod
    def _not_blank(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("the text is empty")
        return value


class PilotSpec(DeclaredModel):
    """The sample that is sent first and decides whether the rest is sent; size 0 means no pilot."""

    size: int = Field(default=100, ge=0)
    seed: int = 0
    via: Literal["realtime", "batch"] = "realtime"
    max_error_rate: Rate = 0.05
    max_truncated_rate: Rate = 0.02
    max_projected_usd: Usd | None = None


class BudgetSpec(DeclaredModel):
    """Ceilings in USD of a night and of a calendar month (UTC); `buffer` is what an estimate, and a
    reservation at measured tokens, add for errors and variance."""

    max_usd_per_partition: Usd | None = None
    max_usd_per_month: Usd | None = None
    buffer: float = Field(default=0.20, ge=0)


class ClassPricesSpec(DeclaredModel):
    """USD per million tokens of each class."""

    input: UsdPerMillion
    output: UsdPerMillion
    cache_write_5m: UsdPerMillion
    cache_write_1h: UsdPerMillion
    cache_read: UsdPerMillion


class PricesSpec(DeclaredModel):
    """Prices of a negotiated contract, both ways, which replace the published prices."""

    batch: ClassPricesSpec
    realtime: ClassPricesSpec


class LimitsSpec(DeclaredModel):
    """How large a batch may be, and this job's share of the account's queue (null: all of it)."""

    max_requests_per_batch: int = Field(default=10_000, ge=1, le=MAX_REQUESTS_PER_BATCH)
    max_bytes_per_batch: int = Field(default=MAX_BYTES_PER_BATCH, ge=1, le=MAX_BYTES_PER_BATCH)
    max_queued_requests: int | None = Field(default=None, ge=1)


class RetrySpec(DeclaredModel):
    """How often an item is asked (the first time included), the `max_tokens` once truncated, and
    what is asked once more of a stronger model."""

    max_attempts: int = Field(default=3, ge=1)
    truncated_max_tokens: int | None = Field(default=None, ge=1)
    escalate: EscalateSpec | None = None


class RealtimeSpec(DeclaredModel):
    """The second engine's concurrency (requests) and checkpoint interval (answers)."""

    concurrency: int = Field(default=20, ge=1)
    checkpoint_every: int = Field(default=100, ge=1)


class AlertsSpec(DeclaredModel):
    """The limits at which a person is alerted of a night."""

    error_rate: Rate = 0.10
    after_items: int = Field(default=50, ge=0)
    dead_letter_rate: Rate = 0.05
    max_usd_per_document: Usd | None = None
    on_complete: bool = False


class JobSpec(DeclaredModel):
    """One job, as declared in YAML or in Python.

    In Python, parts may be given as mappings, and `base_dir` is the folder that relative paths and
    files refer to (the current folder unless given). Raises pydantic's ValidationError, which lists
    every problem with its key. Files are read on construction: `prompt.system`, `prompt.user` and
    `output_schema` have the content of their `*_file`.
    """

    FILE_KEYS = ("output_schema",)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    description: str = ""
    input: InputSpec
    prompt: PromptSpec
    model_id: NonEmpty
    max_tokens: int = Field(ge=1)
    params: JsonObject = Field(default_factory=dict)
    betas: NonEmptyTexts = ()
    output_schema: Annotated[JsonObject, BeforeValidator(read_json)] | None = None
    mode: Literal["batch", "realtime", "auto"] = "batch"
    partitions: PartitionsSpec | None = None
    schedule: str | None = None
    pilot: PilotSpec = PilotSpec()
    budget: BudgetSpec = BudgetSpec()
    prices: PricesSpec | None = None
    limits: LimitsSpec = LimitsSpec()
    retry: RetrySpec = RetrySpec()
    routes: Annotated[tuple[RouteSpec, ...], Field(strict=False)] = ()
    caching: Literal["off", "auto", "5m", "1h"] = "off"
    deduplicate: bool = True
    filters: FiltersSpec = FiltersSpec()
    near_duplicates: NearDuplicatesSpec | None = None
    reuse: ReuseSpec | None = None
    deadline: str | None = None
    realtime: RealtimeSpec = RealtimeSpec()
    alerts: AlertsSpec = AlertsSpec()
    show_answers: bool = Field(
        default=True,
        description=(
            "A few answers, good and bad, in the metadata of `pilot_sample` and "
            "`collected_results`; `false` where documents are confidential."
        ),
        examples=[False],
    )

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
        for path, message in self._ways_that_cannot_work():
            found.append(problem_with(path, message))
        if found:
            raise ValidationError.from_exception_data("job", found)
        return self

    def _ways_that_cannot_work(self) -> Iterator[tuple[KeyPath, str]]:
        """What is wrong with routes and escalation beside the rest of the job."""
        for path, asked in self.asked_by_routes():
            if _asks(asked) == _asks(self):
                yield path, "asks as the rest of the job does; remove the route, or change it"
        yield from thrift.unreachable(self.routes)
        for path, asked in self.asked_all_ways()[1:]:
            for key, message in parameters.problems(asked.declared()):
                if key[0] in ("params", "model_id", "max_tokens"):
                    yield (*path, *key), message
        escalate, under = self.retry.escalate, ("retry", "escalate")
        if escalate is None:
            return
        if self.output_schema is None and escalate.reads("parsed"):
            missing = "reads parsed, which is NULL without output_schema; read content instead"
            yield (*under, "where"), missing
        if parameters.undated(escalate.model_id) == parameters.undated(self.model_id):
            same = f"is the job's own model ({self.model_id}); name a stronger one"
            yield (*under, "model_id"), same

    def declared(self) -> parameters.Declared:
        """The declaration as the table of parameters reads it."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def asked_by_routes(self) -> list[tuple[KeyPath, JobSpec]]:
        """The job as each of its routes asks, with the path of the route's keys."""
        return [(("routes", n), self._asked(route)) for n, route in enumerate(self.routes)]

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
        return self.model_copy(update={**asked, "routes": (), "retry": RetrySpec()})

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

    @field_validator("partitions")
    @classmethod
    def _new_input_every_night(
        cls, value: PartitionsSpec | None, info: ValidationInfo
    ) -> PartitionsSpec | None:
        source: InputSpec | None = info.data.get("input")
        if value is None or source is None or source.same_every_night:
            return value
        if "{partition}" not in source.path:
            raise ValueError(
                "input.path has no {partition}, so every night would buy the same answers again; "
                "add {partition} to the path, or set input.same_every_night: true if that is meant"
            )
        return value

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
        if value is not None and info.data.get("partitions", value) is None:
            raise ValueError(
                "takes over answers of earlier nights, but the job has one night only; declare "
                "`partitions`, or remove `reuse`"
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
