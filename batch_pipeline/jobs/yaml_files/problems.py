"""Messages for what is wrong in a YAML file, in words of YAML: file, line, key, and what is wanted.

What may be written is in the models; `yaml_lines` knows the lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic_core import ErrorDetails

from batch_pipeline.errors import DeclarationError
from batch_pipeline.jobs.declared_model import DeclaredModel
from batch_pipeline.jobs.yaml_files.yaml_lines import (
    KeyPath,
    YamlDocument,
    YamlProblem,
    parse_yaml,
)
from batch_pipeline.safe_text import one_line

_WANTED = {
    "bool_type": "true or false",
    "date_type": "a date like 2026-01-01",
    "dict_type": "a mapping of keys",
    "float_type": "a number",
    "int_type": "a whole number",
    "is_instance_of": "an amount in USD",
    "model_type": "a mapping of keys",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What was expected, by pydantic's type of error, in words of YAML rather than of Python."""


def read_document(file: Path) -> tuple[YamlDocument, list[str]]:
    """A YAML file's document, and a line for each key that is there twice.

    Raises DeclarationError where the file cannot be read, or is no YAML.
    """
    try:
        document = parse_yaml(file.read_bytes())
    except OSError as error:
        raise DeclarationError(f"{file}: cannot be read: {error.strerror}") from error
    except YamlProblem as error:
        raise DeclarationError(f"{file}:{error.line}: {error}") from error
    twice = [
        f"{file}:{line}: {dotted(path)}: is there twice; the first is on line {first}"
        for path, line, first in document.repeated
    ]
    return document, twice


def explain(
    details: ErrorDetails, values: Mapping[Any, Any], root: type[DeclaredModel]
) -> tuple[KeyPath, str]:
    """The path of a problem that pydantic found in the values of a `root`, as the user wrote the
    key, and its message."""
    path: KeyPath = details["loc"]
    shown = _shown(details["input"])
    match details["type"]:
        case "missing":
            message = "is required"
        case "extra_forbidden":
            message = unknown_key(path[-1], _model_at(path[:-1], root))
        case "value_error":
            message = str(details["ctx"]["error"])
        case "declared":
            message = details["msg"]
        case "string_type" if isinstance(details["input"], bool | int | float | date):
            message = f"must be text, not {shown}; put it into quotes"
        case "invalid-json-value":
            message = f"must be a value that JSON has, not {shown}"
        case kind if kind in _WANTED:
            message = f"must be {_WANTED[kind]}, not {shown}"
        case _:
            # pydantic's own words: "Input should be less than or equal to 1"
            message = f"must {details['msg'].partition(' should ')[2]}, not {shown}"
    return _as_written(path, values), message


def _as_written(path: KeyPath, values: Mapping[Any, Any]) -> KeyPath:
    """The path with `user_file` for `user` where the declaration has the former."""
    parent: Any = values
    for key in path[:-1]:
        if isinstance(parent, list) and isinstance(key, int):
            parent = parent[key]
        else:
            parent = parent.get(key) if isinstance(parent, Mapping) else None
    file_key = f"{path[-1]}_file" if path else ""
    if path and isinstance(parent, Mapping) and path[-1] not in parent and file_key in parent:
        return (*path[:-1], file_key)
    return path


def unknown_key(key: object, model: type[DeclaredModel] | None) -> str:
    """The message for a key that a model has not."""
    known = model.known_keys() if model is not None else []
    close = get_close_matches(str(key), known, n=1)
    if close:
        return f"unknown key; did you mean {close[0]}?"
    return f"unknown key; the keys here are {', '.join(known)}"


def _model_at(path: KeyPath, root: type[DeclaredModel]) -> type[DeclaredModel] | None:
    """The model whose keys stand below `path`."""
    model: type[DeclaredModel] | None = root
    for key in path:
        # The number of an entry in a list of models.
        if isinstance(key, int):
            continue
        field = model.model_fields.get(key) if model is not None else None
        model = next(_models_in(field.annotation), None) if field is not None else None
    return model


def _models_in(annotation: Any) -> Iterator[type[DeclaredModel]]:
    if isinstance(annotation, type) and issubclass(annotation, DeclaredModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _shown(value: object) -> str:
    """A value in words of YAML; this shows values that YAML reads otherwise (22:00 is 1320)."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {value[:60]!r}"
        case int() | float():
            return f"the number {value}"
        case Mapping() | list():
            return "a list" if isinstance(value, list) else "a mapping"
        case _:
            return str(value)


def problem_line(file: Path, line_of: Callable[[KeyPath], int], path: KeyPath, message: str) -> str:
    """A problem in one line: file, line, key and message."""
    key = f"{dotted(path)}: " if path else ""
    return one_line(f"{file}:{line_of(path)}: {key}{message}")


def dotted(path: KeyPath) -> str:
    """A path of keys as people write it: `pilot.size`."""
    return ".".join(map(str, path))
