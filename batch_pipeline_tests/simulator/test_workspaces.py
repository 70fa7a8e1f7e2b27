"""Several organisations and workspaces, told by the key of a call."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic
from anthropic.lib.credentials import WorkloadIdentityCredentials

from batch_pipeline.simulator import Faults, MessageLimits, Simulator, Workspace, running_simulator
from batch_pipeline_tests.simulator.conftest import params, raw_http, requests, sdk

DEFAULT = "any"
TEAM_A, TEAM_B, ELSEWHERE = "any@team-a/north", "other@team-b/north", "any@team-a/south"
WORKSPACES = {
    DEFAULT: Workspace(),
    TEAM_A: Workspace("team-a", "north"),
    TEAM_B: Workspace("team-b", "north"),
    ELSEWHERE: Workspace("team-a", "south"),
}


def of_key(sim: Simulator, key: str) -> Anthropic:
    return sdk(sim).with_options(api_key=key)


def report(sim: Simulator, key: str, name: str, group_by: list[str]) -> list[dict[str, Any]]:
    today = datetime.now(UTC).strftime("%Y-%m-%dT00:00:00Z")
    days = {"starting_at": today, "ending_at": "2099-01-01T00:00:00Z"}
    with raw_http(sim) as http:
        answer = http.get(
            f"/v1/organizations/{name}",
            params={**days, "group_by[]": group_by},
            headers={"x-api-key": key},
        )
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["data"][0]["results"]
    return found


def test_batches_are_a_workspace_s_own(sim: Simulator) -> None:
    made = {
        key: of_key(sim, key).messages.batches.create(requests=requests(2)).id for key in WORKSPACES
    }
    sim.create_foreign_batch(1, "team-b", "north")
    for key in WORKSPACES:
        batches = of_key(sim, key).messages.batches
        listed = [batch.id for batch in batches.list()]
        assert (listed[-1], len(listed)) == (made[key], 2 if key == TEAM_B else 1)
        assert len(list(batches.results(made[key]))) == 2
        for other in set(made.values()) - {made[key]}:
            for call in (batches.retrieve, batches.cancel, batches.results, batches.delete):
                with pytest.raises(anthropic.NotFoundError):
                    call(other)
    assert sim.books.batches_by_workspace == {str(one): 1 for one in WORKSPACES.values()}
    assert {key: bool(usd) for key, usd in sim.books.cost_by_workspace.items()} == {
        str(one): True for one in WORKSPACES.values()
    }


def test_the_queue_and_the_rate_limits_are_an_organisation_s() -> None:
    with running_simulator(queue_limit=10) as sim:
        sim.hold()
        sim.set_queue_limit(3, "south")

        def create(key: str, count: int) -> None:
            of_key(sim, key).messages.batches.create(requests=requests(count))

        create(TEAM_A, 6)
        create(TEAM_B, 4)
        for key, refused in ((TEAM_A, 1), (TEAM_B, 1), (ELSEWHERE, 4)):
            with pytest.raises(anthropic.RateLimitError, match="processing queue"):
                create(key, refused)
        create(ELSEWHERE, 3)
        create(DEFAULT, 10)
        queued = {name: sim.queued_of(name) for name in ("north", "south", "default")}
        assert queued == {"north": 10, "south": 3, "default": 10}
        assert (sim.queued, sim.books.highest_queue_of("north")) == (23, 10)

        sim.set_message_limits(MessageLimits(requests=1), "north")
        of_key(sim, TEAM_A).messages.create(**params())
        with pytest.raises(anthropic.RateLimitError):
            of_key(sim, TEAM_B).messages.create(**params())
        for _ in range(2):
            of_key(sim, ELSEWHERE).messages.create(**params())


def test_an_admin_key_reads_its_organisation_s_limits_and_bills(sim: Simulator) -> None:
    sim.set_queue_limit(300_000, "north")
    for key, count in ((TEAM_A, 1), (TEAM_B, 2), (ELSEWHERE, 4)):
        for number in range(count):
            of_key(sim, key).messages.create(**params(f"Question {number} of {key}"))
    usage = {}
    for key in (TEAM_A, ELSEWHERE, DEFAULT):
        [entry] = of_key(sim, key).organization.rate_limits.list(group_type="batch")
        [limit] = [each for each in entry.limits if each.type == "enqueued_batch_requests"]
        tokens = report(sim, key, "usage_report/messages", ["model", "service_tier"])
        cents = report(sim, key, "cost_report", ["description"])
        usage[key] = (limit.value, sum(row["output_tokens"] for row in tokens), len(cents))
    assert usage[DEFAULT] == (200_000, 0, 0)
    assert (usage[TEAM_A][0], usage[ELSEWHERE][0]) == (300_000, 200_000)
    assert usage[TEAM_A][1] + usage[ELSEWHERE][1] == sim.books.billed_tokens["output_tokens"]
    assert usage[TEAM_A][2] == usage[ELSEWHERE][2] == 1


def test_every_answer_names_its_workspace_but_to_a_refused_key(
    sim: Simulator, http: httpx2.Client
) -> None:
    def ids(key: str, path: str = "/v1/messages/batches") -> tuple[str | None, str | None]:
        answer = http.get(path, headers={"x-api-key": "", "authorization": f"Bearer {key}"})
        found = answer.headers.get
        return found("anthropic-organization-id"), found("anthropic-workspace-id")

    named = {key: ids(key) for key in WORKSPACES}
    assert named == {key: (one.organisation_id, one.id) for key, one in WORKSPACES.items()}
    assert named[TEAM_A][0] == named[TEAM_B][0] != named[ELSEWHERE][0]
    assert len({workspace for _, workspace in named.values()}) == 4
    assert ids("new@team-a/north", "/v1/messages/batches/none") == named[TEAM_A]
    revoked = {"fault": {"kind": "revoked_key"}, "keys": ["*@team-?/north"]}
    sim.set_faults(Faults.of(outages=[revoked]))
    assert ids(TEAM_A) == ids(TEAM_B) == (None, None)
    assert ids(ELSEWHERE) == named[ELSEWHERE]


def test_an_identity_token_gives_a_key_of_the_workspace_it_was_asked_for(sim: Simulator) -> None:
    there = Workspace("wrkspc_01abc", "b0f1a2c3-0000-4000-8000-00000000beef")
    credentials = WorkloadIdentityCredentials(
        identity_token_provider=lambda: "a token",
        federation_rule_id="rule", organization_id=there.organisation, workspace_id=there.name,
    )  # fmt: skip
    with Anthropic(credentials=credentials, base_url=sim.url) as client:
        answer = client.messages.batches.with_raw_response.list()
    assert answer.headers["anthropic-workspace-id"] == there.name == there.id
    assert answer.headers["anthropic-organization-id"] == there.organisation


def test_a_lost_create_and_a_lag_are_one_account_s_alone(sim: Simulator) -> None:
    drop = {"fault": {"kind": "drop"}, "endpoints": ["create"], "keys": [TEAM_A], "to_call": 1}
    lag: dict[str, Any] = {"lag": {"calls": 1}}
    foreign = {"probability": 1.0, "when": "after"}
    sim.set_faults(Faults.of(outages=[drop], list=lag, foreign_batches=foreign))
    of_key(sim, TEAM_B).messages.batches.create(requests=requests(1))
    with pytest.raises(anthropic.APIConnectionError):
        of_key(sim, TEAM_A).messages.batches.create(requests=requests(1))
    # A look of team B is none of team A's; its foreign batch came to team A's workspace.
    seen = [len(list(of_key(sim, key).messages.batches.list())) for key in (TEAM_B, TEAM_A)]
    again = [len(list(of_key(sim, key).messages.batches.list())) for key in (TEAM_B, TEAM_A)]
    assert (seen, again) == ([0, 0], [2, 2])


def test_the_state_of_a_simulator_with_one_organisation_goes_on(tmp_path: Path) -> None:
    with running_simulator(state_dir=tmp_path, turnaround=0.0) as sim:
        client = of_key(sim, DEFAULT)
        batch = client.messages.batches.create(requests=requests(1))
        client.messages.batches.retrieve(batch.id)
        billed = sim.books.billed_tokens["output_tokens"]
    # As the simulator kept it before.
    with sqlite3.connect(tmp_path / "simulator.sqlite") as connection:
        connection.execute("CREATE TABLE day_usage AS SELECT * FROM usage")
        for column in ("organisation", "workspace"):
            connection.execute(f"ALTER TABLE day_usage DROP COLUMN {column}")
        connection.execute("DROP TABLE usage")
        connection.execute("UPDATE batch SET body = json_set(body, '$.workspace', 'default')")
    connection.close()
    with running_simulator(state_dir=tmp_path) as sim:
        assert [found.id for found in of_key(sim, DEFAULT).messages.batches.list()] == [batch.id]
        [row] = report(sim, DEFAULT, "usage_report/messages", ["model", "service_tier"])
        assert row["output_tokens"] == billed
