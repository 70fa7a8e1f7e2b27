"""A handful of a night's answers, good and bad, as a small Markdown table.

Written so that Dagster shows it at once: it hides Markdown of 1,000 characters and more behind a
link. Answers are data of a model: what could break out of a table, or fetch anything, is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from batch_pipeline import safe_text
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.results import examples
from batch_pipeline.flow.results.examples import Example
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.wording import clipped, status_label

GOOD, BAD = 3, 3
INLINE_CHARACTERS = 1_000
ID_CHARACTERS = 24


def of_night(pipeline: Pipeline, spec: JobSpec, partition: str) -> dict[str, dg.MetadataValue]:
    """The table of a night's answers so far; nothing where the job hides them, or has none."""
    if not spec.show_answers:
        return {}
    found = examples.of_night(pipeline, spec.name, partition, good=GOOD, bad=BAD)
    return {"answers": dg.MetadataValue.md(table(found))} if found else {}


def below_headline(
    values: Mapping[str, Any], answers: Mapping[str, dg.MetadataValue]
) -> dict[str, Any]:
    """Metadata with the answers after its first entry: what stands below it is scrolled to."""
    headline, *rest = values.items()
    return dict([headline, *answers.items(), *rest])


def table(found: Sequence[Example]) -> str:
    """The rows as Markdown of fewer than `INLINE_CHARACTERS`."""
    length = 120
    while True:
        text = "\n".join(["| id | | answer |", "|---|---|---|", *(_row(e, length) for e in found)])
        if len(text) < INLINE_CHARACTERS or length <= 10:
            return text
        length -= 10


def _row(example: Example, length: int) -> str:
    if example.good:
        said = example.content or ""
    else:
        error = (example.error_type, example.error_message, example.content)
        said = ": ".join(part for part in error if part)
    cells = (
        safe_text.markdown(clipped(example.id, ID_CHARACTERS)),
        "good" if example.good else f"**{status_label(example.status)}**",
        safe_text.markdown(clipped(" ".join(said.split()), length)),
    )
    return f"| {' | '.join(cells)} |"
