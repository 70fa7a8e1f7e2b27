"""Reads a faults declaration from YAML or JSON, with errors that name the key."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from batch_pipeline.simulator.faults.declaration import Faults


class FaultsError(ValueError):
    """A faults declaration that cannot be used; the message names the file and every bad key."""


def load_faults(path: Path | str) -> Faults:
    """The declaration in a file. Errors: `FaultsError`."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise FaultsError(f"Cannot read the faults file {path}: {error.strerror}.") from error
    return parse_faults(content, str(path))


def parse_faults(content: bytes | str, source: str = "faults") -> Faults:
    """A declaration as text (JSON is YAML as well). Errors: `FaultsError`, with `source` in it."""
    try:
        # A safe loader, with repeated keys refused on top.
        data = yaml.load(content, _Loader)  # noqa: S506
    except yaml.YAMLError as error:
        raise FaultsError(f"{source} is not YAML: {error}") from error
    if data is None:
        return Faults()
    try:
        return Faults.model_validate(data)
    except ValidationError as error:
        problems = [f"{source}: {_described(problem, data)}" for problem in error.errors()]
        raise FaultsError("\n".join(problems)) from error


def _described(problem: Any, data: Any) -> str:
    key = _key(problem["loc"], data)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    return f"{key}: {problem['msg']}" if key else str(problem["msg"])


def _key(location: tuple[int | str, ...], data: Any) -> str:
    """The path of a key, as in `create.script.0.status`, without pydantic's union tags."""
    found: list[str] = []
    for part in location:
        if isinstance(data, dict) and part not in data and part == data.get("kind"):
            continue
        found.append(str(part))
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            data = None
    return ".".join(found)


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {repeated[0]} is there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)
