"""The page of a night: did it work, what did it cost, what failed, and what is to be done.

`cost_report` shows it first, as Markdown short enough to be seen without a click.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import dagster as dg

from batch_pipeline import safe_text
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.checks.night_checks import Found
from batch_pipeline.orchestration.names import (
    COLLECTED_RESULTS,
    COST_REPORT,
    DEAD_LETTER,
    control_job,
)
from batch_pipeline.wording import clipped, part, percent, status_label, usd

if TYPE_CHECKING:
    from batch_pipeline.flow.status.progress import Progress
    from batch_pipeline.reporting.report.report import Report, SetAside

DESCRIPTION = (
    "Did the night work, what did it cost, what failed, what is to be done: the first entry of "
    "each partition's metadata answers these four. Below it: the bill, against real time and "
    "against the estimate. A night without an entry is not complete: see submitted_batches."
)
MOST_REASONS = 3
MOST_CHECKS = 2
# Dagster hides Markdown of this length behind a link; the words matter more than their links.
INLINE_CHARACTERS = 1_000
_LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
VERDICT_CHARACTERS = 90


def of_night(
    spec: JobSpec, state: Progress, checked: Sequence[Found], report: Report
) -> dict[str, dg.MetadataValue]:
    """The four answers of a complete night."""
    failed = [found for found in checked if not found.passed]
    answers = {
        "Did it work?": _worked(spec, state, failed),
        "What did it cost?": _cost(spec, report),
        "What failed?": _failed(spec, report),
        "What do I do?": _to_do(spec, state, failed, report),
    }
    # Paragraphs and not a table: its columns would be cut off where the page is narrow.
    text = "\n\n".join(f"**{question}** {answer}" for question, answer in answers.items())
    if len(text) >= INLINE_CHARACTERS:
        text = _LINK.sub(r"\1", text)
    return {"night": dg.MetadataValue.md(text)}


def _worked(spec: JobSpec, state: Progress, failed: Sequence[Found]) -> str:
    asked = state.settled - state.filtered
    share = f"{state.succeeded:,} of {asked:,} documents ({part(state.succeeded, asked)}) succeeded"
    red = [found for found in failed if not found.warning]
    if red:
        return f"No. {share}; red: {_checks(spec, red)}"
    if failed:
        return f"Yes, with warnings. {share}; yellow: {_checks(spec, failed)}"
    page = f"/assets/{spec.name}/{COLLECTED_RESULTS}?view=checks"
    return f"Yes. {share}, and [all checks]({page}) passed"


def _checks(spec: JobSpec, found: Sequence[Found]) -> str:
    named = ", ".join(
        f"[{_words(each)}](/assets/{spec.name}/{each.asset}?view=checks&checkDetail={each.check})"
        for each in found[:MOST_CHECKS]
    )
    more = len(found) - MOST_CHECKS
    return named + (f" and {more} more" if more > 0 else "")


def _words(found: Found) -> str:
    return found.check.replace("_", " ")


def _cost(spec: JobSpec, report: Report) -> str:
    simulated = "SIMULATED, nothing was paid: " if report.simulated else ""
    saved = f"{usd(report.costs.savings_usd)} ({percent(report.costs.savings_share)}) saved"
    return (
        f"{simulated}{usd(report.costs.billed_usd)}, "
        f"{usd(report.cost_per_document_usd)} a document; {saved} against real time. "
        f"[All nights](/assets/{spec.name}/{COST_REPORT}?view=overview)"
    )


def _failed(spec: JobSpec, report: Report) -> str:
    if not report.dead_letter:
        return "No document"
    reasons = ", ".join(
        f"{group.items:,} {status_label(group.reason)}{_error_type(group)}"
        for group in report.set_aside[:MOST_REASONS]
    )
    more = " and others" if len(report.set_aside) > MOST_REASONS else ""
    return f"{reasons}{more}: [dead letters]({_page(spec, DEAD_LETTER, report.partition)})"


def _error_type(group: SetAside) -> str:
    """The type of an error in brackets, where it tells more than the reason."""
    if group.error_type in (None, group.reason, "refusal", "max_tokens"):
        return ""
    return f" ({safe_text.markdown(group.error_type or '')})"


def _to_do(spec: JobSpec, state: Progress, failed: Sequence[Found], report: Report) -> str:
    if state.dead_letter:
        systematic = [group.reason for group in report.set_aside if group.systematic]
        which = f" `{systematic[0]}`" if systematic else ""
        return (
            f"Mend prompt or data, then redrive{which}: [{control_job(spec.name)}]"
            f"(/jobs/{control_job(spec.name)}), or `batch-pipeline dead-letter redrive {spec.name} "
            f"--partition {report.partition}`"
        )
    if failed:
        found = failed[0]
        return f"Look at {_words(found)}: " + safe_text.markdown(
            clipped(found.verdict, VERDICT_CHARACTERS)
        )
    return f"Nothing. [Results]({_page(spec, COLLECTED_RESULTS, report.partition)})"


def _page(spec: JobSpec, asset: str, partition: str) -> str:
    return f"/assets/{spec.name}/{asset}?view=partitions&partition={quote(partition)}"
