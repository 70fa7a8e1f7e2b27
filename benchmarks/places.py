"""Where a rehearsal keeps its home and its ledger: a folder and SQLite, or a bucket and PostgreSQL.

The bucket is moto's S3 server behind a proxy that counts requests, both in the rehearsal's own
process, whose CPU is not measured. Both are slow: speeds are compared without a bucket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from batch_pipeline_tests.databases import running_postgres
from batch_pipeline_tests.stores import FaultProxy, new_bucket, running_proxy, running_s3
from benchmarks.measure import listed


@dataclass
class Places:
    """The environment variables that name home and ledger, and counters of their use."""

    environ: dict[str, str] = field(default_factory=dict)
    bucket: FaultProxy | None = None
    ledger_url: str | None = None

    def show(self) -> None:
        """Print the requests to the bucket, and the rows and transactions of the ledger."""
        if self.bucket is not None:
            print(
                f"  requests to the bucket: {listed(self.bucket.kinds)}; "
                f"{self.bucket.bytes_read / 1e6:,.0f} MB read, "
                f"{self.bucket.bytes_written / 1e6:,.0f} MB written"
            )
        if self.ledger_url is not None:
            transactions = _transactions(self.ledger_url)
            rows = _rows(self.ledger_url)
            print(f"  rows of the ledger: {rows.total():,} ({listed(rows)})")
            print(f"  transactions of the ledger, those that only read included: {transactions:,}")


@contextmanager
def places(home: str, ledger: str) -> Iterator[Places]:
    """Home `folder` or `s3`, ledger `sqlite` or `postgres`; an empty one of each."""
    with ExitStack() as stack:
        found = Places()
        if ledger == "postgres":
            server = stack.enter_context(running_postgres())
            found.ledger_url = server.render_as_string(hide_password=False)
            found.environ["BATCH_PIPELINE_LEDGER_URL"] = found.ledger_url
        if home == "s3":
            store = stack.enter_context(running_s3())
            proxy = stack.enter_context(running_proxy(store))
            found.bucket = proxy
            found.environ |= {
                "BATCH_PIPELINE_HOME": f"s3://{new_bucket(store)}/home",
                "AWS_ENDPOINT_URL": proxy.url,
                "AWS_ACCESS_KEY_ID": "any",
                "AWS_SECRET_ACCESS_KEY": "any",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
        yield found


def _rows(url: str) -> Counter[str]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        counted: Counter[str] = Counter()
        for name in sa.inspect(connection).get_table_names():
            rows = sa.select(sa.func.count()).select_from(sa.table(name))
            counted[name] = int(connection.scalar(rows) or 0)
    engine.dispose()
    return counted


def _transactions(url: str) -> int:
    """Transactions that the database has committed since it was made, by its own statistics."""
    engine = sa.create_engine(url)
    query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    with engine.connect() as connection:
        found = int(connection.scalar(sa.text(query)) or 0)
    engine.dispose()
    return found
