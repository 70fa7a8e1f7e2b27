"""What is warned of, as a table over a night's progress."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow.status import batch_warnings, warnings
from batch_pipeline.flow.status.batch_warnings import DAY, HOUR
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline_tests.flow.dataset.prepared_rows import (
    ACCOUNT,
    NIGHT,
    NOW,
    SNAPSHOT,
    STATE,
    submission,
)

LIMITS = AlertsSpec()
PAGE = Path(__file__).parents[3] / "docs" / "operations.md"


def accepted(age: float, **changes: Any) -> Submission:
    """A batch accepted so long ago, with the 24 hours that the API gives it."""
    at = NOW - age
    return submission(state=State.ACCEPTED, accepted_at=at, expires_at=at + DAY, **changes)


def ended(age: float, since: float) -> Submission:
    """A batch accepted so long ago that has ended since, uncollected."""
    return replace(accepted(age), state=State.ENDED, ended_at=NOW - since)


def unknown(since: float) -> Submission:
    return submission(
        state=State.UNKNOWN, batch_id=None, accepted_at=None, expires_at=None,
        window_from=NOW - since,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (accepted(0), []),
        (accepted(22 * HOUR - 1), []),
        (accepted(22.5 * HOUR), [("near_expiry", "expires in 1 h 30 min")]),
        (accepted(25 * HOUR), [("near_expiry", "should have expired 1 h ago")]),
        (replace(accepted(23 * HOUR), expires_at=None), []),
        (ended(23 * HOUR, 60), []),
        (ended(23 * HOUR, 6 * HOUR), []),
        (ended(23 * HOUR, 7 * HOUR), [("uncollected", "ended 7 h ago")]),
        (ended(24 * DAY - 1, 23 * DAY), [("uncollected", "ended 23 days ago")]),
        (ended(25 * DAY, 24 * DAY), [("results_near_deletion", "by the API in 4 days")]),
        (ended(25 * DAY, 60), [("results_near_deletion", "in 4 days")]),
        (ended(30 * DAY, 60), [("results_gone", "deleted them 24 h ago")]),
        (
            accepted(28.5 * DAY),
            [("near_expiry", "27 days 12 h ago"), ("results_near_deletion", "in 12 h")],
        ),
        (accepted(4 * HOUR, cancel_requested_at=NOW - 3_500), []),
        (accepted(4 * HOUR, cancel_requested_at=NOW - 2 * HOUR), [("cancel_lasts", "2 h ago")]),
        (unknown(42), [("unknown_outcome", "unknown for 42 s")]),
        (unknown(3_000), [("unknown_outcome", "unknown for 50 min")]),
        (replace(ended(40 * DAY, 39 * DAY), state=State.COLLECTED), []),
        (submission(state=State.ABSENT), []),
        # A pilot's calls: nothing of it is kept by the API.
        (submission(state=State.ENDED, batch_id=None, accepted_at=None, ended_at=NOW - 60), []),
    ],
)
def test_what_a_submission_is_warned_of(row: Submission, expected: list[tuple[str, str]]) -> None:
    found = warnings.of(replace(STATE, submissions=(row,)), LIMITS)
    assert [warning.code for warning in found] == [code for code, _ in expected]
    for warning, (_, said) in zip(found, expected, strict=True):
        assert said in warning.message
        assert warning.batch == (row.batch_id or row.token)


@pytest.mark.parametrize(
    ("state", "codes"),
    [
        (STATE, []),
        (
            replace(STATE, accounts=(replace(ACCOUNT, paused_reason="pay first"),)),
            ["account_paused"],
        ),
        (replace(STATE, night=replace(NIGHT, refused="HTTP 400")), ["night_refused"]),
        (
            replace(
                STATE,
                accounts=(replace(ACCOUNT, paused_reason="pay first"),),
                submissions=(unknown(1), accepted(23 * HOUR)),
            ),
            ["account_paused", "unknown_outcome", "near_expiry"],
        ),
        (
            replace(
                STATE,
                accounts=(replace(ACCOUNT, paused_reason="pay first"),),
                night=replace(NIGHT, completed_at=NOW),
            ),
            [],
        ),
    ],
)
def test_what_a_night_is_warned_of(state: Progress, codes: list[str]) -> None:
    assert [warning.code for warning in warnings.of(state, LIMITS)] == codes


def test_submissions_of_unknown_outcome_are_told_together() -> None:
    rows = (unknown(3 * HOUR), replace(unknown(60), token="another", error="HTTP 403: a page"))
    [both] = warnings.of(replace(STATE, submissions=rows), LIMITS)
    assert "2 submissions of" in both.message
    assert "unknown for 3 h (the latest: HTTP 403: a page)" in both.message
    assert both.alerts
    [one] = warnings.of(replace(STATE, submissions=rows[:1]), LIMITS)
    assert one.cause == both.cause


@pytest.mark.parametrize(("lasted", "alerts"), [(11 * 60, False), (12 * 60, True)])
def test_an_api_that_does_not_answer_is_an_alert_after_twelve_minutes(
    lasted: float, alerts: bool
) -> None:
    unanswered = {"since": NOW - lasted, "at": NOW, "reason": "HTTP 529"}
    account = replace(ACCOUNT, unanswered=unanswered)
    [warning] = warnings.of(replace(STATE, accounts=(account,)), LIMITS)
    assert (warning.code, warning.alerts) == ("api_unavailable", alerts)
    assert "HTTP 529" in warning.message


@pytest.mark.parametrize(("left", "codes"), [(600, ["api_wait"]), (-1, [])])
def test_calls_that_wait_for_the_api_are_told(left: float, codes: list[str]) -> None:
    calls = submission(
        state=State.CALLING, batch_id=None, accepted_at=None, progress={"waits_until": NOW + left}
    )
    found = warnings.of(replace(STATE, submissions=(calls,)), LIMITS)
    assert [(warning.code, warning.alerts) for warning in found] == [
        (code, False) for code in codes
    ]


def test_every_warning_is_in_the_docs() -> None:
    """Codes as the modules have them, and the first column of the page's table."""
    modules = (warnings.__file__, batch_warnings.__file__)
    source = "".join(Path(module).read_text() for module in modules)
    codes = {*re.findall(r'NightWarning\(\s*"(\w+)"', source), *warnings.STOPPED.values()}
    codes.add(warnings.HOME_UNAVAILABLE)
    table = PAGE.read_text().partition("## Warnings")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", "".join(rows))) == sorted(codes)


