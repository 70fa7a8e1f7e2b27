"""How sure one can be that near duplicates have equal answers."""

from __future__ import annotations

import pytest

from batch_pipeline.flow.pilot.agreement import judge, least_pairs, lower_bound

NEAR = {"threshold": 0.9, "action": "reuse"}


# From tables of the binomial distribution; all of n equal: the n-th root of 0.05.
@pytest.mark.parametrize(
    ("equal", "pairs", "bound"),
    [
        (0, 10, 0.0), (10, 10, 0.7411), (9, 10, 0.6058), (5, 10, 0.2224), (58, 58, 0.94966),
        (59, 59, 0.95049), (92, 93, 0.94997), (93, 94, 0.95049), (0, 0, 0.0),
    ],
)  # fmt: skip
def test_the_lower_bound_is_exact(equal: int, pairs: int, bound: float) -> None:
    assert lower_bound(equal, pairs) == pytest.approx(bound, abs=2e-4)


def test_how_many_pairs_show_an_agreement() -> None:
    assert least_pairs(0.95) == 59
    assert least_pairs(0.5) == 5
    assert lower_bound(least_pairs(0.95, unequal=1) - 1, least_pairs(0.95, unequal=1)) >= 0.95


@pytest.mark.parametrize(
    ("twin", "counts"),
    [
        ({"status": "succeeded", "parsed": '{"b": 2, "a": 1}'}, (60, 60, True)),
        ({"status": "succeeded", "parsed": '{"a": 1, "b": 3}'}, (60, 59, False)),
        ({"status": "refused", "parsed": None}, (60, 59, False)),
        ({"status": "succeeded", "parsed": None}, (60, 59, False)),
        (None, (59, 59, True)),
    ],
    ids=[
        "other_order",
        "other_value",
        "without_a_usable_answer",
        "a_call_of_a_tool",
        "not_answered",
    ],
)
def test_which_pairs_are_equal(twin: dict[str, str] | None, counts: tuple[int, int, bool]) -> None:
    good = {"status": "succeeded", "parsed": '{"a":1,"b":2}'}
    pairs = [(f"twin {n}", f"leader {n}") for n in range(60)]
    answers = {unit: good for pair in pairs for unit in pair}
    del answers["twin 0"]
    if twin is not None:
        answers["twin 0"] = twin
    found = judge(NEAR, 0.95, pairs, answers)
    assert (found["pairs"], found["equal"], found["accepted"]) == counts
    assert found["reason"].endswith("each is bought") is not found["accepted"]
