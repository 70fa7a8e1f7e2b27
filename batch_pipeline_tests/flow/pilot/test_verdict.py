"""The pilot's decisions: how large it is, its verdict, and what a verdict is good for."""

from __future__ import annotations

from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any

import pytest

from batch_pipeline.flow.gates.night_gates import pilot_gate, verdict_applies
from batch_pipeline.flow.pilot.pilot_run import sample_size
from batch_pipeline.flow.pilot.verdict import Answered, AnswerTimes, Verdict, judge
from batch_pipeline.jobs.spec import PilotSpec
from batch_pipeline.ledger.admission.night_state import ClosedGate
from batch_pipeline.ledger.control.approvals import Approval, Gate
from batch_pipeline.ledger.snapshots import Layer, Snapshot
from batch_pipeline.pricing.tokens import TokenUsage
from batch_pipeline_tests.flow.dataset.prepared_rows import approval

SNAPSHOT = Snapshot(
    folder="f", signature="s", content_hash="content", declaration_hash="declaration",
    declaration={}, parts=1, items=1_100,
    set_aside={"invalid_input": {"blank document": 40}, "too_large": {"too large": 10}},
    duplicates=50, request_bytes=1, id=1, night_id=1, settled={}, taken_at=0.0,
)  # fmt: skip
SPEC = PilotSpec(size=100, max_error_rate=0.05, max_truncated_rate=0.02)


def answers(**counts: int) -> list[Answered]:
    """So many answers of each status; `retried` ones are not final."""
    return [
        Answered(
            unit=f"{status}{number}",
            id=f"{status}{number}",
            status="errored" if status == "retried" else status,
            final=status != "retried",
            error_message=None if status == "succeeded" else f"{status}!",
            usage=TokenUsage(input_tokens=100, output_tokens=20),
            rest_usd=Decimal("0.0001"),
        )
        for status, count in counts.items()
        for number in range(count)
    ]


def verdict_on(**counts: int) -> Verdict:
    verdict = judge(SPEC, SNAPSHOT, answers(**counts), Decimal("0.02"))
    assert verdict is not None
    return verdict


@pytest.mark.parametrize(
    ("counts", "reasons"),
    [
        ({"succeeded": 100}, []),
        ({"succeeded": 95, "errored": 5}, []),
        ({"succeeded": 94, "errored": 6}, ["error rate 6.0% is over 5.0%"]),
        ({"succeeded": 97, "refused": 2, "invalid_output": 1}, []),
        ({"succeeded": 90, "invalid_output": 10}, ["error rate 10.0% is over 5.0%"]),
        ({"succeeded": 90, "refused": 10}, ["error rate 10.0% is over 5.0%"]),
        ({"succeeded": 98, "truncated": 2}, []),
        ({"succeeded": 97, "truncated": 3}, ["3.0% of the answers were cut off"]),
        ({"truncated": 50, "errored": 50}, ["error rate 50.0%", "50.0% of the answers"]),
        # What the API did not work on is no evidence, as long as half is left.
        ({"succeeded": 50, "retried": 50}, []),
    ],
)
def test_verdicts(counts: dict[str, int], reasons: list[str]) -> None:
    verdict = verdict_on(**counts)
    assert verdict.open is (not reasons)
    assert len(verdict.reasons) == len(reasons)
    for said, wanted in zip(verdict.reasons, reasons, strict=True):
        assert said.startswith(wanted)


def test_a_pilot_that_was_hardly_worked_on_has_no_verdict() -> None:
    assert judge(SPEC, SNAPSHOT, answers(succeeded=49, retried=51), Decimal(0)) is None
    assert judge(SPEC, SNAPSHOT, answers(retried=1), Decimal(0)) is None


def test_what_a_verdict_measures() -> None:
    verdict = verdict_on(succeeded=96, errored=3, truncated=1)
    assert (verdict.sample, verdict.judged) == (100, 100)
    assert (verdict.error_rate, verdict.truncated_rate) == (0.03, 0.01)
    assert (verdict.mean_input_tokens, verdict.mean_output_tokens) == (100, 20)
    assert verdict.cost_usd == 0.02
    # Billed for the sample, and the other 900 requests at the batch price.
    assert verdict.projected_usd == pytest.approx(0.02 + 900 * 0.0001)
    assert verdict.examples == ("errored0: errored!", "errored1: errored!", "errored2: errored!")


def test_parts_of_the_error_rate_are_told_apart() -> None:
    verdict = verdict_on(succeeded=90, refused=4, invalid_output=5, errored=1)
    assert (verdict.error_rate, verdict.refused_rate) == (0.1, 0.04)
    assert verdict.invalid_output_rate == 0.05


def test_a_projection_has_an_interval() -> None:
    """Two prices of answers, half each: mean 0.0002, deviation 0.0001, t of 99 degrees 1.984."""
    cheap, dear = answers(succeeded=100)[:50], answers(succeeded=100)[50:]
    mixed = cheap + [replace(answer, rest_usd=Decimal("0.0003")) for answer in dear]
    verdict = judge(SPEC, SNAPSHOT, mixed, Decimal("0.02"))
    assert verdict is not None
    assert verdict.projected_usd == pytest.approx(0.02 + 900 * 0.0002)
    half = 900 * 1.984 * 0.0001 * (100 / 99) ** 0.5 / 10
    assert verdict.projected_low_usd == pytest.approx(verdict.projected_usd - half, rel=1e-3)
    assert verdict.projected_high_usd == pytest.approx(verdict.projected_usd + half, rel=1e-3)


