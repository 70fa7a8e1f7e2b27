"""Prices of a job's requests: the published prices, or those that the job states.

Belongs here: which prices a declaration has. The prices themselves stand in `pricing.prices`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.pricing.prices import ModelPrice, find_price, stated_price


def price_for(spec: JobSpec) -> ModelPrice:
    """The price today of the job's own model; raises before anything is sent where that, or another
    model that the job asks, has none."""
    at = datetime.now(UTC)
    for path, asked in reversed(spec.asked_all_ways()):
        try:
            price = price_at(Declaration.of(asked), at, stated_prices(asked))
        except UsageError as error:
            key = ".".join(map(str, (*path, "model_id")))
            raise UsageError(f"{spec.name}, {key}: {error}") from error
    return price


def price_at(
    declaration: Declaration, at: datetime, stated: Mapping[str, Any] | None = None
) -> ModelPrice:
    """The prices of a declaration's model at a time: those that the job states, if any."""
    if stated is not None:
        return stated_price(declaration.model_id, stated, at)
    geo = declaration.params.get("inference_geo")
    return find_price(declaration.model_id, at, inference_geo=geo)


def price_of_variant(
    asked: Declaration,
    declared: Declaration,
    at: datetime,
    stated: Mapping[str, Any] | None = None,
) -> ModelPrice:
    """The prices of what is `asked` otherwise than `declared`: those that a job states are of its
    own model alone."""
    return price_at(asked, at, stated if asked.model_id == declared.model_id else None)


def stated_prices(spec: JobSpec) -> dict[str, Any] | None:
    """The prices that the job states, as they are recorded with what is sent; None: it has none."""
    return None if spec.prices is None else spec.prices.model_dump(mode="json")
