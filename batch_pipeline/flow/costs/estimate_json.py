"""An estimate as a document for programs."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import Any

from batch_pipeline.flow.costs.estimate import Estimate
from batch_pipeline.pricing.estimate import Amounts, Spread
from batch_pipeline.reporting.report.avoided import Cascade, by_cause


def as_json(found: Estimate) -> dict[str, Any]:
    """An estimate as a document; amounts are rounded to a millionth of a dollar."""
    work, snapshot = found.work, found.snapshot
    return {
        "job": found.job,
        "partition": found.partition,
        "model_id": found.model_id,
        "price_model": found.price.matched_model,
        "price_library": found.price.source,
        "items": snapshot.items,
        "requests": work.requests,
        "duplicates": snapshot.duplicates,
        "invalid_input": snapshot.count_set_aside("invalid_input"),
        "too_large": snapshot.count_set_aside("too_large"),
        "filtered": snapshot.count_set_aside("filtered"),
        "filtered_by": snapshot.filtered_by,
        "reused": found.reused,
        "already_bought": found.already_bought,
        "tokens": {
            "source": found.tokens.source,
            "input_from": found.tokens.prompt,
            "output_from": found.tokens.answer,
            "input": _rounded(work.prompt),
            "output": _rounded(work.output),
        },
        "fees_usd_per_request": {mode: _usd(fee) for mode, fee in work.fees.items() if fee},
        "mode": found.mode,
        "buffer": found.buffer,
        "batch": _way(found.batch, found.batch_hours, found.batch_hours_from),
        "realtime": _way(found.realtime, found.realtime_hours, found.realtime_hours_from),
        "pilot_extra_usd": _usd(found.pilot_extra_usd),
        "expected_usd": _usd(found.expected_usd),
        "savings_usd": _usd(found.savings_usd),
        **savings_json(found),
        **documents_json(found),
        "recommendation": asdict(found.advice),
        "warnings": list(found.warnings),
    }


def documents_json(found: Estimate) -> dict[str, Any]:
    """The documents of the input by media type, and what its PDFs cost both ways; without
    documents nothing."""
    counted, ways = found.snapshot.documents, found.documents
    if not counted:
        return {}
    pdf = {} if ways is None else {"pdf": ways.as_json()}
    return {"documents": {"by_type": counted, **pdf}}


def savings_json(found: Estimate) -> dict[str, Any]:
    """What the job's declaration saves, and how its requests are asked."""
    rows = found.avoided
    return {
        "avoided_usd": {cause: _usd(amount) for cause, amount in by_cause(rows).items()},
        "avoided": [{**each.as_json(), "avoided_usd": _usd(each.usd)} for each in rows],
        "by_route": [way.as_json() for way in found.ways] if len(found.ways) > 1 else [],
        "escalation": None if found.cascade is None else _cascade(found.cascade),
        "caching": None if found.caching is None else found.caching.as_json(),
    }


def _cascade(found: Cascade) -> dict[str, Any]:
    return {
        name: _usd(value) if isinstance(value, Decimal) else value
        for name, value in found.as_json().items()
    }


def _way(found: Amounts, hours: float, hours_from: str) -> dict[str, Any]:
    return {
        "expected_usd": _usd(found.expected),
        "with_buffer_usd": _usd(found.buffered),
        "at_p95_usd": _usd(found.p95),
        "hours": round(hours, 3),
        "hours_from": hours_from,
    }


def _rounded(spread: Spread) -> dict[str, float]:
    return {name: round(value, 1) for name, value in asdict(spread).items()}


def _usd(amount: Decimal) -> float:
    return round(float(amount), 6)