@pytest.mark.parametrize(
    ("limit", "closed"), [("0.109", True), ("0.11", False), ("0.2", False), (None, False)]
)
def test_a_projected_cost_over_its_limit_closes_the_gate(limit: str | None, closed: bool) -> None:
    """What is expected counts: $0.02 for the sample and $0.09 for the rest."""
    spec = SPEC.model_copy(update={"max_projected_usd": limit and Decimal(limit)})
    verdict = judge(spec, SNAPSHOT, answers(succeeded=100), Decimal("0.02"))
    assert verdict is not None
    assert verdict.open is not closed
    if closed:
        [reason] = verdict.reasons
        assert reason.startswith("the night is projected to cost $0.11 ($0.11 to $0.11), over ")


def test_how_long_the_sample_took() -> None:
    took = AnswerTimes(latency_p50_ms=800, latency_p95_ms=2_100)
    verdict = judge(SPEC, SNAPSHOT, answers(succeeded=10), Decimal(1), took)
    assert verdict is not None
    assert (verdict.latency_p50_ms, verdict.latency_p95_ms) == (800, 2_100)
    assert verdict.turnaround_seconds is None


@pytest.mark.parametrize(
    ("wanted", "units", "open_units", "size"),
    [
        (100, 1_200_000, 1_200_000, 100),
        (100, 500, 500, 50),
        (100, 9, 9, 0),
        (100, 10, 10, 1),
        (0, 1_000, 1_000, 0),
        (100, 5_000, 7, 7),
        (100, 5_000, 0, 0),
    ],
)
def test_sample_size(wanted: int, units: int, open_units: int, size: int) -> None:
    assert sample_size(PilotSpec(size=wanted), units, open_units) == size


@pytest.mark.parametrize(
    ("wanted", "units", "open_units", "size"),
    [
        (100, 500, 500, 50),
        (100, 9, 9, 3),
        (2, 9, 9, 2),
        (100, 3, 3, 2),
        (100, 2, 2, 1),
        (100, 1, 1, 0),
        (100, 500, 2, 2),
        (100, 5_000, 0, 0),
    ],
)
def test_a_review_has_something_to_look_at_and_something_to_approve(
    wanted: int, units: int, open_units: int, size: int
) -> None:
    assert sample_size(PilotSpec(size=wanted, review="required"), units, open_units) == size


@pytest.mark.parametrize(
    ("is_open", "declaration", "content", "good"),
    [
        (True, "declaration", "content", True),
        (True, "declaration", "other", True),
        (True, "other", "content", False),
        (False, "declaration", "content", True),
        (False, "declaration", "other", False),
        (False, "other", "content", False),
    ],
)
def test_what_a_verdict_holds_for(
    is_open: bool, declaration: str, content: str, good: bool
) -> None:
    verdict = replace(
        verdict_on(succeeded=1), open=is_open, declaration_hash=declaration, content_hash=content
    )
    assert verdict_applies(asdict(verdict), SNAPSHOT) is good


@pytest.mark.parametrize(
    ("content", "redriven", "good"),
    [("content", False, True), ("other", False, False), ("other", True, True)],
)
def test_what_a_reviewed_verdict_holds_for(content: str, redriven: bool, good: bool) -> None:
    """What was approved is this input; what of it is redriven needs no second look."""
    verdict = replace(verdict_on(succeeded=1), review="required", content_hash=content)
    below = (Layer("folder", 1, "declaration"),) if redriven else ()
    assert verdict_applies(asdict(verdict), replace(SNAPSHOT, below=below)) is good


def test_no_verdict_holds_for_nothing() -> None:
    assert not verdict_applies(None, SNAPSHOT)


NO = {
    "open": False,
    "reasons": ["bad", "worse"],
    "sample": 4,
    "examples": ["7: no"],
    "declaration_hash": "declared",
    "content_hash": "content",
}
CLOSED = ClosedGate("bad; worse (4 requests were tried, nothing else was sent)", ("7: no",))


TO_REVIEW = NO | {"open": True, "reasons": [], "review": "required", "page": "/home/page"}
REVIEW = ClosedGate(
    "pilot.review is required, and no person has approved this pilot yet (4 requests were tried, "
    "nothing else was sent)",
    ("7: no",),
    page="/home/page",
    review=True,
)


@pytest.mark.parametrize(
    ("verdict", "overruled", "closed"),
    [
        (None, (), None),
        (NO, (), CLOSED),
        (NO, (approval(Gate.PILOT),), None),
        (NO, (approval(Gate.BREAKER),), CLOSED),
        (NO, (approval(Gate.PILOT, declaration="former"),), CLOSED),
        (NO, (approval(Gate.PILOT, content="former"),), CLOSED),
        ({"open": True, "reasons": []}, (), None),
        (TO_REVIEW, (), REVIEW),
        (TO_REVIEW, (approval(Gate.PILOT),), None),
        (TO_REVIEW, (approval(Gate.PILOT, content="former"),), REVIEW),
        (TO_REVIEW | {"review": "none"}, (), None),
        (TO_REVIEW | {"sample": 0}, (), None),
        (NO | {"review": "required", "page": "/home/page"}, (), replace(CLOSED, page="/home/page")),
    ],
)
def test_the_gate(
    verdict: dict[str, Any] | None, overruled: tuple[Approval, ...], closed: ClosedGate | None
) -> None:
    assert pilot_gate(verdict, overruled) == closed
