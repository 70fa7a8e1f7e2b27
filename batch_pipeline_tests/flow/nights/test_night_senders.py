"""Nights that several accounts send: their queues, keys, lists and pauses are their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api import client
from batch_pipeline.errors import AccountError, ApiUnavailableError, UsageError
from batch_pipeline.flow import steps
from batch_pipeline.flow.connections import Apis
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.recovery.recover import recover
from batch_pipeline.flow.run import run
from batch_pipeline.flow.status import failures
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Faults as DeclaredFaults
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    Dropped,
    Faults,
    RealApi,
    accepted_twice,
    by_id,
    documents,
    error,
    is_create,
    job,
    once,
    results,
    settings,
    statuses,
    submissions_of,
    write_rows,
)

# By the name of the variable: any key of a workspace of an organisation at the simulator.
KEYS = {"A_KEY": "a-key@team-a/north", "B_KEY": "b-key@team-b/south", "C_KEY": "c-key@team-c/north"}
NORTH_AND_SOUTH = """\
a: {key_env: A_KEY, owner: research, organisation: north}
b: {key_env: B_KEY, owner: research, organisation: south}
"""
CREDIT = "Your credit balance is too low to access the Anthropic API."


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each account's key in its own variable."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)


@pytest.fixture
def declare(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the test's accounts.yaml."""

    def write(text: str) -> Path:
        file = tmp_path / "accounts.yaml"
        file.write_text(text)
        return file

    return write


def of_two(tmp_path: Path, count: int, **changes: object) -> JobSpec:
    """A job of two accounts, with batches of five."""
    source = write_rows(tmp_path / "in.jsonl", documents(count))
    declared = {"accounts": ("a", "b"), "limits": {"max_requests_per_batch": 5}}
    return job(source, **(declared | changes))


def nights_of(pipeline: Pipeline) -> list[Night]:
    with pipeline.ledger.read() as connection:
        return nights.list_nights(connection)


def sent_by(pipeline: Pipeline) -> Counter[str]:
    return Counter(each.account for each in submissions_of(pipeline) if each.batch_id is not None)


def account(pipeline: Pipeline, name: str) -> accounts.Account:
    with pipeline.ledger.read() as connection:
        return accounts.get_account(connection, name)


def key_of(request: Request) -> str:
    return request.headers["authorization"].removeprefix("Bearer ")


def is_of(request: Request, key: str) -> bool:
    return key_of(request) == KEYS[key]


def check_whole(pipeline: Pipeline, sim: Simulator, spec: JobSpec, count: int) -> None:
    """Each document has its answer, and none was bought twice."""
    rows = by_id(results(pipeline, spec))
    assert statuses(rows.values()) == {"succeeded": count}
    assert not accepted_twice(sim)


def test_two_organisations_drain_one_night(
    sim: Simulator, make_pipeline: MakePipeline, declare: Callable[[str], Path], tmp_path: Path
) -> None:
    file = declare(NORTH_AND_SOUTH.replace("}", ", max_queued_requests: 10}"))
    sim.set_queue_limit(10)
    sim.hold()
    spec = of_two(tmp_path, 45)
    pipeline = make_pipeline(accounts=file)
    state = run(pipeline, spec, PARTITION, wait=False)
    # Each organisation has a queue of its own, and both are full.
    assert (sim.queued_of("north"), sim.queued_of("south"), state.in_flight) == (10, 10, 20)
    assert state.night.owner == "simulator"
    assert state.night.accounts == ["simulator.a", "simulator.b"]
    sim.release()
    state = run(make_pipeline(accounts=file), spec, PARTITION)
    assert state.complete
    check_whole(pipeline, sim, spec, 45)
    assert sent_by(pipeline).keys() == {"simulator.a", "simulator.b"}
    assert sim.books.batches_by_workspace == {
        "team-a/north": sent_by(pipeline)["simulator.a"],
        "team-b/south": sent_by(pipeline)["simulator.b"],
    }
    assert max(sim.books.highest_queue_of(name) for name in ("north", "south")) == 10
    assert state.total_cost_usd == sim.books.batch_cost_usd


def test_two_workspaces_of_one_organisation_share_its_queue(
    sim: Simulator, make_pipeline: MakePipeline, declare: Callable[[str], Path], tmp_path: Path
) -> None:
    file = declare(
        "a: {key_env: A_KEY, owner: research, organisation: north, workspace: one, "
        "max_queued_requests: 5}\n"
        "c: {key_env: C_KEY, owner: research, organisation: north, workspace: two}\n"
    )
    sim.hold()
    spec = of_two(tmp_path, 15, accounts=("a", "c"))
    pipeline = make_pipeline(accounts=file)
    assert run(pipeline, spec, PARTITION, wait=False).in_flight == 5
    assert sim.queued == 5
    sim.release()
    assert run(pipeline, spec, PARTITION).complete
    check_whole(pipeline, sim, spec, 15)
    assert sim.books.highest_queue_of("north") == 5


