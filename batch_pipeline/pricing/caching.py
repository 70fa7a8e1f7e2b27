"""What the prompt cache can save: minimum lengths of a prefix, break-even hit rates, savings.

Sources: the API's documentation of prompt caching as of November 2026. Prices come from `prices`.
"""

from __future__ import annotations

import re
from decimal import Decimal

from batch_pipeline.pricing.prices import UnitPrices
from batch_pipeline.pricing.tokens import Lifetime

# Model ids without their date, and the tokens of the shortest prefix that is cached. Sources differ
# for Sonnet 4.6 (2,048 too) and Opus 4.7 (4,096 too): the smaller number stands here, since a mark
# on a prefix that is too short costs nothing.
_MINIMUMS = (
    (r"claude-(opus|sonnet|haiku)-5-5|claude-(fable|mythos)-5(-\d)?|claude-opus-5", 512),
    (r"claude-sonnet-(5|4-6|4-5)|claude-opus-4-8", 1_024),
    (r"claude-opus-4-7", 2_048),
    (r"claude-opus-4-[56]|claude-haiku-4-5", 4_096),
)
# The share of reads in batches that the documentation has seen: "30 % to 98 %".
SEEN_HIT_RATES = (0.30, 0.98)


def minimum_tokens(model_id: str) -> int | None:
    """Tokens of the shortest prefix that the API caches for a model; None: not known."""
    name = re.sub(r"-20\d{6}$", "", model_id)
    return next((least for pattern, least in _MINIMUMS if re.fullmatch(pattern, name)), None)


def describe_prefix(model_id: str, size: str, tokens: int) -> str:
    """Whether a shared prefix of `tokens` tokens, `size` in words, can be cached, in a clause."""
    least = minimum_tokens(model_id)
    if least is not None and tokens < least:
        return f"cannot pay: {size} tokens, minimum {least:,} of {model_id}"
    known = "is not known" if least is None else f"is {least:,}"
    return f"the shared prefix has {size} tokens; the minimum of {model_id} {known}"


def break_even(prices: UnitPrices, lifetime: Lifetime) -> float | None:
    """The share of a marked prefix's tokens that has to be read for marks to cost nothing, where
    what is not read is written; None: no share is enough."""
    written = prices.cache_write(lifetime)
    if written <= prices.cache_read or prices.input <= prices.cache_read:
        return None
    return float((written - prices.input) / (written - prices.cache_read))


def saved_usd(prices: UnitPrices, lifetime: Lifetime, tokens: float, hit_rate: float) -> Decimal:
    """USD that marks save on this number of prefix tokens at a hit rate; negative: they cost it."""
    hits = Decimal(str(hit_rate))
    marked = hits * prices.cache_read + (1 - hits) * prices.cache_write(lifetime)
    return Decimal(str(tokens)) * (prices.input - marked)
