"""Opening a ledger, its transactions, and what it says when it cannot be used."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.errors import LedgerError
from batch_pipeline.ledger import nights, shards, snapshots
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database import ledger as database
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.amounts import usd_of, usd_sum
from batch_pipeline.ledger.database.backup import copy_ledger, sqlite_url
from batch_pipeline.ledger.database.ledger import Ledger, now
from batch_pipeline.ledger.submissions import submissions, transitions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.ledger.sums import Counts
from batch_pipeline_tests.ledger.conftest import a_night, a_shard, a_snapshot, accept, begun
from batch_pipeline_tests.support import together


def test_a_transaction_under_way_closes_what_it_uses(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    begun, closed = threading.Event(), threading.Event()

    def write() -> None:
        with ledger.write() as connection:
            begun.set()
            assert closed.wait(10)
            accounts.register_account(connection, "late", simulated=False)

    thread = threading.Thread(target=write)
    thread.start()
    assert begun.wait(10)
    ledger.close()
    closed.set()
    thread.join()
    with pytest.raises(LedgerError, match="closed"), ledger.read():
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.sqlite"]
    with Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as again, again.read() as connection:
        assert accounts.get_account(connection, "late").name == "late"


def test_a_newer_schema_is_refused(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    with ledger.write() as connection:
        connection.execute(sa.update(tables.schema).values(version=tables.SCHEMA_VERSION + 1))
    ledger.close()
    with pytest.raises(LedgerError, match="install the newer batch-pipeline"):
        Ledger(ledger_url)


def test_what_was_written_is_there_for_the_next_process(ledger_url: str) -> None:
    first, second = Ledger(ledger_url), Ledger(ledger_url)
    with first.write() as connection:
        accounts.register_account(connection, "one", simulated=True)
    with second.read() as connection:
        assert accounts.get_account(connection, "one").simulated
        versions = connection.scalars(sa.select(tables.schema.c.version)).all()
    assert versions == [tables.SCHEMA_VERSION]
    first.close()
    second.close()


def test_a_read_sees_the_ledger_as_it_was_at_its_begin(ledger_url: str) -> None:
    """Else the sums of a night and its rows, read in turn, might not belong together."""
    with Ledger(ledger_url) as ledger:
        with ledger.read() as connection:
            names = sa.select(tables.account.c.name)
            assert connection.scalars(names).all() == []
            with ledger.write() as other:
                accounts.register_account(other, "one", simulated=True)
            assert connection.scalars(names).all() == []
        with ledger.read() as connection:
            assert connection.scalars(names).all() == ["one"]


def test_a_backup_is_a_whole_ledger(ledger_url: str, tmp_path: Path) -> None:
    backup = tmp_path / "backup.sqlite"
    with Ledger(ledger_url) as ledger:
        with ledger.write() as connection:
            accounts.register_account(connection, "default", simulated=False)
            submission = begun(connection, a_night(connection, 10))
        rows = copy_ledger(ledger, backup)
    assert (rows["night"], rows["shard"], rows["submission"]) == (1, 1, 1)
    with Ledger(sqlite_url(backup)) as copy, copy.read() as connection:
        assert submissions.get(connection, submission.id) == submission


def test_many_processes_may_open_a_new_ledger_at_once(ledger_url: str) -> None:
    together(*[lambda: Ledger(ledger_url).close()] * 6)


def test_a_transaction_that_fails_changes_nothing(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)

    def fail() -> None:
        with ledger.write() as connection:
            accounts.register_account(connection, "one", simulated=True)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with ledger.read() as connection:
        assert connection.execute(sa.select(tables.account)).all() == []
    ledger.close()


def test_writers_take_turns_from_their_first_read(ledger_url: str) -> None:
    """Each adds one to what it has read: with writers side by side, additions would be lost."""
    ledger = Ledger(ledger_url)
    with ledger.write() as connection:
        accounts.register_account(connection, "one", simulated=True)
    rounds = 10

    def add() -> None:
        own = Ledger(ledger_url)
        for _ in range(rounds):
            with own.write() as connection:
                account = accounts.get_account(connection, "one")
                accounts.pause_account(connection, "one", str(int(account.paused_reason or 0) + 1))
        own.close()

    together(*[add] * 3)
    with ledger.read() as connection:
        assert accounts.get_account(connection, "one").paused_reason == str(3 * rounds)
    ledger.close()


def test_the_clock_is_the_databases(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    with ledger.read() as connection:
        first, second = now(connection), now(connection)
    # SQLite's clock has milliseconds, and freezes for a statement, not for a transaction.
    assert abs(first - time.time()) < 5
    assert second >= first
    ledger.close()


def test_amounts_are_exact(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    amounts = [Decimal("0.000000000001"), Decimal("123456.123456789012")]
    with ledger.write() as connection:
        accounts.register_account(connection, "one", simulated=True)
        night = nights.open_night(connection, "job", "all", "one")
        snapshots.replace_snapshot(connection, night, a_snapshot(), {})
        night = nights.get_night(connection, night.id)
        new = [replace(a_shard(1), usd_bound=amount) for amount in amounts]
        shards.add_shards(connection, night, new, open_requests=0)
        assert [s.usd_bound for s in shards.list_shards(connection, night.id)] == amounts
        total = connection.scalar(sa.select(sa.func.sum(tables.shard.c.usd_bound)))
        assert total == sum(amounts)
    ledger.close()


def test_a_ledger_that_cannot_be_opened_says_what_to_check(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"this is no database, whatever its name may say" * 9)
    with pytest.raises(LedgerError, match="BATCH_PIPELINE_LEDGER_URL"):
        Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")


def test_a_driver_that_is_not_installed_is_named() -> None:
    with pytest.raises(LedgerError, match=r"install batch-pipeline\[postgres\]"):
        Ledger("postgresql+driver_of_tomorrow://host/db")


def test_sums_of_amounts_are_exact_beyond_64_bits(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    amounts = [Decimal("9000000.000000000001")] * 3
    with ledger.write() as connection:
        accounts.register_account(connection, "default", simulated=True)
        night = a_night(connection)
        new = [replace(a_shard(1), usd_bound=amount) for amount in amounts]
        shards.add_shards(connection, night, new, open_requests=0)
        query = sa.select(*usd_sum(tables.shard.c.usd_bound))
        assert usd_of(*connection.execute(query).one()) == sum(amounts)
        nothing = query.where(tables.shard.c.id < 0)
        assert usd_of(*connection.execute(nothing).one()) == 0
    ledger.close()


@pytest.mark.parametrize("version", [1, 2])
def test_a_ledger_from_before_the_first_release_is_refused(ledger_url: str, version: int) -> None:
    engine = sa.create_engine(ledger_url)
    with engine.begin() as connection:
        tables.schema.create(connection)
        connection.execute(sa.insert(tables.schema).values(version=version))
    with pytest.raises(LedgerError, match=f"schema version {version}.*begin a new ledger"):
        Ledger(ledger_url)
    assert sa.inspect(engine).get_table_names() == ["schema_version"]
    engine.dispose()


def test_an_older_ledger_is_brought_up_with_its_batch_in_flight(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From this version to a made-up next one that adds columns, an index and a table."""
    ledger = Ledger(ledger_url)
    with ledger.write() as connection:
        accounts.register_account(connection, "default", simulated=True)
        night = a_night(connection, 5)
        accept(connection, begun(connection, night))
    ledger.close()
    grown = sa.MetaData()
    for table in tables.metadata.sorted_tables:
        table.to_metadata(grown)
    added = sa.Column("region", sa.String(20), nullable=False, server_default="everywhere")
    grown.tables["submission"].append_column(added)
    grown.tables["submission"].append_column(sa.Column("note", sa.Text))
    sa.Index("submission_by_region", added)
    sa.Table("region", grown, sa.Column("name", sa.String(20), primary_key=True))
    monkeypatch.setattr(tables, "metadata", grown)
    monkeypatch.setattr(tables, "SCHEMA_VERSION", tables.SCHEMA_VERSION + 1)
    for _ in range(2):
        ledger = Ledger(ledger_url)
        with ledger.write() as connection:
            assert connection.scalar(sa.select(tables.schema.c.version)) == tables.SCHEMA_VERSION
            [accepted] = submissions.of_night(connection, night.id, State.ACCEPTED)
            added_columns = sa.text("SELECT region, note FROM submission")
            assert connection.execute(added_columns).all() == [("everywhere", None)]
            found = sa.inspect(connection)
            assert "region" in found.get_table_names()
            indexes = {index["name"] for index in found.get_indexes("submission")}
            assert indexes >= {index.name for index in grown.tables["submission"].indexes}
        ledger.close()
    ledger = Ledger(ledger_url)
    with ledger.write() as connection:
        transitions.end(connection, accepted)
        assert transitions.collect(connection, accepted, Counts(open=2), Decimal("0.5"))
        assert nights.get_night(connection, night.id).open_requests == 2
    ledger.close()


def test_the_ledgers_clock_goes_on_evenly_while_the_time_of_day_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It follows once nothing is under way whose lease or wait it measures."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    with Ledger(url) as opened, opened.write() as connection:
        accounts.register_account(connection, "default", simulated=True)
        intent = begun(connection, a_night(connection, 3))
        before = now(connection)
    honest = database._time_of_day
    monkeypatch.setattr(database, "_time_of_day", lambda connection: honest(connection) + 3_600)
    with Ledger(url) as opened, opened.write() as connection:
        assert before <= now(connection) < before + 60
        transitions.give_back(connection, intent, State.ABSENT, "as a test has it")
    with Ledger(url) as opened, opened.read() as connection:
        assert before + 3_600 <= now(connection) < before + 3_660