def test_two_names_of_one_organisation_are_refused(
    sim: Simulator, make_pipeline: MakePipeline, declare: Callable[[str], Path], tmp_path: Path
) -> None:
    file = declare("a: {key_env: A_KEY, owner: research}\nc: {key_env: C_KEY, owner: research}\n")
    spec = of_two(tmp_path, 5, accounts=("a", "c"))
    pipeline = make_pipeline(accounts=file)
    assert run(pipeline, spec, PARTITION).complete
    # One of them sends; the other would overrun the queue that both share.
    assert sent_by(pipeline) == {"simulator.a": 1}
    refused = account(pipeline, "simulator.c").refused
    assert refused is not None
    assert "same `organisation`" in refused["reason"]


def test_an_account_that_is_refused_pauses_itself_alone(
    sim: Simulator,
    faults: Faults,
    make_pipeline: MakePipeline,
    declare: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    refused = error(400, "invalid_request_error", CREDIT)
    faults.on_request = lambda request: (
        refused if is_create(request) and is_of(request, "A_KEY") else None
    )
    spec = of_two(tmp_path, 20)
    pipeline = make_pipeline(accounts=declare(NORTH_AND_SOUTH))
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    check_whole(pipeline, sim, spec, 20)
    assert sent_by(pipeline) == {"simulator.b": 4}
    assert CREDIT in str(account(pipeline, "simulator.a").paused_reason)
    assert account(pipeline, "simulator.b").paused_reason is None
    assert state.account.paused_reason is None


@pytest.mark.parametrize("how", ["refused", "not set", "down"])
def test_an_account_that_cannot_be_used_at_the_start_leaves_the_others(
    how: str,
    sim: Simulator,
    faults: Faults,
    make_pipeline: MakePipeline,
    declare: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("batch_pipeline.api.client.READ_PAUSES", ())
    if how == "not set":
        monkeypatch.delenv("A_KEY")
    answer = (
        error(401, "authentication_error", "invalid x-api-key")
        if how == "refused"
        else Response("<html>502 Bad Gateway</html>", 502, media_type="text/html")
    )
    faults.on_request = lambda request: answer if is_of(request, "A_KEY") else None
    spec = of_two(tmp_path, 10)
    pipeline = make_pipeline(accounts=declare(NORTH_AND_SOUTH))
    assert run(pipeline, spec, PARTITION).complete
    assert sent_by(pipeline) == {"simulator.b": 2}
    found = account(pipeline, "simulator.a")
    noted = found.unanswered if how == "down" else found.refused
    assert noted is not None
    told = {"refused": "invalid x-api-key", "not set": "A_KEY is not set", "down": "502"}[how]
    assert told in noted["reason"]

    if how != "not set":
        return
    # It is used again, and no longer told, once it works.
    monkeypatch.setenv("A_KEY", KEYS["A_KEY"])
    faults.on_request = lambda _: None
    more = of_two(tmp_path, 20, name="more")
    again = make_pipeline(accounts=tmp_path / "accounts.yaml")
    assert run(again, more, PARTITION).complete
    assert "simulator.a" in sent_by(again)
    assert account(again, "simulator.a").refused is None


def test_an_account_that_does_not_answer_is_not_asked_with_every_poll(
    sim: Simulator,
    faults: Faults,
    make_pipeline: MakePipeline,
    declare: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call can take minutes to fail, and the other accounts wait for it."""
    monkeypatch.setattr("batch_pipeline.api.client.READ_PAUSES", ())
    sim.hold()
    pipeline = make_pipeline(accounts=declare(NORTH_AND_SOUTH), poll_seconds=60)
    run(pipeline, of_two(tmp_path, 10), PARTITION, wait=False)
    asked: Counter[str] = Counter()

    def down(request: Request) -> Response | None:
        asked[key_of(request)] += 1
        return error(503, "api_error", "down") if is_of(request, "A_KEY") else None

    faults.on_request = down
    for _ in range(3):
        steps.poll_accounts(pipeline, "simulator", ["simulator.a", "simulator.b"])
    assert asked == {KEYS["A_KEY"]: 1, KEYS["B_KEY"]: 3}
    assert account(pipeline, "simulator.a").unanswered is not None


def test_what_an_account_has_in_flight_waits_for_its_own_key(
    sim: Simulator,
    faults: Faults,
    make_pipeline: MakePipeline,
    declare: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    file = declare(NORTH_AND_SOUTH.replace("}", ", max_queued_requests: 5}"))
    sim.hold()
    spec = of_two(tmp_path, 20)
    pipeline = make_pipeline(accounts=file)
    run(pipeline, spec, PARTITION, wait=False)
    assert sent_by(pipeline) == {"simulator.a": 1, "simulator.b": 1}
    revoked = error(401, "authentication_error", "the key was revoked")
    faults.on_request = lambda request: revoked if is_of(request, "A_KEY") else None
    sim.release()
    for _ in range(3):
        state = run(pipeline, spec, PARTITION, wait=False)
        sim.release()
    # The other account has taken the rest; what the revoked key sent is not sent again.
    assert sent_by(pipeline) == {"simulator.a": 1, "simulator.b": 3}
    assert (state.complete, state.in_flight, state.waiting) == (False, 5, 0)
    assert account(pipeline, "simulator.a").refused is not None
    faults.on_request = lambda _: None
    assert run(pipeline, spec, PARTITION).complete
    check_whole(pipeline, sim, spec, 20)
    assert account(pipeline, "simulator.a").refused is None


@pytest.mark.parametrize("made", [True, False], ids=["made", "never made"])
def test_a_create_that_was_lost_stays_with_its_account(
    made: bool,
    sim: Simulator,
    faults: Faults,
    make_pipeline: MakePipeline,
    declare: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    def lose(request: Request, response: Response) -> Response | None:
        return Dropped() if is_create(request) and is_of(request, "A_KEY") else None

    spec = of_two(tmp_path, 10, limits={"max_requests_per_batch": 10})
    pipeline = make_pipeline(accounts=declare(NORTH_AND_SOUTH), reconcile_seconds=0.3)
    if made:
        faults.on_response = once(lose)
    else:
        gone = {"left": 1}

        def refuse(request: Request) -> Response | None:
            if is_create(request) and is_of(request, "A_KEY") and gone["left"]:
                gone["left"] -= 1
                return Dropped()
            return None

        faults.on_request = refuse
    assert run(pipeline, spec, PARTITION).complete
    check_whole(pipeline, sim, spec, 10)
    tried = submissions_of(pipeline)
    assert {each.account for each in tried} == {"simulator.a"}
    assert [each.state for each in tried] == (
        [State.COLLECTED] if made else [State.ABSENT, State.COLLECTED]
    )
    assert sim.books.batches_by_workspace == {"team-a/north": 1}


def test_an_account_gets_a_name_while_its_batches_are_in_flight(
    sim: Simulator,
    make_pipeline: MakePipeline,
    declare: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the-first@team-a/north")
    sim.hold()
    source = write_rows(tmp_path / "in.jsonl", documents(10))
    limits = {"max_requests_per_batch": 5}
    before = make_pipeline(max_queued_requests=5)
    run(before, job(source, limits=limits), PARTITION, wait=False)
    assert sent_by(before) == {"simulator": 1}

    monkeypatch.setenv("ANTHROPIC_API_KEY", "of-another-team@team-z/far")
    spec = job(source, limits=limits, accounts=("a",))
    after = make_pipeline(
        accounts=declare("a: {key_env: A_KEY, organisation: north, max_queued_requests: 5}\n")
    )
    # The queue of the organisation is known to be full.
    assert run(after, spec, PARTITION, wait=False).in_flight == 5
    sim.release()
    state = run(after, spec, PARTITION)
    assert state.complete
    check_whole(after, sim, spec, 10)
    assert sent_by(after) == {"simulator": 1, "simulator.a": 1}
    assert sim.books.batches_by_workspace == {"team-a/north": 2}


def test_a_lost_ledger_is_rebuilt_with_owner_and_accounts(
    sim: Simulator,
    make_pipeline: MakePipeline,
    declare: Callable[[str], Path],
    tmp_path: Path,
    home: Path,
) -> None:
    file = declare(NORTH_AND_SOUTH.replace("}", ", max_queued_requests: 10}"))
    spec = of_two(tmp_path, 40)
    first = make_pipeline(accounts=file)
    run(first, spec, PARTITION, wait=False)
    steps.poll_accounts(first, "simulator", ["simulator.a", "simulator.b"])
    [night] = nights_of(first)
    assert steps.collect_ended(first, spec, night) == 4
    sim.hold()
    run(first, spec, PARTITION, wait=False)
    before = {each.token: each.account for each in submissions_of(first)}
    assert len(before) == 8
    first.close()
    for lost in home.glob("ledger.sqlite*"):
        lost.unlink()

    sim.release()
    second = make_pipeline(accounts=file)
    found = recover(second)
    assert found.complete
    assert found.accounts == ["simulator.a", "simulator.b"]
    [night] = nights_of(second)
    assert night.owner == "simulator"
    assert {each.token: each.account for each in submissions_of(second)} == before
    assert not account(second, "simulator").sends
    assert run(second, spec, PARTITION).complete
    check_whole(second, sim, spec, 40)


def test_calls_are_made_by_both_accounts_and_one_that_is_refused_leaves_the_other(
    sim: Simulator,
    faults: Faults,
    make_pipeline: MakePipeline,
    declare: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    calls: Counter[str] = Counter()
    refused = error(400, "invalid_request_error", CREDIT)

    def count(request: Request) -> Response | None:
        if request.url.path != "/v1/messages":
            return None
        key = key_of(request)
        calls[key] += 1
        return refused if key == KEYS["A_KEY"] and calls[key] > 5 else None

    faults.on_request = count
    spec = of_two(
        tmp_path, 60, mode="realtime", realtime={"concurrency": 4, "checkpoint_every": 5},
        limits={"max_requests_per_batch": 10},
    )  # fmt: skip
    pipeline = make_pipeline(accounts=declare(NORTH_AND_SOUTH))
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    rows = by_id(results(pipeline, spec))
    assert statuses(rows.values()) == {"succeeded": 60}
    assert calls[KEYS["B_KEY"]] == 55
    assert account(pipeline, "simulator.a").paused_reason is not None
    assert account(pipeline, "simulator.b").paused_reason is None
    assert state.total_cost_usd == sim.books.realtime_cost_usd


def test_a_simulator_and_the_api_do_not_share_a_job(
    sim: Simulator, declare: Callable[[str], Path], tmp_path: Path, home: Path
) -> None:
    from batch_pipeline.api.client import AnthropicApi  # noqa: PLC0415

    apis = Apis(lambda spec: (RealApi if spec.key_env == "A_KEY" else AnthropicApi)(account=spec))
    with Pipeline(settings(home, accounts=declare(NORTH_AND_SOUTH)), apis=apis) as pipeline:
        with pytest.raises(AccountError, match=r"must not mix"):
            steps.open_night(pipeline, of_two(tmp_path, 5), PARTITION)
        assert nights_of(pipeline) == []


def test_an_owner_that_would_leave_nights_behind_is_refused(
    sim: Simulator, declare: Callable[[str], Path], tmp_path: Path, home: Path
) -> None:
    apis = Apis(lambda spec: RealApi(account=spec))
    spec = of_two(tmp_path, 5, accounts=("a",))
    file = declare("a: {key_env: A_KEY}\n")
    with Pipeline(settings(home, accounts=file), apis=apis) as pipeline:
        assert steps.open_night(pipeline, spec, PARTITION).owner == "a"
    declare(NORTH_AND_SOUTH)
    with (
        Pipeline(settings(home, accounts=file), apis=apis) as pipeline,
        pytest.raises(UsageError, match="owner: a"),
    ):
        steps.open_night(pipeline, of_two(tmp_path, 5), PARTITION)
    declare(NORTH_AND_SOUTH.replace("research", "a"))
    with Pipeline(settings(home, accounts=file), apis=apis) as pipeline:
        night = steps.open_night(pipeline, of_two(tmp_path, 5), PARTITION)
        assert (night.owner, night.accounts) == ("a", ["a", "b"])


def test_each_account_is_told_for_its_own_reason(
    sim: Simulator,
    make_pipeline: MakePipeline,
    declare: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where none can be used: the error of the run is that of one whose API may answer again."""
    monkeypatch.setattr(client, "READ_PAUSES", ())
    nowhere = "base_url: http://127.0.0.1:9"
    [first, second] = NORTH_AND_SOUTH.splitlines()
    file = declare("\n".join([first, second.replace("}", f", {nowhere}}}")]))
    revoked = {"from_call": 1, "fault": {"kind": "revoked_key"}}
    sim.set_faults(DeclaredFaults.of(outages=[revoked]))
    pipeline, spec = make_pipeline(accounts=file), of_two(tmp_path, 5)
    with (
        pytest.raises(ApiUnavailableError, match="account b: "),
        failures.recorded(pipeline, spec, PARTITION, step=failures.WHOLE, by="me"),
    ):
        run(pipeline, spec, PARTITION, wait=False)
    a, b = account(pipeline, "a"), account(pipeline, "b")
    assert (a.key_refused is not None, a.unanswered) == (True, None)
    assert (b.key_refused, b.unanswered is not None) == (None, True)
