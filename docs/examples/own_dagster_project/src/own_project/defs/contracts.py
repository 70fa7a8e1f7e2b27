"""The documents: a table that stands for your own."""

import dagster as dg
import pandas as pd


@dg.asset(owners=["team:contracts"], kinds={"pandas"})
def contracts() -> pd.DataFrame:
    """Contracts with their customers. The job takes this value through the asset's IO manager."""
    numbers = range(1, 25)
    return pd.DataFrame(
        {
            "id": [f"contract {number}" for number in numbers],
            "customer": [f"customer {number % 5}" for number in numbers],
            "text": [f"The notice period is {number} months." for number in numbers],
        }
    )
