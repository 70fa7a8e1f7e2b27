"""The cost report as JSON, for programs: its `complete` is the sign that a night is done."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import Any

import orjson

from batch_pipeline.reporting.distribution import Distribution
from batch_pipeline.reporting.report.avoided import by_cause
from batch_pipeline.reporting.report.report import USD_SCALE, ModelUsage, NightCost, Pilot, Report


def as_json(report: Report) -> dict[str, Any]:
    """The report's document; amounts are Decimals, times ISO 8601 in UTC, the rest plain JSON."""
    costs, tokens = report.costs, report.tokens
    return {
        "job": report.job,
        "partition": report.partition,
        "account": report.account,
        "model_id": report.model.model_id,
        "price_model": report.model.price_model,
        "price_library": report.model.price_library,
        "other_models": list(report.other_models),
        "items": report.items,
        "succeeded": report.succeeded,
        "dead_letter": report.dead_letter,
        "filtered": report.filtered,
        "reused": report.reused,
        "filtered_by": dict(report.filtered_by),
        "statuses": dict(report.statuses),
        "batches": report.batches,
        "retries": report.retries,
        "explained": report.explained.as_json(),
        "continued": report.continued.as_json(),
        "batch_cost_usd": costs.batch_usd,
        "realtime_cost_usd": costs.realtime_usd,
        "counterfactual_usd": costs.counterfactual_usd,
        "savings_usd": costs.savings_usd,
        "avoided_usd": by_cause(report.avoided),
        "escalation": report.cascade.as_json() if report.cascade else None,
        "avoided": [each.as_json() for each in report.avoided],
        "cost_per_document_usd": report.cost_per_document_usd,
        "cost_per_succeeded_usd": report.cost_per_succeeded_usd,
        "unattributed_cost_usd": costs.unattributed_usd,
        "duplicate_batches": report.duplicates.batches,
        "duplicate_cost_usd": report.duplicates.usd,
        "results_gone_requests": report.gone.requests,
        "results_gone_usd_bound": report.gone.usd_bound,
        "estimated_cost_usd": report.estimated_cost_usd,
        "fees_usd": report.fees_usd,
        "fees": [
            {"kind": fee.kind, "name": fee.name, "quantity": fee.quantity, "cost_usd": fee.usd}
            for fee in report.fees
            if fee.usd is not None
        ],
        "unpriced": [{"name": fee.name, "answers": fee.quantity} for fee in report.unpriced],
        "input_tokens": tokens.input_tokens,
        "output_tokens": tokens.output_tokens,
        "cache_read_tokens": tokens.cache_read_tokens,
        "cache_write_tokens": tokens.cache_write_5m_tokens + tokens.cache_write_1h_tokens,
        "cache_write_5m_tokens": tokens.cache_write_5m_tokens,
        "cache_write_1h_tokens": tokens.cache_write_1h_tokens,
        "cache_hit_rate": report.cache_hit_rate,
        "caching": report.caching.as_json() if report.caching else None,
        "models": [_model_json(usage) for usage in report.models],
        "token_distribution": {
            "prompt": report.prompt_tokens.as_json() if report.prompt_tokens else None,
            "output": report.output_tokens.as_json() if report.output_tokens else None,
        },
        "wasted_cost_usd": report.wasted_usd,
        "wasted": [
            {"reason": part.reason, "answers": part.answers, "cost_usd": part.usd}
            for part in report.wasted
        ],
        "accounts": [each.as_json() for each in report.accounts],
        "deadline": report.deadline.as_json() if report.deadline else None,
        "pilot": _pilot_json(report.pilot),
        "not_escalated": dict(report.not_escalated),
        "approvals": [
            {**vars(given), "approved_at": given.approved_at.isoformat(timespec="seconds")}
            for given in report.approvals
        ],
        "estimated_usd": report.estimated_usd,
        "actual_usd": costs.billed_usd,
        "over_estimate_share": report.over_estimate_share,
        "differences": [difference.as_json() for difference in report.differences],
        "turnaround_seconds": _turnaround_json(report.turnaround),
        "trend": [_night_json(night) for night in report.trend],
        "set_aside": [
            {**vars(group), "example_ids": list(group.example_ids)} for group in report.set_aside
        ],
        "simulated": report.simulated,
        "results_path": report.results_path,
        "started_at": report.started_at.isoformat(),
        "completed_at": report.completed_at.isoformat() if report.completed_at else None,
        "complete": report.complete,
    }


def to_json(report: Report) -> str:
    """The document as text; amounts are JSON numbers with all digits, without an exponent."""
    text = orjson.dumps(as_json(report), default=_plain, option=orjson.OPT_INDENT_2)
    return text.decode() + "\n"


def _pilot_json(pilot: Pilot | None) -> dict[str, Any] | None:
    if pilot is None:
        return None
    return {**vars(pilot), "reasons": list(pilot.reasons), "routes": list(pilot.routes)}


def _turnaround_json(turnaround: Distribution | None) -> dict[str, Any] | None:
    if turnaround is None:
        return None
    found = turnaround.as_json()
    return {"batches": found.pop("count"), **found}


def _model_json(usage: ModelUsage) -> dict[str, Any]:
    return {
        "model_id": usage.model_id,
        "price_model": usage.price_model,
        "mode": usage.mode,
        "answers": usage.answers,
        **asdict(usage.tokens),
        "cost_usd": usage.usd,
        "counterfactual_usd": usage.counterfactual_usd,
    }


def _night_json(night: NightCost) -> dict[str, Any]:
    return {
        "partition": night.partition,
        "batch_cost_usd": night.batch_usd,
        "realtime_cost_usd": night.realtime_usd,
        "settled": night.settled,
        "succeeded": night.succeeded,
        "cost_per_document_usd": night.per_document_usd,
        "complete": night.complete,
    }


def _plain(value: object) -> orjson.Fragment:
    if not isinstance(value, Decimal):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return orjson.Fragment(f"{value.quantize(USD_SCALE).normalize():f}")
