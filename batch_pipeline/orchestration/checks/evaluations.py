"""A check's result as an event, for what is logged outside of the step that planned the check."""

from __future__ import annotations

import dagster as dg


def of_result(
    check: dg.AssetCheckKey, result: dg.AssetCheckResult, partition: str | None = None
) -> dg.AssetCheckEvaluation:
    """The event of a result, of one partition or of the asset as a whole."""
    return dg.AssetCheckEvaluation(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=result.passed,
        severity=result.severity,
        description=result.description,
        metadata=result.metadata,
        partition=partition,
    )
