"""What a night was expected to cost, and why its bill is another one.

Belongs here: the expectations that a cost report compares with the bill. The arithmetic of the
difference is in `reporting.report.difference`.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import Connection

from batch_pipeline.flow.costs.answer_sums import AnswerSums
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.ledger import snapshots
from batch_pipeline.ledger.nights import Night
from batch_pipeline.pricing.prices import ModelPrice
from batch_pipeline.reporting.report.difference import Difference, Expected, explain

# The sources of an estimate's tokens (`Tokens.source`), in words for people.
FORESEEN = {
    "measured": "by former answers",
    "count_tokens": "tokens counted, answers at max_tokens",
    "model": "tokens of the model's other nights, answers at max_tokens",
    "rule": "by a rule, answers at max_tokens",
}


def of_night(connection: Connection, night: Night) -> list[Expected]:
    """What was expected when the input was taken, and by the pilot.

    Where something had been bought before the input was taken, the estimate is of the rest alone
    and is left out.
    """
    found = []
    estimate, verdict = night.estimate, night.pilot
    if estimate is not None and not estimate["already_bought"]:
        tokens = estimate["tokens"]
        found.append(
            Expected(
                source=f"before sending ({FORESEEN.get(tokens['source'], tokens['source'])})",
                requests=estimate["requests"],
                input_tokens=Decimal(str(tokens["input"]["mean"])),
                output_tokens=Decimal(str(tokens["output"]["mean"])),
                usd=Decimal(str(estimate["expected_usd"])),
            )
        )
    if verdict is None or not verdict["judged"]:
        return found
    measured = [
        snapshot.bought
        for snapshot in snapshots.snapshots_of(connection, night.id).values()
        if snapshot.declaration_hash == verdict["declaration_hash"]
        and snapshot.content_hash == verdict["content_hash"]
    ]
    if measured:
        found.append(
            Expected(
                source="by the pilot",
                requests=measured[-1],
                input_tokens=Decimal(str(verdict["mean_input_tokens"])),
                output_tokens=Decimal(str(verdict["mean_output_tokens"])),
                usd=Decimal(str(verdict["projected_usd"])),
            )
        )
    return found


def differences(
    state: Progress, expected: Sequence[Expected], sums: AnswerSums, price: ModelPrice
) -> tuple[Difference, ...]:
    """The differences from what was expected of the whole night; none until it is complete."""
    if not state.complete:
        return ()
    prices = price.batch.prices[0]
    return tuple(explain(each, sums.asked, state.total_cost_usd, prices) for each in expected)
