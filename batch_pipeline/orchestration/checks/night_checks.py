"""The asset checks of a finished night: what people plot and alert on.

Belongs here: the checks' names, what each says, and when it fails. Pure functions of what the
assets have read anyway. A check is red (ERROR) where a limit of the job is passed, and yellow
(WARN) where a person should look before that. The partition stands in the metadata, since the
history of a check has no column for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

import dagster as dg

from batch_pipeline import safe_text
from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.orchestration.names import (
    COLLECTED_RESULTS,
    COST_REPORT,
    DEAD_LETTER,
    asset_key,
)
from batch_pipeline.wording import usd

if TYPE_CHECKING:
    from batch_pipeline.flow.results.examples import Rows
    from batch_pipeline.flow.status.progress import Progress
    from batch_pipeline.reporting.report.report import Report, SetAside

EVERY_ITEM = "every_item_one_row"
ERROR_RATE = "error_rate"
FITS_SCHEMA = "fits_schema"
DEAD_LETTER_RATE = "dead_letter_rate"
SYSTEMATIC_ERRORS = "systematic_errors"
WITHIN_BUDGET = "within_budget"
ESTIMATE = "estimate_against_actual"

Value = str | int | float | bool


@dataclass(frozen=True)
class Found:
    """What a check found: `verdict` in words, `numbers` to plot; `warning` where it is no error."""

    asset: str
    check: str
    passed: bool
    verdict: str
    numbers: Mapping[str, Value] = field(default_factory=dict)
    warning: bool = False

    def result(self, job: str, partition: str) -> dg.AssetCheckResult:
        words = {"partition": partition, "verdict": self.verdict, **self.numbers}
        return dg.AssetCheckResult(
            asset_key=asset_key(job, self.asset),
            check_name=self.check,
            passed=self.passed,
            severity=(dg.AssetCheckSeverity.WARN if self.warning else dg.AssetCheckSeverity.ERROR),
            description=safe_text.one_line(f"{partition}: {self.verdict}"),
            metadata=safe_text.shown(words),
        )


def specs(spec: JobSpec) -> list[dg.AssetCheckSpec]:
    """The checks of a job; one on the schema only where answers have one."""
    limits, rate = spec.alerts, f"{spec.alerts.error_rate:.1%}"
    about = {
        (COLLECTED_RESULTS, EVERY_ITEM): "Each document of the input has exactly one row.",
        (COLLECTED_RESULTS, ERROR_RATE): (
            f"At most {rate} of the answered documents are set aside (alerts.error_rate)"
            f"{_warns(spec)}."
        ),
        (COLLECTED_RESULTS, FITS_SCHEMA): (
            f"At least {1 - limits.error_rate:.1%} of the complete answers fit output_schema "
            f"(alerts.error_rate){_warns(spec)}."
        ),
        (DEAD_LETTER, DEAD_LETTER_RATE): (
            f"At most {limits.dead_letter_rate:.1%} of the night's documents are dead letters "
            "(alerts.dead_letter_rate)."
        ),
        (DEAD_LETTER, SYSTEMATIC_ERRORS): (
            "No single error makes up a fifth of the dead letters, five of them at least: such an "
            "error has one cause, and one fix."
        ),
        (COST_REPORT, WITHIN_BUDGET): f"The night is within {_ceilings(spec) or 'no ceiling'}.",
        (COST_REPORT, ESTIMATE): (
            f"The bill is within {spec.budget.buffer:.0%} (budget.buffer) of the last estimate."
        ),
    }
    if spec.output_schema is None:
        del about[COLLECTED_RESULTS, FITS_SCHEMA]
    return [
        dg.AssetCheckSpec(name, asset=asset_key(spec.name, asset), description=text)
        for (asset, name), text in about.items()
    ]


def of_night(
    spec: JobSpec, state: Progress, rows: Rows, groups: Sequence[SetAside], report: Report
) -> Iterable[Found]:
    """What all checks of a complete night found."""
    yield every_item(state.items, rows)
    yield error_rate(spec, state)
    if spec.output_schema is not None:
        yield fits_schema(spec, state.statuses)
    yield dead_letter_rate(spec, state.dead_letter, state.items)
    yield systematic_errors(groups)
    yield within_budget(spec, state.night.over_budget, report)
    yield estimate_against_actual(spec, report)


def every_item(items: int, rows: Rows) -> Found:
    passed = rows.rows == rows.ids == items
    verdict = f"{rows.rows:,} rows of {rows.ids:,} ids for {items:,} documents"
    if not passed:
        verdict += (
            "; materialize cost_report of this partition: it mends the folder from the raw lines"
        )
    numbers = {"documents": items, "rows": rows.rows, "ids": rows.ids}
    return Found(COLLECTED_RESULTS, EVERY_ITEM, passed, verdict, numbers)


def error_rate(spec: JobSpec, state: Progress) -> Found:
    """Of what was answered: documents that could not be sent are counted by `dead_letter_rate`."""
    verdict = f"{state.error_rate:.1%} of {state.answered:,} answered documents are set aside"
    return _rated(spec, ERROR_RATE, state.error_rate, state.answered, verdict)


def fits_schema(spec: JobSpec, statuses: Mapping[str, int]) -> Found:
    """Of complete answers: those cut off and refused are counted by `error_rate`."""
    good, bad = statuses.get(Status.SUCCEEDED, 0), statuses.get(Status.INVALID_OUTPUT, 0)
    share = bad / (good + bad) if good + bad else 0.0
    verdict = f"{1 - share:.1%} of {good + bad:,} complete answers fit the schema"
    found = _rated(spec, FITS_SCHEMA, share, good + bad, verdict)
    numbers = {
        "fit_percent": _percent(1 - share),
        "limit_percent": _percent(1 - spec.alerts.error_rate),
        "answers": good + bad,
        "do_not_fit": bad,
    }
    return Found(found.asset, found.check, found.passed, verdict, numbers, found.warning)


def dead_letter_rate(spec: JobSpec, dead: int, items: int) -> Found:
    rate, limit = (dead / items if items else 0.0), spec.alerts.dead_letter_rate
    numbers = {
        "rate_percent": _percent(rate),
        "limit_percent": _percent(limit),
        "dead_letters": dead,
        "documents": items,
    }
    verdict = f"{dead:,} of {items:,} documents are dead letters ({rate:.1%}, limit {limit:.1%})"
    return Found(DEAD_LETTER, DEAD_LETTER_RATE, rate <= limit, verdict, numbers)


def systematic_errors(groups: Sequence[SetAside]) -> Found:
    """A warning: what share of a night may fail is the limit of other checks."""
    found = [group for group in groups if group.systematic]
    verdict = "; ".join(
        f"{group.items:,} {group.reason}: {group.error_type or group.reason}" for group in found
    )
    numbers = {
        "systematic_errors": len(found),
        "documents": sum(group.items for group in found),
        "kinds_of_errors": len(groups),
    }
    return Found(
        DEAD_LETTER, SYSTEMATIC_ERRORS, not found, verdict or "none", numbers, warning=True
    )


def within_budget(spec: JobSpec, over_budget: str | None, report: Report) -> Found:
    """Against the job's own ceilings; that of a month was checked when each batch was sent."""
    billed, each = report.costs.billed_usd, report.cost_per_document_usd
    problems = [] if over_budget is None else [over_budget]
    numbers: dict[str, Value] = {"billed_usd": _usd(billed)}
    most, per_document = spec.budget.max_usd_per_partition, spec.alerts.max_usd_per_document
    if most is not None:
        numbers["limit_usd"] = _usd(most)
        numbers["used_percent"] = _percent(float(billed / most)) if most else 0.0
        if billed > most and over_budget is None:
            problems.append(f"{usd(billed)} were billed, over {usd(most)}")
    if each is not None:
        numbers["usd_per_document"] = _usd(each)
    if per_document is not None:
        numbers["limit_usd_per_document"] = _usd(per_document)
        if each is not None and each > per_document:
            problems.append(f"a document costs {usd(each)}, over {usd(per_document)}")
    verdict = "; ".join(problems) or f"{usd(billed)} billed; {_ceilings(spec) or 'no ceiling'}"
    return Found(COST_REPORT, WITHIN_BUDGET, not problems, verdict, numbers)


