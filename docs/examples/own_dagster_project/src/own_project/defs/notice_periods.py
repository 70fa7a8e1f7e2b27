"""What the team works with: a table of the answers, made once a night is complete."""

import dagster as dg
import pandas as pd

from own_project.defs.resources import Warehouse

RESULTS = dg.AssetKey(["contract_review", "collected_results"])


@dg.asset(
    # The results name their IO manager themselves; it loads the dataset with typed columns.
    ins={"answers": dg.AssetIn(RESULTS, metadata={"dataset": "typed"})},
    owners=["team:contracts"],
    kinds={"pandas", "duckdb"},
    # Fires when the night is complete: the results materialize then, and not before.
    automation_condition=dg.AutomationCondition.eager(),
)
def notice_periods(answers: pd.DataFrame, warehouse: Warehouse) -> dg.MaterializeResult:
    """The notice period of each contract that has a good answer, with its customer."""
    table = answers.loc[answers["status"] == "succeeded", ["id", "input_customer", "months"]]
    table = table.rename(columns={"id": "contract", "input_customer": "customer"})
    with warehouse.connect() as connection:
        connection.register("answers", table)
        connection.execute("CREATE OR REPLACE TABLE notice_periods AS SELECT * FROM answers")
    return dg.MaterializeResult(
        metadata={"dagster/row_count": len(table), "dagster/table_name": "notice_periods"}
    )


@dg.asset_check(asset=notice_periods, description="No contract is in the table twice.")
def each_contract_once(warehouse: Warehouse) -> dg.AssetCheckResult:
    with warehouse.connect() as connection:
        query = "SELECT count(*), count(DISTINCT contract) FROM notice_periods"
        rows, contracts = connection.execute(query).fetchone()
    return dg.AssetCheckResult(
        passed=rows == contracts, metadata={"rows": rows, "contracts": contracts}
    )
