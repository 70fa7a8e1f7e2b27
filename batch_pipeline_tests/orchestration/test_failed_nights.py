"""What an on-call person finds in the morning of a night that failed: `status`, report, one alert;
and that it goes on once its cause is gone."""

from __future__ import annotations

import errno
import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api import client
from batch_pipeline.flow.connections import Owner
from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.status import alerts, night_state, progress, warnings
from batch_pipeline.ledger import nights as ledger_nights
from batch_pipeline.ledger import ticks
from batch_pipeline.ledger.admission.night_state import Kind
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.orchestration import resources
from batch_pipeline.orchestration.names import INPUT_DATASET, asset_key
from batch_pipeline.orchestration.sensing import account_polls, run_requests
from batch_pipeline.orchestration.sensing.account_polls import Polled, Polls
from batch_pipeline.orchestration.steps import asset_steps
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.orchestration.conftest import MakeSpec
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.support import CREATE, Faults, documents, write_rows

MakeNightly = Callable[..., Nightly]
NOWHERE = {"input": {"path": "/nowhere/{partition}/*.jsonl"}}


@dataclass
class Trouble:
    """What a case is given to make its trouble, and to mend it."""

    faults: Faults
    sim: Simulator
    patch: pytest.MonkeyPatch

    def answers(self, status: int, kind: str, message: str) -> None:
        """Let the API answer all calls so."""
        body = json.dumps({"type": "error", "error": {"type": kind, "message": message}})
        self.faults.on_request = lambda _: Response(body, status, media_type="application/json")

    def mend(self) -> None:
        self.faults.on_request = lambda _: None
        self.patch.undo()


def revoked(trouble: Trouble) -> None:
    trouble.answers(401, "authentication_error", "invalid x-api-key")


def down(trouble: Trouble) -> None:
    trouble.answers(503, "api_error", "upstream")


def _raising(error: Exception) -> Callable[[Trouble], None]:
    def make(trouble: Trouble) -> None:
        def broken(*_: object, **__: object) -> None:
            raise error

        trouble.patch.setattr(input_dataset, "read_snapshot", broken)

    return make


full_disk = _raising(OSError(errno.ENOSPC, "No space left on device"))
a_bug = _raising(ZeroDivisionError("division by zero"))


def nothing(_: Trouble) -> None: ...


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is repeated or waited for, and each test has connections of its own."""
    monkeypatch.setattr(client, "READ_PAUSES", ())
    monkeypatch.setattr(run_requests, "FIRST_LOST_REST_SECONDS", 0.0)
    monkeypatch.setattr(asset_steps, "INPUT_PAUSES", ())
    monkeypatch.setattr(asset_steps, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(warnings, "OUTAGE_SECONDS", 0.0)
    # As if each test were a process of its own.
    shared = resources._shared_apis
    shared.cache_clear()
    yield
    shared.cache_clear()


@pytest.fixture
def trouble(faults: Faults, sim: Simulator) -> Iterator[Trouble]:
    """What a test can let fail."""
    with pytest.MonkeyPatch.context() as patch:
        yield Trouble(faults, sim, patch)


@pytest.fixture
def ledger(environment: Path) -> Iterator[Ledger]:
    """The ledger of the home that Dagster's runs use."""
    with Ledger(f"sqlite:///{environment}/ledger.sqlite") as opened:
        yield opened


def told(ledger: Ledger) -> list[str]:
    with ledger.read() as connection:
        return list(connection.scalars(sa.select(tables.alert.c.code)))


def states(ledger: Ledger, spec: Any) -> list[tuple[Kind, str]]:
    """Kind and whole text of each night's state, as `status` shows them."""
    with ledger.read() as connection:
        found = [
            night_state.of_progress(progress.of_night(connection, night.id), spec.alerts)
            for night in ledger_nights.worth_showing(ledger_nights.list_nights(connection))
        ]
    return [(state.kind, str(state)) for state in found]


@pytest.mark.parametrize(
    ("makes", "kind", "code", "says", "goes_on"),
    [
        (revoked, Kind.KEY_REFUSED, "key_refused", "set a key of the same workspace", True),
        (full_disk, Kind.FAILED, "home_unavailable", "no room left on the disk", True),
        (a_bug, Kind.FAILED, "night_failed", "ZeroDivisionError", False),
        (nothing, Kind.FAILED, "night_failed", "no file for this night", False),
    ],
    ids=["key revoked", "disk full", "bug", "no input files"],
)
def test_a_night_that_fails_before_its_input_is_told_and_goes_on(
    makes: Callable[[Trouble], None],
    kind: Kind,
    code: str,
    says: str,
    goes_on: bool,
    nightly: MakeNightly,
    make_spec: MakeSpec,
    nights: list[str],
    environment: Path,
    ledger: Ledger,
    trouble: Trouble,
) -> None:
    night = nights[-1]
    spec = make_spec(**(NOWHERE if makes is nothing else {}))
    job = nightly(input=spec.input)
    makes(trouble)
    assert not job.launch(night).success
    job.tick()
    job.tick()
    [(found, text)] = states(ledger, spec)
    assert (found, told(ledger)) == (kind, [code])
    assert says in text
    report = json.loads((environment / "review" / "reports" / f"{night}.json").read_text())
    assert report["complete"] is False
    assert report["failure"]["reason"]
    page = (environment / "review" / "reports" / f"{night}.html").read_text()
    assert report["failure"]["remedy"] in html.unescape(page)
    trouble.mend()
    if not goes_on:
        assert not job.tick().run_requests
        assert not job.launch(night).success or makes is a_bug
        return
    job.run_to_the_end(night)
    assert states(ledger, spec) == [(Kind.COMPLETE, "it is complete")]
    assert told(ledger) == [code]


