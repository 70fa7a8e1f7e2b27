"""`accounts`: which there are, where they stand, and what the API says to their keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from batch_pipeline.simulator import Faults, Simulator, Workspace
from batch_pipeline_tests.cli.program import Program, documents
from batch_pipeline_tests.flow.accounts_support import KEYS, declared


@pytest.fixture
def several(simulator: Simulator, tmp_path: Path) -> Program:
    """The program with three accounts of two organisations."""
    keys = {f"{name.upper()}_KEY": key for name, key in KEYS.items()}
    program = Program(tmp_path, {"ANTHROPIC_BASE_URL": simulator.url, **keys})
    program.declare("review", documents(4), accounts=["north_a", "south"])
    (program.jobs_dir / "accounts.yaml").write_text(yaml.safe_dump(declared()))
    return program


def test_each_account_is_asked_and_one_that_fails_leaves_the_others(
    several: Program, simulator: Simulator
) -> None:
    listed = several("accounts", "--no-probe", "--json")
    assert [each["probe"] for each in listed.document["accounts"]] == [None] * 3
    revoked = {"fault": {"kind": "revoked_key"}, "keys": [KEYS["north_b"]]}
    simulator.set_faults(Faults.of(outages=[revoked]))
    ended = several("accounts", "--json")
    simulator.set_faults(Faults())
    assert ended.code == 1
    found = {each["declared_name"]: each for each in ended.document["accounts"]}
    assert found.keys() == KEYS.keys()
    assert {name: each["probe"]["answers"] for name, each in found.items()} == {
        "north_a": True, "north_b": False, "south": True,
    }  # fmt: skip
    assert "NORTH_B_KEY" in found["north_b"]["probe"]["error"]
    assert {name: each["state"] for name, each in found.items()} == {
        "north_a": "ready", "north_b": "key refused", "south": "ready",
    }  # fmt: skip
    assert found["north_a"]["probe"]["workspace_id"] == Workspace("a", "north").id
    assert found["north_a"]["organisation"] == "simulator.north"
    shown = several("accounts")
    assert shown.code == 0
    assert "key refused" not in shown.out
    for text in ("simulator.north_b", "answers (SOUTH_KEY)", "200,000"):
        assert text in shown.out


def test_a_key_of_another_workspace_is_refused_until_the_account_is_bound_anew(
    several: Program, simulator: Simulator
) -> None:
    simulator.hold()
    several("run", "review", "--no-wait")
    assert {a["name"] for a in several("status", "--json").document["accounts"]} == {
        "simulator.north_a", "simulator.south",
    }  # fmt: skip
    assert "simulator.south" in several("status").out
    elsewhere = "any@other/south"
    refused = several("accounts", "--json", SOUTH_KEY=elsewhere)
    assert refused.code == 1
    [south] = [a for a in refused.document["accounts"] if a["declared_name"] == "south"]
    assert "--rebind south" in south["probe"]["error"]
    # A key that was replaced by one of the same workspace.
    assert several("accounts", SOUTH_KEY="new@a/south").code == 0
    sender = next(a["declared_name"] for a in refused.document["accounts"] if a["queued"])
    other = "south" if sender == "north_a" else "north_a"
    busy = several("accounts", "--rebind", sender)
    assert busy.code == 2
    assert "collect them first" in busy.err
    simulator.release()
    changed = {f"{other.upper()}_KEY": f"any@new/{KEYS[other].rpartition('/')[2]}"}
    assert several("accounts", **changed).code == 1
    assert several("accounts", "--rebind", other, **changed).code == 0
    assert several("accounts", **changed).code == 0
    assert several("accounts", "--rebind", "nobody").code == 2
