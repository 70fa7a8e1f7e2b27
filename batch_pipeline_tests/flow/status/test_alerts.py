"""Alerts of whole nights: recorded once a cause, sent to a real receiver, never in the way."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow import steps
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import alerts, notification
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger import alerts as recorded
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts, organisations
from batch_pipeline.ledger.alerts import Alert, AlertState
from batch_pipeline.ledger.database import tables
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import PARTITION, documents, job, together, write_rows

BAD_PILOT = {"size": 3, "max_error_rate": 0.0, "max_truncated_rate": 0.0}
# Nulls are set aside without being sent: dead letters that cost nothing.
HALF_DEAD: list[dict[str, Any]] = [
    *documents(5),
    *({"id": f"null {n}", "text": None} for n in range(5)),
]


class Receiver:
    """A webhook on 127.0.0.1: what it was sent, and what it answers."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.status = 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.append(json.loads(body))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://secret-token:pw@127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def titles(self) -> list[str]:
        return [str(message["title"]) for message in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A web server that keeps the alerts it is sent."""
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An input of which half cannot be sent."""
    return write_rows(tmp_path / "input.jsonl", HALF_DEAD)


def recorded_of(pipeline: Pipeline) -> list[Alert]:
    with pipeline.ledger.read() as connection:
        [night] = nights.list_nights(connection)
        return recorded.of_night(connection, night.id)


def due_now(pipeline: Pipeline) -> None:
    """As if the rest after a failure, or the lease of a dead process, were over."""
    with pipeline.ledger.write() as connection:
        connection.execute(sa.update(tables.alert).values(next_at=0.0))


def test_a_night_tells_each_cause_once(
    make_pipeline: MakePipeline, receiver: Receiver, source: Path
) -> None:
    spec = job(source, alerts={"on_complete": True})
    for _ in range(2):
        run(make_pipeline(alert_urls=receiver.url), spec, PARTITION)
    assert receiver.titles == [
        "review all: dead letters above their limit",
        "review all: complete",
    ]
    assert "5 of the night's 10 documents are dead letters" in receiver.received[0]["message"]
    assert "5 of 10 documents succeeded" in receiver.received[1]["message"]
    assert "simulated" in receiver.received[1]["message"]
    assert [message["type"] for message in receiver.received] == ["warning", "success"]


def test_without_targets_alerts_are_logged_and_recorded(
    pipeline: Pipeline, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(pipeline, job(source), PARTITION)
    [alert] = recorded_of(pipeline)
    assert (alert.code, alert.state, alert.attempts) == ("dead_letter_rate", AlertState.LOGGED, 0)
    assert caplog.text.count("are dead letters") == 1


def test_two_processes_that_see_a_cause_send_it_once(
    make_pipeline: MakePipeline, receiver: Receiver, source: Path
) -> None:
    spec = job(source)
    state = run(make_pipeline(), spec, PARTITION)
    two = [make_pipeline(alert_urls=receiver.url) for _ in range(2)]
    strict = AlertsSpec(max_usd_per_document=Decimal("0.000001"))
    start = threading.Barrier(2)

    def look(pipeline: Pipeline) -> None:
        start.wait()
        alerts.look(pipeline, strict, state)

    together(*[partial(look, pipeline) for pipeline in two])
    assert receiver.titles == ["review all: cost per document above its limit"]


def test_a_closed_gate_is_told_before_the_run_fails(
    make_pipeline: MakePipeline, receiver: Receiver, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "input.jsonl", documents(40))
    spec = job(
        source, pilot=BAD_PILOT, max_tokens=1, alerts={"dead_letter_rate": 1}
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(GateClosedError):
            run(make_pipeline(alert_urls=receiver.url), spec, PARTITION)
    assert receiver.titles == ["review all: the pilot's gate is closed"]
    assert receiver.received[0]["type"] == "failure"


def test_an_open_breaker_is_told(
    make_pipeline: MakePipeline, receiver: Receiver, tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "input.jsonl", documents(40))
    spec = job(
        source, max_tokens=1, limits={"max_requests_per_batch": 10, "max_queued_requests": 10},
        alerts={"after_items": 5, "dead_letter_rate": 1, "error_rate": 0.5},
    )  # fmt: skip
    with pytest.raises(GateClosedError):
        run(make_pipeline(alert_urls=receiver.url), spec, PARTITION)
    assert sorted(receiver.titles) == [
        "review all: error rate above its limit",
        "review all: the circuit breaker is open",
    ]


def test_a_target_that_is_down_stops_nothing_and_gets_it_later(
    make_pipeline: MakePipeline, receiver: Receiver, source: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    down = Receiver()
    down.server.shutdown()
    down.server.server_close()
    pipeline = make_pipeline(alert_urls=f"{receiver.url} {down.url}")
    with caplog.at_level(logging.DEBUG):
        assert run(pipeline, job(source), PARTITION).complete
        [alert] = recorded_of(pipeline)
        assert (alert.state, alert.attempts, alert.delivered) == (AlertState.WAITING, 1, (0,))
        # Not before its rest is over.
        notification.send_due(pipeline)
        assert recorded_of(pipeline)[0].attempts == 1
        for _ in range(recorded.MOST_ATTEMPTS):
            due_now(pipeline)
            notification.send_due(pipeline)
    [alert] = recorded_of(pipeline)
    assert (alert.state, alert.attempts) == (AlertState.FAILED, recorded.MOST_ATTEMPTS)
    # The target that took it is spared.
    assert len(receiver.received) == 1
    assert "did not reach target 2 of BATCH_PIPELINE_ALERT_URLS" in caplog.text
    for secret in ("secret-token", "pw@", str(down.server.server_port)):
        assert secret not in caplog.text


def test_what_a_dying_process_left_is_sent_by_the_next(
    make_pipeline: MakePipeline, receiver: Receiver, source: Path
) -> None:
    receiver.status = 500
    run(make_pipeline(alert_urls=receiver.url), job(source), PARTITION)
    pipeline = make_pipeline(alert_urls=receiver.url)
    due_now(pipeline)
    with pipeline.ledger.write() as connection:
        assert len(recorded.claim(connection)) == 1  # and then it dies
    receiver.status = 200
    notification.send_due(pipeline)
    assert len(receiver.received) == 1
    due_now(pipeline)
    notification.send_due(pipeline)
    assert recorded_of(pipeline)[0].state is AlertState.SENT
    assert len(receiver.received) == 2


def test_an_address_that_is_not_understood_is_named_by_its_place(
    make_pipeline: MakePipeline, receiver: Receiver, source: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    pipeline = make_pipeline(alert_urls=f"nosuch://hidden, {receiver.url}")
    run(pipeline, job(source), PARTITION)
    assert len(receiver.received) == 1
    assert "target 1 of BATCH_PIPELINE_ALERT_URLS is no address" in caplog.text
    assert "hidden" not in caplog.text + repr(pipeline.settings)


def test_many_causes_of_a_kind_are_one_message(
    make_pipeline: MakePipeline, receiver: Receiver, source: Path
) -> None:
    pipeline = make_pipeline(alert_urls=receiver.url)
    night = steps.open_night(pipeline, job(source), PARTITION)
    causes = [
        recorded.NewAlert(night.id, f"near_expiry b{n}", "near_expiry", f"batch b{n} expires")
        for n in range(12)
    ]
    with pipeline.ledger.write() as connection:
        assert len(recorded.record(connection, causes, send=True)) == 12
        assert recorded.record(connection, causes, send=True) == []
    notification.send_due(pipeline)
    assert receiver.titles == ["review all: batches near their expiry"]
    assert "and 7 more" in receiver.received[0]["message"]
    assert {alert.state for alert in recorded_of(pipeline)} == {AlertState.SENT}


def test_a_pause_is_told_once_for_the_account_and_anew_when_it_comes_back(
    make_pipeline: MakePipeline, receiver: Receiver, source: Path
) -> None:
    pipeline = make_pipeline(alert_urls=receiver.url)
    two = [steps.open_night(pipeline, job(source, name=name), PARTITION) for name in ("a", "b")]

    def paused(reason: str) -> list[Progress]:
        with pipeline.ledger.write() as connection:
            accounts.pause_account(connection, two[0].owner, reason)
        return [steps.progress(pipeline, night) for night in two]

    for reason in ("billing_error: pay first", "billing_error: pay now"):
        for state in paused(reason):
            alerts.look(pipeline, AlertsSpec(), state)
    assert receiver.titles == ["a all: submission is paused"]
    steps.release(pipeline, two[0], resume=False)
    [later, _] = paused("billing_error: pay first")
    account = replace(later.account, paused_at=(later.account.paused_at or 0) + 60)
    alerts.look(pipeline, AlertsSpec(), replace(later, accounts=(account,)))
    assert receiver.titles == ["a all: submission is paused"] * 2


def test_a_queue_limit_above_the_apis_is_told_once_for_all_nights(
    make_pipeline: MakePipeline, receiver: Receiver, source: Path
) -> None:
    def look(limit: int) -> None:
        pipeline = make_pipeline(alert_urls=receiver.url, max_queued_requests=limit)
        for name in ("a", "b"):
            night = steps.open_night(pipeline, job(source, name=name), PARTITION)
            with pipeline.ledger.write() as connection:
                organisations.note_limit(connection, "simulator", 100)
            alerts.look(pipeline, AlertsSpec(), steps.progress(pipeline, night))

    look(100)
    assert receiver.titles == []
    for _ in range(2):
        look(250)
    assert receiver.titles == ["a all: the queue limit is set above the API's"]
    assert receiver.received[0]["type"] == "warning"
    assert (
        "BATCH_PIPELINE_MAX_QUEUED_REQUESTS is 250, and the API gives organisation simulator 100"
        in receiver.received[0]["message"]
    )