@pytest.mark.parametrize(
    ("makes", "kind", "code"),
    [
        (revoked, Kind.KEY_REFUSED, "key_refused"),
        (down, Kind.API_UNAVAILABLE, "api_unavailable"),
    ],
    ids=["key revoked", "API down"],
)
def test_trouble_in_flight_is_told_once_and_nothing_is_asked_for_meanwhile(
    makes: Callable[[Trouble], None],
    kind: Kind,
    code: str,
    nightly: MakeNightly,
    make_spec: MakeSpec,
    nights: list[str],
    ledger: Ledger,
    trouble: Trouble,
) -> None:
    job, night, spec = nightly(), nights[-1], make_spec()
    trouble.sim.hold()
    assert job.launch(night).success
    makes(trouble)
    assert not any(job.tick().run_requests for _ in range(4))
    [(found, _)] = states(ledger, spec)
    assert (found, told(ledger)) == (kind, [code])
    with ledger.read() as connection:
        [tick] = ticks.every(connection)
    assert tick.trouble is not None
    assert tick.ok_at is None
    trouble.mend()
    trouble.sim.release()
    job.run_to_the_end(night)
    assert states(ledger, spec) == [(Kind.COMPLETE, "it is complete")]
    assert told(ledger) == [code]


def test_nights_whose_pilot_was_refused_go_on_with_their_account(
    nightly: MakeNightly,
    make_spec: MakeSpec,
    nights: list[str],
    ledger: Ledger,
    trouble: Trouble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with an executor that has a process for each step: the pilot's first look is refused."""
    job, spec, two = nightly(), make_spec(), nights[1:]
    monkeypatch.setattr(resources, "_shared_apis", resources._shared_apis.__wrapped__)
    for night in two:
        looks = iter(range(1000))

        def refused(request: Request, looks: Iterator[int] = looks) -> Response | None:
            if request.url.path != CREATE[1] or next(looks) == 0:
                return None
            body = {"type": "error", "error": {"type": "billing_error", "message": "no credit"}}
            return Response(json.dumps(body), 402, media_type="application/json")

        trouble.faults.on_request = refused
        assert not job.launch(night).success
    assert [kind for kind, _ in states(ledger, spec)] == [Kind.PAUSED] * 2
    assert told(ledger) == ["account_paused"]
    with ledger.read() as connection:
        asked = [night.asked_at for night in ledger_nights.list_nights(connection)]
    assert all(asked)
    trouble.mend()
    assert {request.partition_key for request in job.tick().run_requests} == set(two)


def test_alerts_go_out_although_the_poll_hangs(
    nightly: MakeNightly,
    nights: list[str],
    ledger: Ledger,
    trouble: Trouble,
) -> None:
    job = nightly(**NOWHERE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alerts, "look", lambda *_: set())
        assert not job.launch(nights[-1]).success
    assert told(ledger) == []
    with pytest.MonkeyPatch.context() as patch:
        polled = {"default": Polled(trouble="no answer within 25 s")}
        polls = Polls(Owner("simulator", simulated=True, accounts=("simulator",)), polled)
        patch.setattr(account_polls, "poll", lambda *_: polls)
        tick = job.tick()
    assert told(ledger) == ["night_failed"]
    assert "no answer within 25 s" in tick.skip_message
    assert "no file for this night" in tick.skip_message


def test_another_input_is_submitted_once_it_is_asked_for(
    nightly: MakeNightly, nights: list[str], ledger: Ledger, tmp_path: Path
) -> None:
    """Taking an input spends nothing, and is no leave to spend."""
    job, night = nightly(), nights[-1]

    def asked() -> bool:
        with ledger.read() as connection:
            [found] = ledger_nights.list_nights(connection)
        return found.asked_at is not None

    only_input = [asset_key(job.name, INPUT_DATASET)]
    assert job.launch(night, assets=only_input).success
    assert not asked()
    assert job.launch(night).success
    job.run_to_the_end(night)
    assert asked()
    assert job.launch(night, assets=only_input).success
    assert asked()
    write_rows(tmp_path / "input" / night / "documents.jsonl", documents(10))
    assert job.launch(night, assets=only_input).success
    assert not asked()
    assert not job.tick().run_requests
