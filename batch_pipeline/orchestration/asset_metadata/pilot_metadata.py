"""A pilot and its verdict as `pilot_sample` and its check show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import dagster as dg

from batch_pipeline.ledger.admission.admission import Waiting
from batch_pipeline.ledger.control.approvals import Approval, Gate, lets_go, needs_review
from batch_pipeline.orchestration.asset_metadata.values import Metadata, percent, safely
from batch_pipeline.wording import usd


@safely
def of_waiting_pilot(waiting: Waiting) -> Metadata:
    return {
        "summary": f"no verdict yet: {waiting}",
        "requests_waiting": waiting.requests,
    }


@safely
def of_gate(partition: str, verdict: Mapping[str, Any], given: Sequence[Approval]) -> Metadata:
    """The pilot's verdict on its check; with the partition, since a check's history has no column
    for that."""
    return {
        "partition": partition,
        "verdict": ("; ".join(verdict["reasons"]) or "open")
        + _approved(verdict, given)
        + _came_to(verdict),
        **of_page(verdict),
        "sample_requests": verdict["sample"],
        **_rates(verdict),
        **_projection(verdict),
        "examples": " | ".join(verdict["examples"]) or "none",
    }


def _rates(verdict: Mapping[str, Any]) -> dict[str, float]:
    return {
        "error_rate_percent": percent(verdict["error_rate"]),
        "truncated_rate_percent": percent(verdict["truncated_rate"]),
        "refused_rate_percent": percent(verdict["refused_rate"]),
        "invalid_output_rate_percent": percent(verdict["invalid_output_rate"]),
    }


def _projection(verdict: Mapping[str, Any]) -> dict[str, float]:
    """What the night is projected to cost, and the interval where there is one."""
    found = {
        "projected_cost_usd": verdict["projected_usd"],
        "projected_low_usd": verdict["projected_low_usd"],
        "projected_high_usd": verdict["projected_high_usd"],
    }
    return {name: round(usd, 6) for name, usd in found.items() if usd is not None}


@safely
def of_pilot(verdict: Mapping[str, Any], given: Sequence[Approval], *, simulated: bool) -> Metadata:
    reasons = f" ({'; '.join(verdict['reasons'])})" if verdict["reasons"] else ""
    gate = "gate open" if verdict["open"] else "gate closed"
    return {
        "summary": f"{gate}{reasons}{_approved(verdict, given)}{_came_to(verdict)}",
        **of_page(verdict),
        "sample_requests": verdict["sample"],
        **_rates(verdict),
        **_projection(verdict),
        "mean_input_tokens": round(verdict["mean_input_tokens"], 1),
        "mean_output_tokens": round(verdict["mean_output_tokens"], 1),
        "cache_read_percent": percent(verdict["cache_read_share"]),
        **_took(verdict),
        **_near_duplicates(verdict),
        **_routes(verdict),
        "simulated": simulated,
    }


def _near_duplicates(verdict: Mapping[str, Any]) -> dict[str, str]:
    found = verdict.get("near_duplicates")
    return {} if found is None else {"near_duplicates": found["reason"]}


def _routes(verdict: Mapping[str, Any]) -> dict[str, str | float]:
    """The same by route, and what was escalated, where there is any of it."""
    found: dict[str, str | float] = {}
    if verdict.get("escalated_rate"):
        found["escalated_percent"] = percent(verdict["escalated_rate"])
    if verdict.get("routes"):
        found["routes"] = "; ".join(
            f"{route['route'] or 'none'} ({route['model_id']}): {route['sample']:,} tried, "
            f"{route['error_rate']:.1%} failed, "
            f"projected {usd(Decimal(str(route['projected_usd'])))}"
            for route in verdict["routes"]
        )
    return found


def _took(verdict: Mapping[str, Any]) -> dict[str, float]:
    names = ("latency_p50_ms", "latency_p95_ms", "turnaround_seconds")
    return {name: round(verdict[name], 1) for name in names if verdict.get(name) is not None}


def _approved(verdict: Mapping[str, Any], given: Sequence[Approval]) -> str:
    """Who let a pilot go that is closed or to be reviewed, or that this is still to be done."""
    review = bool(verdict["open"]) and needs_review(verdict)
    of_pilot = [approval for approval in given if approval.gate is Gate.PILOT]
    if verdict["open"] and not review:
        return ""
    if not lets_go(verdict, given):
        return "; waits for a person's review" if review else ""
    said = "approved" if review else "overruled"
    return f"; {said} by {of_pilot[-1].approved_by}: {of_pilot[-1].reason}"


def of_page(verdict: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Where the pilot's page is; Dagster makes a link of an address, and of a path one to copy."""
    page = verdict.get("page")
    if page is None:
        return {}
    address = page.startswith(("http://", "https://"))
    made = dg.MetadataValue.url(page) if address else dg.MetadataValue.path(page)
    return {"pilot_page": made}


def _came_to(verdict: Mapping[str, Any]) -> str:
    """The sample in words: tried, failed, projected, and fields that are always the same."""
    if not verdict["sample"]:
        return ""
    failed = round(verdict["error_rate"] * verdict["judged"])
    cost = usd(Decimal(str(verdict["projected_usd"])))
    text = f"; {verdict['sample']:,} tried, {failed:,} failed, the night would cost {cost}"
    same = verdict.get("always_same") or ()
    return f"{text}; always the same: {', '.join(same)}" if same else text
