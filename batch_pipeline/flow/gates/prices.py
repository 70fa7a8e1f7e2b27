"""Prices of a job's requests: the published prices, or those that the job states.

Belongs here: which prices a declaration has. The prices themselves stand in `pricing.prices`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.dataset.requests import Declaration
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.pricing.prices import ModelPrice, find_price, stated_price


def price_for(spec: JobSpec) -> ModelPrice:
    """The model's price today; raises before anything is sent where there is none."""
    try:
        return price_at(Declaration.of(spec), datetime.now(UTC), stated_prices(spec))
    except UsageError as error:
        raise UsageError(f"{spec.name}, model_id: {error}") from error


def price_at(
    declaration: Declaration, at: datetime, stated: Mapping[str, Any] | None = None
) -> ModelPrice:
    """The prices of a declaration's model at a time: those that the job states, if any."""
    if stated is not None:
        return stated_price(declaration.model_id, stated, at)
    geo = declaration.params.get("inference_geo")
    return find_price(declaration.model_id, at, inference_geo=geo)


def stated_prices(spec: JobSpec) -> dict[str, Any] | None:
    """The prices that the job states, as they are recorded with what is sent; None: it has none."""
    return None if spec.prices is None else spec.prices.model_dump(mode="json")
