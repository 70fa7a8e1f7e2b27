"""How requests were asked, by which their answers are priced and read: one `Asked` a variant.

The requests of one batch may be asked of several models. Belongs here: what the judge looks up for
each request by the variant that it was asked as.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from operator import mul

import pyarrow as pa

from batch_pipeline.flow.answers.outcomes import AskedFor
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates.billing import Biller
from batch_pipeline.flow.gates.prices import price_of_variant
from batch_pipeline.flow.planning import variants
from batch_pipeline.flow.results.judging import details
from batch_pipeline.ledger.home.identity import Sent
from batch_pipeline.ledger.submissions.submissions import Submission
from batch_pipeline.pricing.prices import ModelPrice, Tiers
from batch_pipeline.pricing.tokens import TOKENS

_Prices = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """How some requests of a submission were asked: `own` is the declared model.

    `prices` are picodollars of a token of each class, by tier of the prompt's length. `asked_for`
    says whether a tool call is an answer, `thinking` whether thinking was asked for.
    """

    declaration: Declaration
    own: bool
    biller: Biller
    asked_for: AskedFor
    thinking: bool
    tier_starts: tuple[int, ...]
    prices: _Prices
    _other_starts: tuple[int, ...]
    _other_prices: _Prices

    def tier_of(self, prompt: int) -> tuple[int, ...]:
        """The prices for an answer to a prompt of `prompt` tokens."""
        return self.prices[bisect_left(self.tier_starts, prompt)]

    def other_way(self, tokens: Sequence[int]) -> int:
        """What these tokens would have cost by the other engine, in picodollars."""
        prompt = sum(tokens) - tokens[_OUTPUT]
        prices = self._other_prices[bisect_left(self._other_starts, prompt)]
        return sum(map(mul, prices, tokens))


_OUTPUT = TOKENS.index("output_tokens")


def asked_of(
    manifest: pa.Table, declaration: Declaration, submission: Submission | Sent, price: ModelPrice
) -> Mapping[str | None, Asked]:
    """How the requests of a manifest were asked, by the name of the variant; None: as declared.

    `price` is that of the declared model. What is billed beside tokens is noted together.
    """
    own = _asked(declaration, submission, price, own=True)
    found: dict[str | None, Asked] = {None: own}
    at = datetime.fromtimestamp(submission.intent_at, UTC)
    for name, asked in variants.declarations_of(manifest, declaration).items():
        if name is None:
            continue
        same = asked.model_id == declaration.model_id
        stated = submission.stated_prices if same else None
        of_variant = price_of_variant(asked, declaration, at, stated)
        sent = replace(submission, stated_prices=stated)
        found[name] = _asked(
            asked, sent, of_variant, own=same and of_variant == price, fees=own.biller.fees
        )
    return found


def _asked(
    declaration: Declaration,
    submission: Submission | Sent,
    price: ModelPrice,
    *,
    own: bool,
    fees: dict[str, dict[str, dict[str, int]]] | None = None,
) -> Asked:
    here: Tiers = price.tiers(submission.engine)
    there: Tiers = price.tiers("realtime" if submission.engine == "batch" else "batch")
    return Asked(
        declaration=declaration,
        own=own,
        biller=Biller(declaration, submission, price, fees),
        asked_for=AskedFor.by(declaration.params),
        thinking=details.wants_thinking(declaration.params),
        tier_starts=here.starts,
        prices=here.picodollars(),
        _other_starts=there.starts,
        _other_prices=there.picodollars(),
    )
