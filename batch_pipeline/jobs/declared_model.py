"""The base of every part of a declaration: strict validation, and texts that come from files.

Which keys a job has, and the rules between them, belong in `spec` and `partitions`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, ClassVar, cast

import orjson
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    PlainSerializer,
    StringConstraints,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError


class DeclaredModel(BaseModel):
    """A part of a declaration: unknown keys and wrong types are errors, nothing is coerced."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    FILE_KEYS: ClassVar[Mapping[str, str]] = {}
    """Keys that may be given as `<key>_file` instead, each with an example of a file's name."""

    @classmethod
    def known_keys(cls) -> list[str]:
        """Every key that may be written, in the order of the contract."""
        keys = (field.alias or name for name, field in cls.model_fields.items())
        return [*keys, *(f"{key}_file" for key in cls.FILE_KEYS)]

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The schema for editors: with the `<key>_file` keys, which are no fields."""
        schema = handler(core_schema)
        shown = handler.resolve_ref_schema(schema)
        for key, example in cls.FILE_KEYS.items():
            shown["properties"][f"{key}_file"] = {
                "type": "string",
                "description": f"A file that holds `{key}`, relative to this one.",
                "examples": [example],
            }
            if key in shown.get("required", ()):
                shown["required"].remove(key)
        return schema

    @model_validator(mode="before")
    @classmethod
    def _stand_ins_for_files(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        values = dict(data)
        for key in cls.FILE_KEYS:
            name = values.pop(f"{key}_file", None)
            if name is not None:
                values[key] = _FromFile(name, also_given=values.get(key) is not None)
        return values


@dataclass(frozen=True)
class _FromFile:
    """A placeholder for a text in a file, until its field is validated and the file read."""

    name: object
    also_given: bool


def is_from_file(value: object) -> bool:
    """Whether a value is yet to be read from the file that was named for it."""
    return isinstance(value, _FromFile)


def read_text(value: object, info: ValidationInfo) -> object:
    """The text of the file for a placeholder; any other value unchanged."""
    if not isinstance(value, _FromFile):
        return value
    if value.also_given:
        raise ValueError(f"give either {info.field_name} or {info.field_name}_file, not both")
    if not isinstance(value.name, str | Path) or not str(value.name):
        raise ValueError(f"must be the name of a file, not {value.name!r}")
    path = base_dir_of(info) / value.name
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start})") from error


def read_json(value: object, info: ValidationInfo) -> object:
    """As `read_text`, for a file that holds JSON."""
    text = read_text(value, info)
    if not isinstance(value, _FromFile):
        return value
    try:
        found = json.loads(cast("str", text))
        orjson.dumps(found)
    except json.JSONDecodeError as error:
        raise ValueError(f"{value.name}:{error.lineno} is not JSON: {error.msg}") from error
    except (RecursionError, TypeError) as error:
        raise ValueError(f"{value.name} cannot be sent as JSON: {error}") from error
    return found


def base_dir_of(info: ValidationInfo) -> Path:
    """The absolute folder that relative paths refer to: the declaration's, else the current one."""
    given = info.context.get("base_dir") if isinstance(info.context, Mapping) else None
    return Path(given).absolute() if given is not None else Path.cwd()


def _decimal(value: object) -> object:
    """Money is decimal: 0.1 means a tenth of a dollar, not the double nearest to it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    return value


Rate = Annotated[float, Field(ge=0, le=1)]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]
Usd = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(gt=0, allow_inf_nan=False),
    PlainSerializer(float, when_used="json"),
]
# Per million tokens, so that the price of one token is a whole number of picodollars.
UsdPerMillion = Annotated[Usd, Field(decimal_places=6)]
Text = Annotated[str, BeforeValidator(read_text)]
JsonObject = dict[str, JsonValue]
# Not strict for the container: YAML has lists where a frozen value has tuples.
NonEmptyTexts = Annotated[tuple[NonEmpty, ...], Field(strict=False)]


def problem_with(path: tuple[int | str, ...], message: str) -> InitErrorDetails:
    """A problem with the key at a path, in pydantic's form: so its line in the file is found."""
    # The message is passed as a value, because pydantic would take its braces for placeholders.
    error = PydanticCustomError("declared", "{message}", {"message": message})
    return InitErrorDetails(type=error, loc=path, input=None)
