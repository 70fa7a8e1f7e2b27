"""Every key is described, its examples are values that it takes, and docs/jobs.md says the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, create_model

from batch_pipeline.component import BatchJobComponent
from batch_pipeline.jobs import key_table
from batch_pipeline.jobs.key_table import Key

DOCS = Path(__file__).parents[2] / "docs" / "jobs.md"
KEYS = list(key_table.keys())


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_a_key_is_described_by_examples_that_it_takes(key: Key) -> None:
    assert key.field.description
    assert key.field.description.endswith(".")
    assert key.field.examples
    adapter: TypeAdapter[Any] = TypeAdapter(
        Annotated[key.field.annotation, key.field]  # type: ignore[arg-type]
    )
    for example in key.field.examples:
        if "_file" not in json.dumps(example):
            adapter.validate_python(example)


def test_the_documentation_has_the_table_as_it_is() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert page == key_table.with_table(page), "run `python -m batch_pipeline.jobs.key_table`"


def test_editors_see_what_a_key_means() -> None:
    # As dg writes the schema of a project, which editors read: the components of it in one.
    everything: Any = create_model("Everything", job=(BatchJobComponent.get_model_cls(), ...))
    schema = everything.model_json_schema()
    assert {"input", "owners"} <= schema["$defs"]["JobAttributes"]["properties"].keys()
    models = schema["$defs"].values()
    undescribed = [
        key
        for model in models
        for key, shown in model.get("properties", {}).items()
        if not (shown.get("description") and shown.get("examples"))
    ]
    assert undescribed == []
