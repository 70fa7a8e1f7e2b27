"""Checks values against the schema of Dagster's chart: check_chart.py SCHEMA VALUES [VALUES…].

SCHEMA is `values.schema.json` of the chart (`helm pull dagster/dagster --untar`); several files of
values are laid over one another as helm does. The parts of Kubernetes that the schema refers to by
address are not looked up: what they say is checked by dagster-k8s in the tests.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

OF_KUBERNETES = "https://kubernetesjsonschema.dev/"


def laid_over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Values as helm merges them: mappings key by key, all else as a whole."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = laid_over(below, value)
        else:
            merged[key] = value
    return merged


def without_references(schema: Any) -> Any:
    """A schema that takes anything where it refers to Kubernetes' own, and wants no key.

    helm adds the chart's defaults before it checks what is required.
    """
    if isinstance(schema, list):
        return [without_references(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if str(schema.get("$ref", "")).startswith(OF_KUBERNETES):
        return {}
    return {
        key: without_references(part)
        for key, part in schema.items()
        if not (key == "required" and isinstance(part, list))
    }


def main(schema_file: str, *values_files: str) -> int:
    schema = without_references(json.loads(Path(schema_file).read_text()))
    values: dict[str, Any] = {}
    for file in values_files:
        values = laid_over(values, yaml.safe_load(Path(file).read_text()))
    unknown = sorted(values.keys() - schema["properties"].keys())
    problems = [f"{key}: the chart has no such value" for key in unknown]
    problems += [
        f"{'.'.join(map(str, error.instance_path))}: {error.message}"
        for error in jsonschema_rs.validator_for(schema).iter_errors(values)
    ]
    print("\n".join(problems) or "the values fit the chart")
    return 1 if problems else 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
