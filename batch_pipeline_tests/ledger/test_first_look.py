"""Whether a night is in the ledger, without opening it."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.ledger import accounts, nights
from batch_pipeline.ledger.first_look import has_night
from batch_pipeline.ledger.ledger import Ledger
from batch_pipeline.settings import Settings


@pytest.mark.parametrize("in_use", [True, False])
def test_a_night_is_found_by_job_and_partition_whoever_holds_the_ledger(
    ledger_url: str, in_use: bool
) -> None:
    ledger = Ledger(ledger_url)
    with ledger.write() as connection:
        accounts.register_account(connection, "default", simulated=False)
        nights.open_night(connection, account="default", job="review", partition="2026-01-01")
    if not in_use:
        ledger.close()
    known = ledger_url.startswith("sqlite")
    for job, partition, there in (
        ("review", "2026-01-01", True),
        ("review", "2026-01-02", False),
        ("other", "2026-01-01", False),
    ):
        assert has_night(ledger_url, job, partition) is (there if known else None)
    ledger.close()


def test_where_there_is_no_ledger_yet_there_is_no_night(tmp_path: Path) -> None:
    assert has_night(f"sqlite:///{tmp_path}/none.sqlite", "review", "all") is False
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_a_file_that_is_no_ledger_is_left_to_the_ledger_itself(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    assert has_night(f"sqlite:///{path}", "review", "all") is None
    assert has_night(f"sqlite:///{path}?timeout=5", "review", "all") is None
    assert path.read_bytes() == content


def test_a_home_of_any_name_has_its_ledger_found(tmp_path: Path) -> None:
    settings = Settings.from_environment({"BATCH_PIPELINE_HOME": f"{tmp_path}/ä %23 #?b=c"})
    ledger = Ledger(settings.ledger_url)
    with ledger.write() as connection:
        accounts.register_account(connection, "default", simulated=False)
        nights.open_night(connection, account="default", job="review", partition="all")
    assert has_night(settings.ledger_url, "review", "all") is True
    ledger.close()
