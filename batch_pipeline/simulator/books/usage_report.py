"""An organisation's reports of usage and cost by UTC day, from the simulator's books.

Belongs here: the sums for each day, and the form of the reports. Filters, other groupings and
buckets of hours are refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from batch_pipeline.simulator.database import Database
from batch_pipeline.simulator.wire import invalid_request, timestamp
from batch_pipeline.simulator.workspaces import Workspace

_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    organisation TEXT NOT NULL, workspace TEXT NOT NULL,
    day TEXT NOT NULL, model TEXT NOT NULL, service_tier TEXT NOT NULL,
    input INTEGER NOT NULL, output INTEGER NOT NULL, cache_read INTEGER NOT NULL,
    cache_write_5m INTEGER NOT NULL, cache_write_1h INTEGER NOT NULL, pico_usd INTEGER NOT NULL,
    PRIMARY KEY (organisation, day, model, service_tier, workspace)
) WITHOUT ROWID
"""
# Amounts of the cost report are in cents.
_PICO_PER_CENT = Decimal(10) ** 10
_MOST_DAYS = 31


@dataclass
class ModelBill:
    """The sums of one model's answers in a bill: tokens by class, and picodollars."""

    tokens: list[int] = field(default_factory=lambda: [0] * 5)
    pico_usd: int = 0

    def add(self, usage: Mapping[str, Any], pico_usd: int) -> None:
        created = usage["cache_creation"]
        classes = (
            usage["input_tokens"],
            usage["output_tokens"],
            usage["cache_read_input_tokens"],
            created["ephemeral_5m_input_tokens"],
            created["ephemeral_1h_input_tokens"],
        )
        self.tokens = [before + more for before, more in zip(self.tokens, classes, strict=True)]
        self.pico_usd += pico_usd


def prepare(connection: sqlite3.Connection) -> None:
    """Create the table, and move into it the sums that older simulators kept in another one."""
    connection.execute(_SCHEMA)
    # `day_usage` is of simulators that had one organisation.
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'day_usage'").fetchone():
        default = Workspace()
        connection.execute(
            "INSERT INTO usage SELECT ?, ?, day, model, service_tier, input, output, cache_read,"
            " cache_write_5m, cache_write_1h, pico_usd FROM day_usage",
            (default.organisation, default.name),
        )
        connection.execute("DROP TABLE day_usage")


def record(
    connection: sqlite3.Connection, workspace: Workspace, models: Mapping[str, ModelBill], *,
    batch: bool,
) -> None:  # fmt: skip
    """Add a bill to the sums of the present day, in the transaction that books it."""
    tier = "batch" if batch else "standard"
    day = datetime.now(UTC).date().isoformat()
    whose = (workspace.organisation, workspace.name, day)
    connection.executemany(
        "INSERT INTO usage VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
        " ON CONFLICT (organisation, day, model, service_tier, workspace) DO UPDATE SET"
        " input = input + ?6, output = output + ?7, cache_read = cache_read + ?8,"
        " cache_write_5m = cache_write_5m + ?9, cache_write_1h = cache_write_1h + ?10,"
        " pico_usd = pico_usd + ?11",
        ((*whose, model, tier, *bill.tokens, bill.pico_usd) for model, bill in models.items()),
    )


def by_workspace(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    """Pairs of `WORKSPACE/ORGANISATION` and the picodollars billed in it."""
    return connection.execute(
        "SELECT workspace || '/' || organisation, sum(pico_usd) FROM usage GROUP BY 1 ORDER BY 1"
    ).fetchall()


def usage_page(
    database: Database, organisation: str, query: Mapping[str, str], group_by: Iterable[str]
) -> dict[str, Any]:
    """`GET /v1/organizations/usage_report/messages`."""
    _check(group_by, {"model", "service_tier"})
    return _page(database, organisation, query, lambda row: [{
        "model": row["model"],
        "service_tier": row["service_tier"],
        "uncached_input_tokens": row["input"],
        "output_tokens": row["output"],
        "cache_read_input_tokens": row["cache_read"],
        "cache_creation": {
            "ephemeral_5m_input_tokens": row["cache_write_5m"],
            "ephemeral_1h_input_tokens": row["cache_write_1h"],
        },
        "server_tool_use": {"web_search_requests": 0},
        "api_key_id": None,
        "workspace_id": None,
        "context_window": None,
        "inference_geo": None,
    }])  # fmt: skip


def cost_page(
    database: Database, organisation: str, query: Mapping[str, str], group_by: Iterable[str]
) -> dict[str, Any]:
    """`GET /v1/organizations/cost_report`; all token types of a model are one item here."""
    _check(group_by, {"description"})
    return _page(database, organisation, query, lambda row: [{
        "amount": f"{Decimal(row['pico_usd']) / _PICO_PER_CENT:f}",
        "currency": "USD",
        "cost_type": "tokens",
        "description": f"{row['model']} usage, {row['service_tier']}",
        "model": row["model"],
        "service_tier": row["service_tier"],
        "token_type": None,
        "context_window": None,
        "inference_geo": None,
        "workspace_id": None,
    }])  # fmt: skip


def _page(
    database: Database, organisation: str, query: Mapping[str, str], results: Any
) -> dict[str, Any]:
    if query.get("bucket_width", "1d") != "1d":
        raise invalid_request("bucket_width: the simulator has buckets of one day only")
    begin, end = _time(query, "starting_at"), _time(query, "ending_at")
    days = [begin + timedelta(days=n) for n in range(min((end - begin).days, _MOST_DAYS))]
    buckets = []
    for day in days:
        with database.transaction() as connection:
            cursor = connection.execute(
                "SELECT model, service_tier, sum(input) AS input, sum(output) AS output,"
                " sum(cache_read) AS cache_read, sum(cache_write_5m) AS cache_write_5m,"
                " sum(cache_write_1h) AS cache_write_1h, sum(pico_usd) AS pico_usd FROM usage"
                " WHERE organisation = ? AND day = ? GROUP BY 1, 2 ORDER BY 1, 2",
                (organisation, day.date().isoformat()),
            )
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        buckets.append({
            "starting_at": timestamp(day),
            "ending_at": timestamp(day + timedelta(days=1)),
            "results": [item for row in rows for item in results(row)],
        })  # fmt: skip
    return {"data": buckets, "has_more": False, "next_page": None}


def _check(given: Iterable[str], known: set[str]) -> None:
    if set(given) != known:
        raise invalid_request(f"group_by[]: the simulator groups by {', '.join(sorted(known))}")


def _time(query: Mapping[str, str], name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(query[name])
    except KeyError:
        raise invalid_request(f"{name}: Field required") from None
    except ValueError:
        raise invalid_request(f"{name}: Input should be a valid datetime") from None
    if moment.tzinfo is None:
        raise invalid_request(f"{name}: a time zone is required")
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
