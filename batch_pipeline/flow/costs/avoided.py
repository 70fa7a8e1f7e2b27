"""What a snapshot does not buy, in dollars: at the tokens that are known, for exactly those rows.

Belongs here: from the counts of a snapshot to amounts. What is avoided, and why, is counted where
it is decided (`NewSnapshot.avoided`); where tokens are known from is in `estimate`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from batch_pipeline.flow.dataset.choosing.near_duplicates.decide import (
    NEAR_DUPLICATE,
    NEAR_DUPLICATES,
)
from batch_pipeline.flow.gates.billing import searches_bound
from batch_pipeline.pricing.estimate import Spread, Work, amounts
from batch_pipeline.pricing.prices import MODES, Mode, ModelPrice
from batch_pipeline.reporting.report.avoided import Avoided

if TYPE_CHECKING:
    from batch_pipeline.flow.costs.tokens import Tokens
    from batch_pipeline.flow.dataset.requests.declaration import Declaration
    from batch_pipeline.ledger.snapshots import NewSnapshot

# The causes in `NewSnapshot.avoided` that are filters; their reason follows.
FILTER = "filter:"


def priced(
    snapshot: NewSnapshot, declaration: Declaration, tokens: Tokens, price: ModelPrice, mode: Mode
) -> tuple[Avoided, ...]:
    """What each cause saves, at the price of the way that the job goes; the most first.

    Answers count at `max_tokens` where none were measured. A cause without a request of its own
    saves nothing: another document asks for the same.
    """
    # Of a filter all rows that it sets aside; of other causes there is a row for each request.
    rows = {cause: counts["documents"] for cause, counts in snapshot.avoided.items()}
    rows |= {_cause(reason): count for reason, count in snapshot.filtered_by.items()}
    found = []
    for cause, documents in rows.items():
        counts = snapshot.avoided.get(cause, {"documents": 0, "bytes": 0})
        requests, size = counts["documents"], counts["bytes"]
        input_tokens, usd = _price(requests, size, declaration, tokens, price, mode)
        if documents:
            found.append(Avoided(cause, documents, requests, input_tokens, usd))
    return tuple(sorted(found, key=lambda each: (-each.usd, each.cause)))


def of_twins(
    counted: tuple[int, float],
    declaration: Declaration,
    tokens: Tokens,
    price: ModelPrice,
    mode: Mode,
) -> tuple[Avoided, ...]:
    """What near duplicates would save if their leaders may answer for them; `counted` are their
    number and bytes."""
    requests, size = counted
    if not requests:
        return ()
    input_tokens, usd = _price(requests, size, declaration, tokens, price, mode)
    row = Avoided(NEAR_DUPLICATES, requests, requests, input_tokens, usd, conditional=True)
    return (row,)


def _price(
    requests: int,
    size: float,
    declaration: Declaration,
    tokens: Tokens,
    price: ModelPrice,
    mode: Mode,
) -> tuple[int, Decimal]:
    """The prompt tokens and USD of requests of this size in bytes together."""
    fees = tokens.fees
    if fees is None:
        fees = dict.fromkeys(MODES, searches_bound(declaration, price))
    prompt = size / max(1, requests) * tokens.per_byte
    work = Work(
        requests=requests,
        prompt=Spread(prompt, prompt, prompt),
        output=tokens.output or Spread(*[float(declaration.max_tokens)] * 3),
        lengths=[(requests, prompt)],
        shares=tokens.shares,
        fees=fees,
    )
    return round(prompt * requests), amounts(work, price, mode, 0).expected


def _cause(reason: str) -> str:
    """The cause in `NewSnapshot.avoided` of rows that are filtered for a reason."""
    return NEAR_DUPLICATES if reason == NEAR_DUPLICATE else FILTER + reason
