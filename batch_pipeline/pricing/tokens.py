"""The classes of billed tokens, for prices, reports, the results' columns and the ledger's."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

# How long what is written to the prompt cache lasts from its last read.
Lifetime = Literal["5m", "1h"]
# From the API's documentation: a token is about 3.5 characters of English. Code and other scripts
# have other ratios.
RULE_BYTES_PER_TOKEN = 3.5
LIFETIME_SECONDS: dict[Lifetime, float] = {"5m": 300.0, "1h": 3_600.0}


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Billed tokens by class, disjoint as the API reports them: `input_tokens` is uncached."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_read_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_write_5m_tokens + other.cache_write_5m_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
        )

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt, cached or not: what price tiers are measured by."""
        return (
            self.input_tokens
            + self.cache_write_5m_tokens
            + self.cache_write_1h_tokens
            + self.cache_read_tokens
        )


# The classes of billed tokens, in the order of `UnitPrices`: columns of results and of the ledger.
TOKENS = tuple(field.name for field in fields(TokenUsage))
CACHE_TOKENS = ("cache_write_5m_tokens", "cache_write_1h_tokens", "cache_read_tokens")
PROMPT_TOKENS = tuple(name for name in TOKENS if name != "output_tokens")
