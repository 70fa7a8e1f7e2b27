"""A night whose prompt is a conversation with examples, and whose rows say how they are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.choosing.routes import UNLISTED_MODEL
from batch_pipeline.flow.dataset.prepare import prepare
from batch_pipeline.flow.dataset.reading.listing import find_sources
from batch_pipeline.flow.dataset.reading.splits import pieces_of
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    dead_letters,
    job,
    results,
    statuses,
    write_rows,
)

SMALL, LARGE = "claude-haiku-4-5-20251001", "claude-sonnet-4-6"
MESSAGES = [{"role": "user", "text": "{title}"}, {"role": "user", "text": "{text}"}]
EXAMPLES = [{"user": f"case {n}", "answer": {"n": n}} for n in range(5)]


def test_each_row_is_asked_as_its_columns_say(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"{model} {n}", "text": f"a contract of {n}", "most": n + 2, "model": model}
        for model in (SMALL, LARGE)
        for n in range(6)
    ]
    odd = {"text": "x", "most": 9, "model": SMALL}
    rows += [
        {"id": "no model", **odd, "model": None},
        {"id": "other model", **odd, "model": "gpt"},
        {"id": "too long", **odd, "most": 501},
        {"id": "no number", **odd, "most": "a few"},
    ]
    spec = job(
        write_rows(tmp_path / "in.jsonl", rows),
        prompt={
            "system": [{"text": "You are a clerk."}],
            "messages": [
                {"role": "user", "text": "A case: {text}"},
                {"role": "assistant", "text": "I see {{it}}."},
                {"role": "user", "text": "Sum up {text}"},
            ],
            "examples": {"items": EXAMPLES, "count": 2, "choose": "random"},
        },
        per_row={"max_tokens": "most", "model_id": {"column": "model", "models": [SMALL, LARGE]}},
        max_tokens=500,
        pilot={"size": 1, "max_error_rate": 1, "max_truncated_rate": 1},
        retry={"truncated_max_tokens": 1_000},
        caching="1h",
    )
    run(pipeline, spec, PARTITION)
    assert accepted_twice(sim) == {}
    found = by_id(results(pipeline, spec))
    assert statuses(found.values()) == {"succeeded": 12, "invalid_input": 4}
    for name, row in found.items():
        if row["status"] == "succeeded":
            assert name.startswith(row["model"])
            assert row["route"] == ("1" if row["model"] == SMALL else "2")
            # Its own limit holds for a row's first answer; the second has more room.
            assert row["output_tokens"] <= int(name.split()[1]) + 2 or row["attempt"] == 2
    assert {each["id"]: each["error_message"] for each in dead_letters(pipeline, spec)} == {
        "no model": f"{UNLISTED_MODEL}: null in column 'model'",
        "other model": f"{UNLISTED_MODEL}: 'gpt' in column 'model' is none of "
        f"per_row.model_id.models: {SMALL}, {LARGE}",
        "too long": "max_tokens in column 'most' is no whole number from 1 to 500",
        "no number": "max_tokens in column 'most' is no whole number from 1 to 500",
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"per_row": {"max_tokens": "most"}},
            "the column of per_row.max_tokens, 'most' is missing",
        ),
        (
            {"per_row": {"model_id": {"column": "model", "models": [SMALL]}}},
            "the column of per_row.model_id.column, 'model' is missing",
        ),
        (
            {"prompt": {"user": "{text}{x:image}", "titles": {"x": "Scan {number}"}}},
            "the column of prompt.titles.x, 'number' is missing",
        ),
        ({"prompt": {"messages": MESSAGES}}, "the prompt's column 'title' is missing"),
    ],
)
def test_a_missing_column_is_told_with_the_key_that_names_it(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,text,x\n1,a,a.png\n")
    declaration = Declaration.of(job(path, **changes))
    [piece] = pieces_of(find_sources(str(path), "all", {}))
    with pytest.raises(InputDataError, match=words):
        prepare(0, piece, declaration, tmp_path, "none")