def estimate_against_actual(spec: JobSpec, report: Report) -> Found:
    """A warning: ceilings hold whatever was estimated."""
    billed, expected = report.costs.billed_usd, report.estimated_usd
    over, buffer = report.over_estimate_share, spec.budget.buffer
    numbers: dict[str, Value] = {"billed_usd": _usd(billed), "limit_percent": _percent(buffer)}
    if over is None or expected is None:
        verdict = "nothing was estimated"
        return Found(COST_REPORT, ESTIMATE, True, verdict, numbers, warning=True)
    numbers |= {"estimated_usd": _usd(expected), "off_percent": _percent(over)}
    verdict = f"{usd(billed)} billed, {usd(expected)} estimated ({over:+.1%}, limit {buffer:.0%})"
    return Found(COST_REPORT, ESTIMATE, abs(over) <= buffer, verdict, numbers, warning=True)


def pilot_limits(spec: JobSpec) -> dict[str, Value]:
    """The limits of the pilot's gate, beside what its sample came to."""
    found: dict[str, Value] = {
        "limit_error_rate_percent": _percent(spec.pilot.max_error_rate),
        "limit_truncated_rate_percent": _percent(spec.pilot.max_truncated_rate),
    }
    if spec.pilot.max_projected_usd is not None:
        found["limit_projected_cost_usd"] = _usd(spec.pilot.max_projected_usd)
    return found


def _rated(spec: JobSpec, check: str, share: float, count: int, verdict: str) -> Found:
    """A share of failures against the job's limits; of few documents it is no error yet."""
    limit, warns = spec.alerts.error_rate, _warning_limit(spec)
    telling = count >= spec.alerts.after_items
    numbers = {
        "rate_percent": _percent(share),
        "limit_percent": _percent(limit),
        "warning_limit_percent": _percent(warns),
        "answers": count,
    }
    passed = share <= warns
    if not passed:
        verdict += f", over {limit if share > limit else warns:.1%}"
        if not telling:
            verdict += f" (fewer than alerts.after_items: {spec.alerts.after_items:,})"
    return Found(
        COLLECTED_RESULTS, check, passed, verdict, numbers, warning=share <= limit or not telling
    )


def _warning_limit(spec: JobSpec) -> float:
    """What a pilot may show: a night that is worse than that is worth a look."""
    limit = spec.alerts.error_rate
    return min(limit, spec.pilot.max_error_rate) if spec.pilot.size else limit


def _warns(spec: JobSpec) -> str:
    warns = _warning_limit(spec)
    return f"; a warning above {warns:.1%}" if warns < spec.alerts.error_rate else ""


def _ceilings(spec: JobSpec) -> str:
    found = {
        "max_usd_per_partition": spec.budget.max_usd_per_partition,
        "max_usd_per_month": spec.budget.max_usd_per_month,
        "max_usd_per_document": spec.alerts.max_usd_per_document,
    }
    return ", ".join(f"{name} {usd(limit)}" for name, limit in found.items() if limit is not None)


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _usd(amount: Decimal | float) -> float:
    return round(float(amount), 9)
