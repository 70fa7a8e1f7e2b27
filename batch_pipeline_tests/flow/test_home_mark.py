"""A home that knows more than its ledger: nothing is bought again without a word."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pytest

from batch_pipeline.errors import LedgerError
from batch_pipeline.flow import home_mark, paths
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.database.backup import copy_ledger, sqlite_url
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import PARTITION, RealApi, documents, job, write_rows

ITEMS = 12


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """A job of a few documents in one batch."""
    return job(write_rows(tmp_path / "in.jsonl", documents(ITEMS)))


def lose(home: Path) -> None:
    for file in home.glob("ledger.sqlite*"):
        file.unlink()


def truncate(home: Path) -> None:
    lose(home)
    (home / "ledger.sqlite").touch()


def test_a_home_without_its_ledger_sends_nothing(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, spec: JobSpec
) -> None:
    run(made := make_pipeline(), spec, PARTITION)
    made.close()
    bought = sim.books.accepted_requests

    def refuses_to_send() -> None:
        with pytest.raises(LedgerError, match="batch-pipeline recover"):
            run(made := make_pipeline(), spec, PARTITION)
        made.close()
        assert sim.books.accepted_requests == bought

    truncate(home)
    refuses_to_send()
    lose(home)
    refuses_to_send()
    # Nor without its mark.
    lose(home)
    shutil.rmtree(home / "_ledger")
    refuses_to_send()


def test_a_ledger_in_another_place_is_told_from_the_homes_own(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, spec: JobSpec, ledger_url: str
) -> None:
    run(make_pipeline(), spec, PARTITION)
    with pytest.raises(LedgerError, match=r"last seen at sqlite:.*home/ledger\.sqlite"):
        run(make_pipeline(ledger_url=ledger_url), spec, PARTITION)
    shutil.copytree(home, other := home.with_name("other"), ignore=shutil.ignore_patterns("*lite*"))
    with pytest.raises(LedgerError, match="belongs to another ledger"):
        run(make_pipeline(home=other), spec, PARTITION)


def test_one_ledger_serves_one_home(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, spec: JobSpec, ledger_url: str
) -> None:
    run(make_pipeline(ledger_url=ledger_url), spec, PARTITION)
    with pytest.raises(LedgerError, match=f"last seen at {home}"):
        run(make_pipeline(home=home.with_name("b"), ledger_url=ledger_url), spec, PARTITION)
    home.rename(moved := home.with_name("moved"))
    assert run(make_pipeline(home=moved, ledger_url=ledger_url), spec, PARTITION).complete


def test_a_backup_is_behind_once_anything_was_sent_after_it(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, tmp_path: Path, spec: JobSpec
) -> None:
    """Sealed is enough: the batch of an intent that the backup has may be at the API."""
    sim.hold()
    backups = [tmp_path / "before.sqlite", tmp_path / "after.sqlite"]
    first = make_pipeline()
    run(first, spec, PARTITION, wait=False)
    copy_ledger(first.ledger, backups[0])
    write_rows(Path(str(spec.input.path)), documents(ITEMS + 5))
    sim.release()
    assert run(first, spec, PARTITION).complete
    copy_ledger(first.ledger, backups[1])
    bought = sim.books.accepted_requests

    with pytest.raises(LedgerError, match="is behind its home"):
        run(make_pipeline(ledger_url=sqlite_url(backups[0])), spec, PARTITION)
    assert run(make_pipeline(ledger_url=sqlite_url(backups[1])), spec, PARTITION).complete
    assert sim.books.accepted_requests == bought


def test_the_mark_is_there_before_the_last_bytes_and_not_ahead_of_the_ledger(
    sim: Simulator, make_pipeline: MakePipeline, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark that cannot be written keeps the body incomplete, and the next run goes on."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(home_mark.HomeMark, "raise_to", full)
        with pytest.raises(OSError, match="No space"):
            run(make_pipeline(), spec, PARTITION)
    assert sim.books.accepted_requests == 0
    assert run(make_pipeline(), spec, PARTITION).complete
    assert sim.books.accepted_requests == ITEMS


def test_a_home_with_its_ledger_gets_a_mark_and_what_is_settled_leaves_it(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(ITEMS))
    spec = job(source, pilot={"size": 1}, limits={"max_requests_per_batch": 6})
    run(made := make_pipeline(), spec, PARTITION)
    assert len(made.files.list(paths.SENT, ".json")) == 3
    assert run(other := make_pipeline(), spec, PARTITION).complete
    assert [marked.number for marked in other.mark.sent()] == [3]
    shutil.rmtree(home / "_ledger")
    assert run(make_pipeline(), spec, PARTITION).complete
    assert (home / "_ledger" / "home.json").exists()


@pytest.mark.parametrize("marked", [True, False], ids=["marked", "without a mark"])
def test_what_a_simulator_was_sent_does_not_hinder_a_real_account(
    sim: Simulator, make_pipeline: MakePipeline, home: Path, spec: JobSpec, marked: bool
) -> None:
    run(made := make_pipeline(), spec, PARTITION)
    made.close()
    lose(home)
    if not marked:
        shutil.rmtree(home / "_ledger")
    state = run(real := make_pipeline(api=RealApi()), spec, PARTITION)
    assert state.complete
    real.close()
    lose(home)
    for api in (RealApi(), None):
        with pytest.raises(LedgerError, match="belongs to another ledger"):
            run(make_pipeline(api=api), spec, PARTITION)


def test_a_look_at_the_mark_waits_for_no_writer(
    sim: Simulator, make_pipeline: MakePipeline, spec: JobSpec, home: Path
) -> None:
    pipeline, other = make_pipeline(), make_pipeline()
    run(pipeline, spec, PARTITION)
    before = pipeline.files.read(paths.MARK)
    with other.ledger.write():
        assert pipeline.mark.problem(simulated=True) is None
    assert pipeline.files.read(paths.MARK) == before


def test_a_home_in_an_object_store_is_marked_alike(
    sim: Simulator, make_pipeline: MakePipeline, spec: JobSpec, tmp_path: Path
) -> None:
    home = f"memory://home-{uuid.uuid4().hex}"
    ledgers = [f"sqlite:///{tmp_path / name}.sqlite" for name in "ab"]
    assert run(make_pipeline(home=home, ledger_url=ledgers[0]), spec, PARTITION).complete
    assert run(make_pipeline(home=home, ledger_url=ledgers[0]), spec, PARTITION).complete
    with pytest.raises(LedgerError, match="belongs to another ledger"):
        run(make_pipeline(home=home, ledger_url=ledgers[1]), spec, PARTITION)


def test_secrets_of_urls_are_not_shown() -> None:
    assert home_mark.location("postgresql://me:se@cret@db/x?password=y") == "postgresql://db/x"
    assert home_mark.location("s3://bucket/home") == "s3://bucket/home"
