"""The report of a night that has failed and has no other: three short files in its report folder.

A cost report takes their place once the night is complete. They say `complete: false`, so that no
program takes the night for done.
"""

from __future__ import annotations

import html
from typing import Any

import orjson

from batch_pipeline.flow import paths
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger.nights import Night
from batch_pipeline.safe_text import markdown, one_line
from batch_pipeline.wording import iso

SUFFIXES = (".md", ".html", ".json")


def as_json(night: Night) -> dict[str, Any] | None:
    """A night's failure as `status --json` and the report have it; None: it has not failed."""
    if night.failure is None:
        return None
    found = night.failure
    return {
        "code": found["code"],
        "reason": found["reason"],
        "remedy": found["remedy"],
        "at": iso(found["at"]),
        "since": iso(found["since"]),
        "step": found["step"],
        "by": found["by"],
    }


def write(pipeline: Pipeline, night: Night) -> None:
    """Write the pages of a failed night, unless its folder has a cost report."""
    failure = as_json(night)
    if failure is None or not _is_free(pipeline, night):
        return
    document = {
        "job": night.job,
        "partition": night.partition,
        "account": night.owner,
        "complete": False,
        "failure": failure,
    }
    facts = {
        "why": failure["reason"],
        "what to do": failure["remedy"],
        "failed at": f"{failure['at']} (since {failure['since']})",
        "step": f"{failure['step']}, {failure['by']}",
    }
    title = f"{night.job} {night.partition} has failed"
    pages = {".md": _markdown(title, facts), ".html": _html(title, facts)}
    for suffix, page in pages.items():
        pipeline.files.write(paths.report(night.job, night.partition, suffix), page.encode())
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2)
    pipeline.files.write(paths.report(night.job, night.partition, ".json"), text)


def remove(pipeline: Pipeline, night: Night) -> None:
    """Remove the pages of a night that has failed no more; a cost report stays."""
    if _is_free(pipeline, night):
        for suffix in reversed(SUFFIXES):
            pipeline.files.remove(paths.report(night.job, night.partition, suffix))


def _is_free(pipeline: Pipeline, night: Night) -> bool:
    """Whether the report folder has no cost report of the night."""
    found = pipeline.files.read(paths.report(night.job, night.partition, ".json"))
    return found is None or "items" not in orjson.loads(found)


def _markdown(title: str, facts: dict[str, str]) -> str:
    rows = [f"| {name} | {markdown(text)} |" for name, text in facts.items()]
    return "\n".join([f"### {markdown(title)}", "", "| | |", "|---|---|", *rows, ""])


def _html(title: str, facts: dict[str, str]) -> str:
    rows = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(one_line(text))}</dd>"
        for name, text in facts.items()
    )
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    )
    return f"{head}<h1>{html.escape(title)}</h1><dl>{rows}</dl></html>\n"
