"""What the price of a declaration's requests follows from, beside their tokens.

Belongs here: what a bound in USD asks of a declaration. Prices are in `pricing`, what an answer was
billed in `gates.billing`.
"""

from __future__ import annotations

import orjson

from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.pricing.bounds import Part


def part_of(
    asked: Declaration, requests: int, input_bytes: int, largest_bytes: int, output_tokens: int
) -> Part:
    """Requests of a declaration, with what their price follows from."""
    return Part(
        model_id=asked.model_id,
        geo=asked.params.get("inference_geo"),
        caching=asks_for_caching(asked),
        searches=most_searches(asked) or 0,
        requests=requests,
        input_bytes=input_bytes,
        largest_bytes=largest_bytes,
        output_tokens=output_tokens,
    )


def asks_for_caching(declaration: Declaration) -> bool:
    """Whether requests may be billed for cache writes: the API caches only where it is asked to.

    The declaration tells: the word `cache_control` in a document is text of the prompt.
    """
    return b'"cache_control"' in orjson.dumps(declaration.params)


def most_searches(declaration: Declaration) -> int | None:
    """The most web searches of one request; None: the declaration sets no bound."""
    tools = declaration.params.get("tools")
    kinds = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    uses = [t.get("max_uses") for t in kinds if str(t.get("type")).startswith("web_search")]
    bounds = [most for most in uses if isinstance(most, int)]
    return sum(bounds) if len(bounds) == len(uses) else None
