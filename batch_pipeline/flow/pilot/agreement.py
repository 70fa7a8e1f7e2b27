"""Whether near duplicates may share answers: how often the pilot's pairs of them had equal ones.

Pure functions. The bound is exact (Clopper and Pearson): of 59 pairs that all agree it is 0.95.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from batch_pipeline.flow.answers.outcomes import Status

CONFIDENCE = 0.95
# The bound is found to this many halvings of an interval: to more digits than anyone reads.
_HALVINGS = 40


def least_pairs(min_agreement: float, unequal: int = 0) -> int:
    """The fewest pairs whose bound reaches `min_agreement` with `unequal` pairs among them."""
    pairs = unequal + 1
    while lower_bound(pairs - unequal, pairs) < min_agreement:
        pairs += 1
    return pairs


def lower_bound(equal: int, pairs: int) -> float:
    """The share of equal answers of which one can be 95 % sure that the true one is not below it,
    after `equal` of `pairs` pairs had equal answers."""
    if equal <= 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _at_least(equal, pairs, middle) < 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return low


def _at_least(equal: int, pairs: int, share: float) -> float:
    """The probability of at least `equal` of the pairs, if each is equal with this probability."""
    if share <= 0.0:
        return 0.0
    logs = math.log(share), math.log1p(-share)
    return sum(
        math.exp(_log_ways(pairs, k) + k * logs[0] + (pairs - k) * logs[1])
        for k in range(equal, pairs + 1)
    )


def _log_ways(pairs: int, equal: int) -> float:
    return math.lgamma(pairs + 1) - math.lgamma(equal + 1) - math.lgamma(pairs - equal + 1)


def judge(
    declared: Mapping[str, Any],
    min_agreement: float,
    pairs: Iterable[tuple[str, str]],
    answers: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What a verdict says of near duplicates: whether leaders answer for their twins, and why not.

    `answers` are the final ones by unit, with `status` and `parsed`. A pair of which one has no
    usable answer is unequal; one that was not answered at all does not count.
    """
    asked = [
        (answers[twin], answers[leader])
        for twin, leader in pairs
        if twin in answers and leader in answers
    ]
    equal = sum(_are_equal(*pair) for pair in asked)
    bound = lower_bound(equal, len(asked))
    accepted = bound >= min_agreement
    least = least_pairs(min_agreement)
    reason = (
        f"{equal} of {len(asked)} pairs of near duplicates had equal answers: at least "
        f"{bound:.1%} of them are, with 95 % confidence"
    )
    if len(asked) < least:
        reason = (
            f"{len(asked)} pairs of near duplicates were asked, and {least} are needed to show "
            f"that {min_agreement:.0%} have equal answers"
        )
    return {
        "threshold": declared["threshold"],
        "min_agreement": min_agreement,
        "pairs": len(asked),
        "equal": equal,
        "lower_bound": round(bound, 6),
        "accepted": accepted,
        "reason": reason if accepted else f"{reason}; each is bought",
    }


def _are_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if not one["status"] == other["status"] == Status.SUCCEEDED:
        return False
    if one["parsed"] is None or other["parsed"] is None:
        # A tool was called in place of the answer.
        return False
    return _canonical(one["parsed"]) == _canonical(other["parsed"])


def _canonical(parsed: str) -> bytes:
    """An answer whatever the order of its keys."""
    return orjson.dumps(orjson.loads(parsed), option=orjson.OPT_SORT_KEYS)
