"""What the team works with: a table of the answers, made once a night is complete."""

import dagster as dg
import pandas as pd

RESULTS = dg.AssetKey(["contract_review", "collected_results"])


@dg.asset(
    # Loaded by batch-pipeline's IO manager, which the results name themselves.
    ins={"answers": dg.AssetIn(RESULTS, metadata={"columns": ["id", "status", "content"]})},
    owners=["team:contracts"],
    kinds={"pandas"},
    # Fires when the night is complete, since the results materialize then and not before.
    automation_condition=dg.AutomationCondition.eager(),
)
def notice_periods(answers: pd.DataFrame) -> pd.DataFrame:
    """The answer to each contract that has a good one."""
    return answers.loc[answers["status"] == "succeeded", ["id", "content"]]


@dg.asset_check(asset=notice_periods, description="No contract is in the table twice.")
def each_contract_once(notice_periods: pd.DataFrame) -> dg.AssetCheckResult:
    twice = int(notice_periods["id"].duplicated().sum())
    return dg.AssetCheckResult(
        passed=twice == 0, metadata={"rows": len(notice_periods), "twice": twice}
    )
