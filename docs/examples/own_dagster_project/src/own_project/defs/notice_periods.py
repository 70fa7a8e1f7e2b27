"""What the team works with: a table of the answers, made once a night is complete."""

import os
from pathlib import Path

import dagster as dg
import pandas as pd

RESULTS = dg.AssetKey(["contract_review", "collected_results"])
COLUMNS = ["id", "status", "content", "cost_usd"]


def results() -> pd.DataFrame:
    """One row for each contract, with its answer or why there is none."""
    home = Path(os.environ["BATCH_PIPELINE_HOME"])
    return pd.read_parquet(home / "contract_review" / "results", columns=COLUMNS)


@dg.asset(
    deps=[RESULTS],
    owners=["team:contracts"],
    kinds={"pandas", "parquet"},
    # Fires when the night is complete, since the results materialize then and not before.
    automation_condition=dg.AutomationCondition.eager(),
)
def notice_periods() -> dg.MaterializeResult[None]:
    """The answers to each contract, as Parquet."""
    answered = results().query("status == 'succeeded'")
    target = table_path()
    target.parent.mkdir(parents=True, exist_ok=True)
    answered[["id", "content"]].to_parquet(target, index=False)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": len(answered), "dagster/uri": target.as_uri()}
    )


@dg.asset_check(asset=notice_periods, description="No contract is in the table twice.")
def each_contract_once() -> dg.AssetCheckResult:
    table = pd.read_parquet(table_path())
    twice = int(table["id"].duplicated().sum())
    return dg.AssetCheckResult(passed=twice == 0, metadata={"rows": len(table), "twice": twice})


def table_path() -> Path:
    return Path(os.environ["BATCH_PIPELINE_HOME"]) / "tables" / "notice_periods.parquet"
