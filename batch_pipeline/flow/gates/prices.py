"""Which prices a job's requests have: the published ones, or those that the job states.

Belongs here: from a declaration to its prices. The prices themselves stand in `money.prices`.
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
    """The prices of a declaration's model at a time: the job's own where it states any."""
    if stated is not None:
        return stated_price(declaration.model_id, stated)
    geo = declaration.params.get("inference_geo")
    return find_price(declaration.model_id, at, inference_geo=geo)


def stated_prices(spec: JobSpec) -> dict[str, Any] | None:
    """The job's own prices as they are kept with what is sent; None: it states none."""
    return None if spec.prices is None else spec.prices.model_dump(mode="json")
