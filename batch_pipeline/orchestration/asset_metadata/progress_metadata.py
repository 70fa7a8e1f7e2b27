"""Where a night stands, as `submitted_batches` and the observations that follow it show it."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from batch_pipeline import safe_text
from batch_pipeline.flow.status import eta, progress, warnings
from batch_pipeline.flow.status.account_state import AccountState, troubles_of
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger.admission.night_state import Kind, NightState
from batch_pipeline.orchestration.asset_metadata.values import (
    Metadata,
    percent,
    rounded_usd,
    safely,
)
from batch_pipeline.orchestration.names import COLLECTED_RESULTS, COST_REPORT, DEAD_LETTER


@safely
def of_submission(
    state: Progress,
    why: NightState | None,
    alert_limits: AlertsSpec,
    accounts: Sequence[AccountState] = (),
) -> Metadata:
    """Where a night stands; `why` says why requests wait, `accounts` are its owner's.

    The same keys for the submission and for the observations that follow it: Dagster shows the
    newest value of each key, so that a key of the former alone would be out of date on the page.
    """
    waiting = "nothing waits"
    if state.waiting:
        waiting = f"{state.waiting:,} requests wait{f': {why}' if why else ''}"
    elif why is not None and why.kind is Kind.HELD:
        # What a terminated run had claimed counts as in flight, though its calls are not made.
        waiting = str(why)
    simulated = "simulated; " if state.account.simulated else ""
    return {
        "summary": "; ".join([simulated + headline(state), *eta.describe(state)]),
        "waiting": waiting,
        "what_follows": what_follows(state.night.job, state),
        "warnings": "; ".join(warning.message for warning in warnings.of(state, alert_limits))
        or "none",
        **_deadline(state),
        **_caching(state),
        **_accounts(accounts),
        **_numbers(state),
    }


def _accounts(accounts: Sequence[AccountState]) -> dict[str, dg.MetadataValue]:
    """The accounts as a table, where there are several."""
    if len(accounts) < 2:
        return {}
    rows = [
        f"| {each.name} | {each.organisation} | {each.word} "
        f"| {each.at_api.queued:,} | {each.room:,} | {each.month} |"
        for each in accounts
    ]
    head = ["| account | organisation | state | queued | room | this month |",
            "|---|---|---|--:|--:|--:|"]  # fmt: skip
    troubles = [f"\n- {safe_text.markdown(line)}" for line in troubles_of(accounts)]
    return {"accounts": dg.MetadataValue.md("\n".join([*head, *rows, *troubles]))}


def _deadline(state: Progress) -> dict[str, str]:
    said = progress.deadline_details(state.night, state.at)
    return {} if said is None else {"deadline": said}


def _caching(state: Progress) -> dict[str, str | float]:
    if not state.caching:
        return {}
    used = state.cached
    return {
        "caching": state.caching,
        "cache_hit_percent": percent(used.hit_rate or 0.0),
        "cache_written_tokens": used.written_tokens,
        "cache_saved_usd": rounded_usd(used.saved_usd),
    }


def what_follows(job: str, state: Progress) -> str:
    """What happens by itself once a run has done what could be done at once."""
    if state.complete:
        return "Nothing: the night is complete."
    if state.snapshot is None:
        return "Nothing: its input has not been taken; materialize input_dataset first."
    held = state.night.held_at is not None
    if held and not state.at_work:
        return f"Nothing, it is held: resume it with {job}_control."
    return (
        f"Nothing is to be launched: the sensor {job}_batches sends what waits, collects batches "
        f"as they end, and materializes {COLLECTED_RESULTS}, {DEAD_LETTER} and {COST_REPORT} when "
        "the night is complete. It has to be on."
    )


def headline(state: Progress) -> str:
    """Where a night stands, in the words of an observation's description."""
    if state.snapshot is None:
        return "no input yet"
    if state.complete:
        return f"finished: {state.describe()}"
    return state.describe()


def _numbers(state: Progress) -> dict[str, dg.MetadataValue | str | int | float | bool]:
    """Progress as numbers that Dagster can plot."""
    found: dict[str, dg.MetadataValue | str | int | float | bool] = {
        "complete_percent": percent(state.settled / state.items if state.items else 1.0),
        "requests_in_flight": state.in_flight,
        "error_rate_percent": percent(state.error_rate),
        "cost_so_far_usd": round(float(state.total_cost_usd), 6),
    }
    end = eta.expected_usd(state)
    if end is not None:
        found["cost_expected_usd"] = round(float(end), 6)
    return found
