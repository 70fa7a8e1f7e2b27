"""The models that the simulated organisation may use, with their limits and prices.

The prices (USD per million tokens, real time) are copied by hand from genai-prices 0.2.3. The
pipeline uses that library: books that used it too could not show its mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# Cost is kept as whole picodollars so that sums over millions of requests are exact.
PICO_USD_PER_TOKEN = 1_000_000  # one dollar per million tokens
CACHE_WRITE_5M = 1.25
CACHE_WRITE_1H = 2.0


@dataclass(frozen=True)
class Model:
    """One model; prices in USD per million tokens, windows in tokens."""

    id: str
    input_usd: float
    output_usd: float
    cache_read_usd: float
    context_window: int
    max_output: int
    aliases: tuple[str, ...] = ()
    long_prompt_tokens: int | None = None
    long_prompt_factor: float = 1.0

    def cost_pico_usd(self, usage: dict[str, Any], *, batch: bool) -> int:
        """Price of one answer's `usage` in 1e-12 USD; a batch costs half."""
        prompt_tokens = (
            usage["input_tokens"]
            + usage["cache_creation_input_tokens"]
            + usage["cache_read_input_tokens"]
        )
        factor = 0.5 if batch else 1.0
        if self.long_prompt_tokens is not None and prompt_tokens > self.long_prompt_tokens:
            factor *= self.long_prompt_factor
        created = usage["cache_creation"]
        price = (
            usage["input_tokens"] * _pico(self.input_usd * factor)
            + created["ephemeral_5m_input_tokens"] * _pico(self.input_usd * CACHE_WRITE_5M * factor)
            + created["ephemeral_1h_input_tokens"] * _pico(self.input_usd * CACHE_WRITE_1H * factor)
            + usage["cache_read_input_tokens"] * _pico(self.cache_read_usd * factor)
            + usage["output_tokens"] * _pico(self.output_usd * factor)
        )
        return int(price)


@lru_cache(maxsize=256)  # the same few prices for all answers
def _pico(usd_per_million: float) -> int:
    return round(usd_per_million * PICO_USD_PER_TOKEN)


_200K, _1M = 200_000, 1_000_000
_MODELS = (
    Model("claude-haiku-5-5", 0.1, 0.5, 0.01, _1M, 64_000, (), 100_000, 5.0),
    Model("claude-sonnet-5-5", 2, 10, 0.1, _1M, 128_000),
    Model("claude-opus-5-5", 4, 20, 0.2, _1M, 128_000),
    Model("claude-fable-5-2", 8, 40, 0.2, _1M, 128_000),
    Model("claude-mythos-5-2", 8, 40, 0.2, _1M, 128_000),
    Model("claude-fable-5-1", 10, 50, 0.25, _1M, 128_000),
    Model("claude-fable-5", 10, 50, 1, _1M, 128_000),
    Model("claude-sonnet-5", 2, 10, 0.2, _1M, 128_000),
    Model("claude-opus-5", 5, 25, 0.5, _1M, 128_000),
    Model("claude-opus-4-8", 5, 25, 0.5, _1M, 128_000),
    Model("claude-opus-4-7", 5, 25, 0.5, _1M, 128_000),
    Model("claude-opus-4-6", 5, 25, 0.5, _1M, 128_000),
    Model("claude-sonnet-4-6", 3, 15, 0.3, _1M, 64_000),
    Model("claude-haiku-4-5-20251001", 1, 5, 0.1, _200K, 64_000, ("claude-haiku-4-5",)),
    Model("claude-opus-4-5-20251101", 5, 25, 0.5, _200K, 64_000, ("claude-opus-4-5",)),
    Model("claude-sonnet-4-5-20250929", 3, 15, 0.3, _200K, 64_000, ("claude-sonnet-4-5",)),
)

MODELS: dict[str, Model] = {name: model for model in _MODELS for name in (model.id, *model.aliases)}
"""Every accepted model name (aliases included), newest first."""


def model_info(model: Model) -> dict[str, Any]:
    """The model as `GET /v1/models` shows it."""
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id.replace("-", " ").title(),
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": model.context_window,
        "max_tokens": model.max_output,
    }


def all_models() -> tuple[Model, ...]:
    return _MODELS
