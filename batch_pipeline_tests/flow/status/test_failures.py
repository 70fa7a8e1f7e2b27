"""Failures of nights: what is recorded of an error, and who is told where nothing can be."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import (
    AccountError,
    ApiUnavailableError,
    DeclarationError,
    GateClosedError,
    InputDataError,
    LedgerError,
    NoCredentialsError,
    StorageError,
    UsageError,
)
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import failures, progress, warnings
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.flow.status.test_alerts import Receiver
from batch_pipeline_tests.support import PARTITION, documents, job, write_rows

FULL = OSError(errno.ENOSPC, "No space left on device")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "passes"),
    [
        (NoCredentialsError("no key"), "account", True),
        (AccountError("refused"), "account", True),
        (ApiFailure(402, "billing_error", None, "no credit"), "account", True),
        (ApiUnavailableError("down"), "api", True),
        (ApiFailure(None, None, None, "reset"), "api", True),
        (StorageError("gone"), "storage", True),
        (FULL, "storage", True),
        (caused(LedgerError("no answer"), sa.exc.OperationalError("", {}, FULL)), "storage", True),
        (LedgerError("another home's"), "ledger", False),
        (InputDataError("no file"), "invalid_input_data", False),
        (UsageError("no such setting"), "usage", False),
        (ZeroDivisionError("x"), "internal", False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_has_a_code_a_reason_and_a_remedy(
    error: Exception, code: str, passes: bool
) -> None:
    spec = job("/in.jsonl")
    found = failures.explain(spec, "2026-01-02", error, "/home")
    assert (found.code, failures.passes(error, "/home")) == (code, passes)
    assert found.reason
    assert not found.reason.endswith(".")
    assert "`batch-pipeline run review --partition 2026-01-02`" in found.remedy


def test_a_failure_stays_until_such_a_step_ends_well(make_pipeline: MakePipeline) -> None:
    pipeline, spec = make_pipeline(), job("/in.jsonl")

    def step(name: str, error: Exception | None = None) -> tuple[str, str] | None:
        try:
            with failures.recorded(pipeline, spec, PARTITION, step=name, by="me"):
                if error is not None:
                    raise error
        except type(error or Exception()):
            pass
        with pipeline.ledger.read() as connection:
            [night] = nights.list_nights(connection)
        return None if night.failure is None else (night.failure["code"], night.failure["step"])

    assert step("input_dataset", InputDataError("no file")) == (
        "invalid_input_data",
        "input_dataset",
    )
    assert step("collect") == ("invalid_input_data", "input_dataset")
    assert step("input_dataset") is None
    assert step("submit", FULL) == ("storage", "submit")
    assert step("run") is None
    # What a gate holds back is the night's state.
    assert step("submit", GateClosedError("the pilot's gate is closed")) is None


def test_a_night_that_has_come_to_its_gate_no_longer_tells_what_failed_before(
    make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"id": str(n), "text": None} for n in range(20)])
    pipeline, spec = make_pipeline(), job(source, pilot={"size": 2, "review": "required"})

    def ended(error: type[Exception]) -> Progress:
        with (
            pytest.raises(error),
            failures.recorded(pipeline, spec, PARTITION, step=failures.WHOLE, by="me"),
        ):
            run(pipeline, spec, PARTITION)
        with pipeline.ledger.read() as connection:
            [night] = nights.list_nights(connection)
            return progress.of_night(connection, night.id)

    assert ended(InputDataError).night.failure is not None
    write_rows(source, documents(20))
    state = ended(GateClosedError)
    assert state.night.failure is None
    assert "cannot be sent" not in str(warnings.of(state, spec.alerts))


def test_a_key_that_is_good_again_is_no_second_alert(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """The run that goes on meets with the failure of the one before, until it ends well."""
    spec = job(write_rows(tmp_path / "in.jsonl", documents(3)), pilot={"size": 0})
    run(make_pipeline(), spec, "all")

    def again() -> None:
        pipeline = make_pipeline()
        with failures.recorded(pipeline, spec, PARTITION, step="run", by="me"):
            run(pipeline, spec, PARTITION)

    spec = spec.model_copy(update={"name": "other"})
    sim.set_faults(Faults.of(outages=[{"from_call": 1, "fault": {"kind": "revoked_key"}}]))
    with pytest.raises(AccountError):
        again()
    sim.set_faults(Faults())
    again()
    with make_pipeline().ledger.read() as connection:
        assert list(connection.scalars(sa.select(tables.alert.c.code))) == ["key_refused"]


def test_an_accounts_file_that_cannot_be_read_is_told_as_a_failed_night(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    receiver = Receiver()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tmp_path / "accounts.yaml"
    file.write_text("a: {key_evn: A}\n")
    pipeline = make_pipeline(alert_urls=receiver.url, accounts=file)
    spec = job("/in.jsonl")
    with (
        pytest.raises(DeclarationError),
        failures.recorded(pipeline, spec, PARTITION, step="input_dataset", by="me"),
    ):
        pipeline.owner(spec)
    receiver.server.shutdown()
    assert receiver.titles == ["review all: the night has failed"]
    assert "key_evn" in receiver.received[0]["message"]


def test_a_wrong_command_in_a_new_home_leaves_nothing_behind(make_pipeline: MakePipeline) -> None:
    pipeline = make_pipeline()
    with (
        pytest.raises(UsageError),
        failures.recorded(pipeline, job("/in.jsonl"), PARTITION, step="run", by="me"),
    ):
        raise NoCredentialsError("set a key")
    with pipeline.ledger.read() as connection:
        assert nights.list_nights(connection) == []


def test_what_the_ledger_cannot_hold_is_told_all_the_same(
    make_pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once an hour, whichever process meets with it."""
    receiver = Receiver()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(_: Ledger) -> None:
        raise sa.exc.OperationalError("INSERT", {}, FULL)

    monkeypatch.setattr(Ledger, "write", full)
    for _ in range(2):
        pipeline = make_pipeline(alert_urls=receiver.url)
        with (
            pytest.raises(OSError, match="No space"),
            failures.recorded(pipeline, job("/in.jsonl"), PARTITION, step="run", by="me"),
        ):
            raise FULL
    monkeypatch.undo()
    receiver.server.shutdown()
    assert receiver.titles == ["review all: home or ledger cannot be used"]
    assert "no room left on the disk" in receiver.received[0]["message"]
