"""The documents; stands for whatever brings yours."""

import json
import os
from pathlib import Path

import dagster as dg


@dg.asset
def contracts() -> dg.MaterializeResult[None]:
    """Contracts as JSON lines in the folder that CONTRACTS_DIR names."""
    folder = Path(os.environ["CONTRACTS_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"contract {number}", "text": f"The notice period is {number} months."}
        for number in range(1, 25)
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "contracts.jsonl").write_text(lines, encoding="utf-8")
    return dg.MaterializeResult(metadata={"dagster/row_count": len(rows)})
