"""The queue limit as an admin key reads it: which key, how often, and what a failure does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from batch_pipeline.errors import AccountError, UsageError
from batch_pipeline.flow import account_probes, organisation_limits
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.accounts.accounts_file import Accounts, AccountSpec
from batch_pipeline.ledger.accounts import organisations
from batch_pipeline.ledger.database import tables
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.flow import accounts_support


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({"a": {}}, {"a": "ANTHROPIC_ADMIN_KEY"}),
        ({"a": {"admin_key_env": "ADMIN"}}, {"a": "ADMIN"}),
        # Of two organisations the variable of the environment is nobody's.
        ({"a": {}, "b": {"admin_key_env": "ADMIN"}}, {"a": None, "b": "ADMIN"}),
        # One account of an organisation names it for the others.
        (
            {"a": {"organisation": "o"}, "b": {"organisation": "o", "admin_key_env": "ADMIN"}},
            {"o": "ADMIN"},
        ),
        ({"a": {"organisation": "o"}, "b": {"organisation": "o"}}, {"o": "ANTHROPIC_ADMIN_KEY"}),
    ],
)
def test_whose_admin_key_reads_which_organisation(
    declared: Mapping[str, Mapping[str, Any]], expected: Mapping[str, str | None]
) -> None:
    accounts = Accounts({name: AccountSpec(**spec) for name, spec in declared.items()})
    found = {
        name: organisation_limits.key_variable(accounts, name)
        for name in organisation_limits.names(accounts)
    }
    assert found == expected


@pytest.fixture
def pipeline(
    make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Pipeline:
    """A pipeline with accounts of two organisations, each with an admin key."""
    monkeypatch.setenv("NORTH_ADMIN", "admin@a/north")
    monkeypatch.setenv("SOUTH_ADMIN", "admin@a/south")
    file = accounts_support.write(
        tmp_path,
        monkeypatch,
        north_a={"admin_key_env": "NORTH_ADMIN", "max_queued_requests": 400_000},
        south={"admin_key_env": "SOUTH_ADMIN"},
    )
    return make_pipeline(accounts=file)


def limit_of(pipeline: Pipeline, organisation: str) -> int:
    declared = pipeline.accounts.queue_limit(organisation.rpartition(".")[2])
    with pipeline.ledger.read() as connection:
        return organisations.get(connection, organisation).queue_limit(declared)


def test_the_api_s_limit_counts_where_it_is_smaller_and_is_read_once_a_day(
    pipeline: Pipeline, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.set_queue_limit(300_000, "north")
    sim.set_queue_limit(500_000, "south")
    assert account_probes.read_limits(pipeline) == {}
    found = {name: limit_of(pipeline, f"simulator.{name}") for name in ("north", "south")}
    assert found == {"north": 300_000, "south": 500_000}
    sim.set_queue_limit(100_000, "south")
    organisation_limits.refresh(pipeline, ["simulator.north_a", "simulator.south"])
    assert limit_of(pipeline, "simulator.south") == 500_000
    # A day later. Where the API gives no limit, the former one holds.
    with pipeline.ledger.write() as connection:
        connection.execute(sa.update(tables.organisation).values(limit_read_at=0.0))
    refused = {"kind": "error", "status": 403, "type": "permission_error"}
    sim.set_faults(Faults.of(admin={"script": [refused]}))
    organisation_limits.refresh(pipeline, ["simulator.south"])
    organisation_limits.refresh(pipeline, ["simulator.south"])
    assert sim.books.faults == {"admin.error_403": 1}
    assert limit_of(pipeline, "simulator.south") == 500_000
    # An hour later.
    monkeypatch.setattr(organisation_limits, "AGAIN_SECONDS", 0.0)
    organisation_limits.refresh(pipeline, ["simulator.south"])
    assert limit_of(pipeline, "simulator.south") == 100_000


def test_an_admin_key_of_another_organisation_is_refused(
    pipeline: Pipeline, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    account_probes.probe(pipeline, ["south"])
    monkeypatch.setenv("SOUTH_ADMIN", "admin@a/north")
    with pytest.raises(AccountError, match="Set an admin key of that one in SOUTH_ADMIN"):
        organisation_limits.read(pipeline, "south")
    assert list(account_probes.read_limits(pipeline)) == ["south"]
    monkeypatch.delenv("SOUTH_ADMIN")
    with pytest.raises(UsageError, match="SOUTH_ADMIN"):
        organisation_limits.read(pipeline, "south")
