"""The models that the simulated organisation may use, with their limits and prices.

The prices (USD per million tokens, real time) are copied by hand from genai-prices 0.2.3. The
pipeline uses that library: books that used it too could not show its mistakes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# Cost is kept as whole picodollars so that sums over millions of requests are exact.
PICO_USD_PER_TOKEN = 1_000_000  # one dollar per million tokens
PICO_USD_PER_SEARCH = 10_000_000_000
CACHE_WRITE_5M = 1.25
CACHE_WRITE_1H = 2.0
_200K, _1M = 200_000, 1_000_000
EFFORTS = ("low", "medium", "high", "xhigh", "max")


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
    thinking: str = "adaptive disabled"
    """The types of thinking that it accepts."""
    effort: str = " ".join(EFFORTS)
    forced_tools: bool = True
    cached_from: int = 512
    """Tokens of the shortest prefix that is cached; a shorter one is not, without any error."""
    prefill: bool = False
    """Whether the last turn may be the assistant's, which the answer then continues."""
    image_side: int = 2_576
    image_tokens: int = 4_784
    """An image is scaled down to `image_side` pixels on its longer side, and costs at most
    `image_tokens`."""
    retires: str | None = None
    """The day on which a deprecated model retires; the simulator answers for it all the same."""

    @property
    def media_at_most(self) -> int:
        """The most pages of PDFs and images in one request."""
        return 100 if self.context_window < _1M else 600

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


def billed_pico_usd(model: str, usage: dict[str, Any], *, batch: bool) -> int:
    """What an answer of a model costs in 1e-12 USD, with all that its `usage` tells of.

    An iteration that is no `message` is billed beside the tokens at the top, by its own model.
    """
    iterations = [each for each in usage.get("iterations") or () if each["type"] != "message"]
    tokens = MODELS[model].cost_pico_usd(usage, batch=batch) + sum(
        MODELS[each.get("model", model)].cost_pico_usd(each, batch=batch) for each in iterations
    )
    if usage["inference_geo"] == "us":
        tokens = tokens * 11 // 10
    searches = (usage.get("server_tool_use") or {}).get("web_search_requests", 0)
    return tokens + int(searches) * PICO_USD_PER_SEARCH


@lru_cache(maxsize=256)  # the same few prices for all answers
def _pico(usd_per_million: float) -> int:
    return round(usd_per_million * PICO_USD_PER_TOKEN)


_ALWAYS: dict[str, Any] = {"thinking": "adaptive"}
_FREE: dict[str, Any] = {"thinking": "adaptive", "forced_tools": False}
_SMALL_IMAGES: dict[str, Any] = {"image_side": 1_568, "image_tokens": 1_568}
_BOTH: dict[str, Any] = {
    "thinking": "adaptive enabled disabled", "effort": "low medium high max", **_SMALL_IMAGES,
}  # fmt: skip
_OF_4_5: dict[str, Any] = {"thinking": "enabled disabled", "prefill": True, **_SMALL_IMAGES}
_MODELS = (
    Model("claude-haiku-5-5", 0.1, 0.5, 0.01, _1M, 128_000, (), 100_000, 5.0),
    Model(
        "claude-sonnet-5-5", 2, 10, 0.1, _1M, 128_000,
        thinking="adaptive between_tools", forced_tools=False,
    ),
    Model("claude-opus-5-5", 4, 20, 0.2, _1M, 128_000, **_FREE),
    Model("claude-fable-5-2", 8, 40, 0.2, _1M, 128_000, **_FREE),
    Model("claude-mythos-5-2", 8, 40, 0.2, _1M, 128_000, **_FREE),
    Model("claude-fable-5-1", 10, 50, 0.25, _1M, 128_000, **_FREE),
    Model("claude-fable-5", 10, 50, 1, _1M, 128_000, **_ALWAYS),
    Model("claude-sonnet-5", 2, 10, 0.2, _1M, 128_000, cached_from=1_024),
    Model("claude-opus-5", 5, 25, 0.5, _1M, 128_000),
    Model("claude-opus-4-8", 5, 25, 0.5, _1M, 128_000, cached_from=1_024),
    Model("claude-opus-4-7", 5, 25, 0.5, _1M, 128_000, cached_from=2_048),
    Model("claude-opus-4-6", 5, 25, 0.5, _1M, 128_000, cached_from=4_096, **_BOTH),
    Model("claude-sonnet-4-6", 3, 15, 0.3, _1M, 64_000, cached_from=1_024, **_BOTH),
    Model(
        "claude-haiku-4-5-20251001", 1, 5, 0.1, _200K, 64_000, ("claude-haiku-4-5",),
        cached_from=4_096, effort="", **_OF_4_5,
    ),
    Model(
        "claude-opus-4-5-20251101", 5, 25, 0.5, _200K, 64_000, ("claude-opus-4-5",),
        effort="low medium high", cached_from=4_096, retires="2027-01-22", **_OF_4_5,
    ),
    Model(
        "claude-sonnet-4-5-20250929", 3, 15, 0.3, _200K, 64_000, ("claude-sonnet-4-5",),
        cached_from=1_024, retires="2026-11-30", effort="", **_OF_4_5,
    ),
)  # fmt: skip

MODELS: dict[str, Model] = {name: model for model in _MODELS for name in (model.id, *model.aliases)}
"""Every accepted model name (aliases included), newest first."""


def model_info(model: Model) -> dict[str, Any]:
    """The model as `GET /v1/models` shows it."""
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id.replace("-", " ").title(),
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "deprecated" if model.retires else "active",
        "line": model.id.split("-")[1],
        "deprecated_at": "2026-06-01T00:00:00Z" if model.retires else None,
        "retires_at": f"{model.retires}T00:00:00Z" if model.retires else None,
        "max_input_tokens": model.context_window,
        "max_tokens": model.max_output,
        "capabilities": _capabilities(model),
    }


def _capabilities(model: Model) -> dict[str, Any]:
    everything = (
        "batch", "citations", "code_execution", "image_input", "pdf_input", "structured_outputs",
    )  # fmt: skip
    strategies = ("clear_thinking_20251015", "clear_tool_uses_20250919", "compact_20260112")
    types = ("adaptive", "between_tools", "disabled", "enabled")
    tools = ("code_execution", "web_search")
    yes = {"supported": True}
    return {
        **_supported(everything, everything),
        "context_management": yes | _supported(strategies, strategies),
        "effort": {"supported": bool(model.effort)} | _supported(EFFORTS, model.effort.split()),
        "server_tools": yes | _supported(tools, tools),
        "thinking": yes | {"types": _supported(types, model.thinking.split())},
    }


def _supported(names: Collection[str], held: Collection[str]) -> dict[str, Any]:
    return {name: {"supported": name in held} for name in names}


def all_models() -> tuple[Model, ...]:
    return _MODELS