def test_a_cause_is_the_same_whatever_the_time() -> None:
    earlier = warnings.of(replace(STATE, submissions=(accepted(23 * HOUR),)), LIMITS)
    later = warnings.of(replace(STATE, submissions=(accepted(23 * HOUR),), at=NOW + 600), LIMITS)
    assert earlier[0].message != later[0].message
    assert earlier[0].cause == later[0].cause


@pytest.mark.parametrize(
    ("statuses", "cost", "limits", "codes"),
    [
        ({"succeeded": 45, "refused": 4}, 0, {}, []),
        ({"succeeded": 46, "refused": 4}, 0, {}, []),
        # Above 10 % once 50 are done, not before.
        ({"succeeded": 40, "refused": 9}, 0, {}, []),
        ({"succeeded": 44, "refused": 6}, 0, {}, ["error_rate"]),
        ({"succeeded": 45, "refused": 5}, 0, {}, []),
        ({"succeeded": 45, "refused": 5}, 0, {"error_rate": 0.09}, ["error_rate"]),
        # What was never sent is no error of the API, and a dead letter.
        ({"succeeded": 49, "invalid_input": 50}, 0, {}, []),
        ({"succeeded": 49, "invalid_input": 51}, 0, {}, ["dead_letter_rate"]),
        ({"invalid_input": 51}, 0, {"dead_letter_rate": 0.06}, []),
        ({"succeeded": 900, "filtered": 100}, 0, {}, []),
        ({"succeeded": 49}, 490, {"max_usd_per_document": 1}, []),
        ({"succeeded": 50}, 50, {"max_usd_per_document": 1}, []),
        ({"succeeded": 50}, 51, {"max_usd_per_document": 1}, ["cost_per_document"]),
        ({"succeeded": 50}, 51, {}, []),
    ],
)
def test_what_passed_limits_are_warned_of(
    statuses: dict[str, int], cost: int, limits: dict[str, Any], codes: list[str]
) -> None:
    state = replace(STATE, statuses=statuses, cost_usd={"batch": Decimal(cost)})
    assert [warning.code for warning in warnings.of(state, AlertsSpec(**limits))] == codes


def test_limits_are_of_a_complete_night_too_and_then_however_small_it_is() -> None:
    done = replace(
        STATE, night=replace(NIGHT, completed_at=NOW), items=2,
        statuses={"succeeded": 1, "refused": 1}, cost_usd={"batch": Decimal(3)},
    )  # fmt: skip
    found = warnings.of(done, AlertsSpec(max_usd_per_document=Decimal(1)))
    assert [warning.code for warning in found] == ["dead_letter_rate", "cost_per_document"]
    assert "1 of the night's 2 documents" in found[0].message
    assert "costs $1.50, over $1.00" in found[1].message


def test_a_corrected_declaration_that_fails_again_is_another_cause() -> None:
    failing = replace(STATE, statuses={"refused": 60})
    corrected = replace(failing, snapshot=replace(SNAPSHOT, declaration_hash="corrected"))
    causes = [{w.cause for w in warnings.of(state, LIMITS)} for state in (failing, corrected)]
    assert not causes[0] & causes[1]
