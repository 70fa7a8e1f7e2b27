"""The documents: a table that stands for whatever brings yours."""

import os
from pathlib import Path

import dagster as dg
import pandas as pd


def folder() -> Path:
    """Where the job reads its documents from: `input.path` of its declaration."""
    return Path(os.environ["CONTRACTS_DIR"])


@dg.asset(owners=["team:contracts"], kinds={"pandas"})
def contracts() -> dg.MaterializeResult[None]:
    """Contracts with their customers, as JSON lines for the job."""
    table = pd.DataFrame(
        {
            "id": [f"contract {number}" for number in range(1, 25)],
            "customer": [f"customer {number % 5}" for number in range(1, 25)],
            "text": [f"The notice period is {number} months." for number in range(1, 25)],
        }
    )
    folder().mkdir(parents=True, exist_ok=True)
    table.to_json(folder() / "contracts.jsonl", orient="records", lines=True)
    return dg.MaterializeResult(metadata={"dagster/row_count": len(table)})
