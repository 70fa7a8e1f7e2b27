"""What the assets of this project share, and what runs their steps."""

import dagster as dg
import duckdb


class Warehouse(dg.ConfigurableResource):
    """A DuckDB file that stands for your warehouse."""

    path: str

    def connect(self) -> duckdb.DuckDBPyConnection:
        return duckdb.connect(self.path)


@dg.definitions
def resources() -> dg.Definitions:
    return dg.Definitions(
        resources={"warehouse": Warehouse(path=dg.EnvVar("WAREHOUSE"))},
        # A night's steps follow one another: a process for each takes longer to start than it runs.
        executor=dg.in_process_executor,
    )
