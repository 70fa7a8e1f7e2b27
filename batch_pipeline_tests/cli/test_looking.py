"""The commands that only look: no key, no network, and nothing is sent."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path

import orjson
import pytest

from batch_pipeline.flow.gates import models
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.cli.program import Program, documents


def test_jobs_lists_the_good_and_reports_the_bad(offline: Program) -> None:
    offline.declare("good", documents(1), description="[red]What[/x] it says")
    assert offline("jobs", "--json").code == 0
    offline.declare("broken", documents(1), max_token=3)

    listed = offline("jobs", "--json")
    assert listed.code == 2
    [job] = listed.document["jobs"]
    assert (job["name"], job["newest_partition"]) == ("good", "all")
    assert listed.error["code"] == "invalid_declaration"
    assert "broken/defs.yaml:" in listed.error["message"]

    shown = offline("jobs")
    assert "[red]What[/x] it says" in shown.out
    assert "max_token: unknown key" in shown.err
    assert f"Home: {offline.home}" in shown.err


def test_validate_sends_nothing_and_needs_no_key(program: Program, simulator: Simulator) -> None:
    rows = documents(30)
    rows += [{"id": "the same", "text": rows[0]["text"]}, {"id": 1, "text": None}]
    job = program.declare("review", rows, limits={"max_requests_per_batch": 10})
    before = len(simulator.books.contents)

    ended = program("validate", job, "--json", ANTHROPIC_API_KEY=None)

    assert ended.code == 0, ended.err
    counts = ended.document
    assert (counts["items"], counts["requests"], counts["duplicates"]) == (32, 30, 1)
    assert (counts["invalid_input"], counts["batches_at_least"]) == (1, 3)
    assert len(simulator.books.contents) == before
    assert not list(program.home.rglob("*.parquet")), "a snapshot was kept"
    assert "nothing was sent" in program("validate", job, ANTHROPIC_API_KEY=None).out


def test_estimate_sends_nothing_and_fits_a_terminal(program: Program, simulator: Simulator) -> None:
    job = program.declare("review", documents(30))
    before = simulator.books.accepted_requests

    counted = program("estimate", job, "--json").document
    assert (counted["requests"], counted["tokens"]["source"]) == (30, "count_tokens")
    assert counted["realtime"]["expected_usd"] == pytest.approx(
        2 * counted["batch"]["expected_usd"]
    )
    # Thirty documents save less than an hour of waiting is worth.
    assert counted["recommendation"]["mode"] == "realtime"
    shown = program("estimate", job, ANTHROPIC_API_KEY=None, COLUMNS="80").out
    assert "a rule, 3.5 bytes a token" in shown
    assert "Recommended: mode realtime" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert simulator.books.accepted_requests == before
    assert not list(program.home.rglob("*.parquet")), "a snapshot was kept"


def test_a_model_that_retires_is_named(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_today", lambda: date(2026, 11, 25))
    retiring = program.declare("old", documents(3), model_id="claude-sonnet-4-5-20250929")
    [warning] = program("validate", retiring, "--json").document["warnings"]
    assert "retires on 2026-11-30" in warning
    assert "retires on 2026-11-30" in program("validate", retiring).out
    assert warning in program("estimate", retiring, "--json").document["warnings"]


def test_with_a_key_the_api_is_asked_about_the_model(program: Program) -> None:
    price = dict.fromkeys(("input", "output", "cache_write_5m", "cache_write_1h", "cache_read"), 1)
    job = program.declare(
        "unknown",
        documents(3),
        model_id="claude-haiku-4-6",
        prices={"batch": price, "realtime": price},
    )
    assert program("validate", job, ANTHROPIC_API_KEY=None).code == 0
    asked = program("validate", job, "--json")
    assert asked.code == 2
    assert "no claude-haiku-4-6" in asked.error["message"]


def test_a_name_that_is_not_utf_8_leaves_one_json_document(program: Program) -> None:
    job = program.declare("odd", documents(3))
    named = program.folder / os.fsdecode(b"caf\xe9")
    named.mkdir()
    ended = program("validate", job, "--partition", os.fsdecode(b"p\xff"), "--json")
    assert r"'p\udcff'" in ended.error["message"]
    listed = program("jobs", "--json", BATCH_PIPELINE_JOBS_DIR=str(named))
    assert orjson.loads(listed.out)["jobs_dir"] == f"{program.folder}/caf\\xe9"


def test_validate_names_what_is_not_read(program: Program) -> None:
    empty = program.declare("empty", [])
    assert program("validate", empty, "--json").document["warnings"] == ["the input has no rows"]


def test_status_report_and_dead_letters_need_neither_key_nor_network(program: Program) -> None:
    rows = [*documents(10), {"id": "null", "text": None}]
    pilot = {"size": 0, "max_error_rate": 1}
    job = program.declare("review", rows, pilot=pilot)
    assert program("run", job).code == 0
    later = Program(program.folder, {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"})

    [night] = later("status", "--json").document["nights"]
    assert (night["state"], night["items"], night["succeeded"]) == ("complete", 11, 10)
    assert (night["simulated"], "submissions" in night) == (True, False)
    [night] = later("status", job, "--partition", "all", "--json").document["nights"]
    assert [s["state"] for s in night["submissions"]] == ["collected"]
    assert night["submissions"][0]["batch_id"] in later("status", job).out

    assert later("report", job, "--json").document["complete"]
    assert "review all: complete" in later("report", job).out

    letters = later("dead-letter", "list", job, "--json")
    assert letters.code == 0
    assert letters.document["dead_letter"] == 1
    [group] = letters.document["groups"]
    assert (group["reason"], group["items"]) == ("invalid_input", 1)
    assert group["example_ids"] == ["null"]
    assert Path(letters.document["path"]).is_dir()


def test_status_needs_no_remote_home(offline: Program) -> None:
    """What it says is in the ledger; nobody listens at the home's address."""
    ledger = f"sqlite:///{offline.folder / 'ledger.sqlite'}"
    ended = offline(
        "status", "--json", BATCH_PIPELINE_HOME="ftp://127.0.0.1:9/home",
        BATCH_PIPELINE_LEDGER_URL=ledger,
    )  # fmt: skip
    assert (ended.code, ended.document["nights"]) == (0, [])


def test_status_before_anything_was_run(offline: Program) -> None:
    document = offline("status", "--json").document
    assert document == {"nights": [], "accounts": [], "ledger_problem": None, "never_begun": None}
    assert "Nothing has been run yet" in offline("status").out


@pytest.mark.parametrize("length", [12, 30, 60])
def test_a_jobs_name_is_whole_on_a_line(offline: Program, length: int) -> None:
    job = offline.declare("r" * length, documents(1), description="What it says " * 9)
    shown = offline("jobs", COLUMNS="80").out
    assert job in shown
    assert "claude-haiku-4-5-20251001" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_what_is_shown_fits_the_terminal(program: Program) -> None:
    job = program.declare("review", documents(3))
    assert program("run", job, COLUMNS="80").code == 0
    for columns in (80, 120):
        for command in (["jobs"], ["status"], ["status", job], ["dead-letter", "list", job]):
            table = program(*command, COLUMNS=str(columns)).out
            assert max(map(len, table.splitlines())) <= columns
            assert "…" not in table, f"{command} is cut off"


def test_reconcile_costs_shows_ledger_and_organisation(
    program: Program, simulator: Simulator
) -> None:
    job = program.declare("review", documents(5), pilot={"size": 0})
    assert program("run", job).code == 0
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    asked = program("reconcile-costs", "--date", today, "--json", ANTHROPIC_ADMIN_KEY="sk-admin")
    assert asked.code == 0, asked.err
    [found] = [each for each in asked.document["models"] if each["mode"] == "batch"]
    # Others of the organisation are other tests on the same simulator.
    assert found["ledger"]["cost_usd"] > 0
    assert found["ledger_has_more_of"] == []
    assert asked.document["simulated"] is True
    shown = program("reconcile-costs", "--date", today, ANTHROPIC_ADMIN_KEY="sk-admin")
    assert "not this ledger's work alone" in shown.out
    assert "sk-admin" not in shown.out + shown.err

    missing = program("reconcile-costs", "--json")
    assert (missing.code, missing.error["code"]) == (2, "usage")
    wrong = program("reconcile-costs", "--date", "today", ANTHROPIC_ADMIN_KEY="sk-admin")
    assert wrong.code == 2


def test_a_night_that_backs_off_says_so(program: Program, simulator: Simulator) -> None:
    failing = {"probability": 1.0, "outcome": "api_error", "ways": "both"}
    simulator.set_faults(Faults.of(requests={"chances": [failing]}))
    job = program.declare("review", documents(20))
    for _ in range(2):
        assert program("run", job, "--no-wait", BATCH_PIPELINE_POLL_SECONDS="100").code == 4
    simulator.set_faults(Faults())
    assert "backing off" in program("status").out
    [night] = program("status", "--json").document["nights"]
    assert night["state"] == "backing off"


def test_a_preview_shows_requests_and_what_they_cost(program: Program) -> None:
    job = program.declare(
        "review", documents(30), prompt={"system": "[b]Be brief", "user": "{text}"}
    )
    first = program("preview", job, "--rows", "2", "--json").document
    assert (first["requests"], len(first["rows"])) == (None, 2)
    assert first["rows"][0]["request"]["system"] == "[b]Be brief"
    assert first["rows"][0]["tokens_from"] == "counted by the API"
    assert first["night"]["realtime_usd"] > first["night"]["batch_usd"] > 0
    shown = program("preview", job, "--html", COLUMNS="80").out
    assert "nothing was sent" in shown
    assert "[system]\n  [b]Be brief\n[user]\n" in shown
    page = Path(shown.rpartition("Page: ")[2].strip())
    assert "Preview of review" in page.read_text()
    assert page.parent == program.home / "review" / "reports"
    exact = program.process("preview", job, "--raw").out
    assert orjson.loads(exact)["system"] == "[b]Be brief"
    assert program("preview", job, "--raw", "--json").code == 2
    assert program("preview", job, "--id", "none of these").code == 2
    assert program("show", job, "--id", "x").code == 2


def test_show_tells_all_of_an_item(program: Program) -> None:
    job = program.declare(
        "review",
        [*documents(3), {"id": "blank", "text": " "}],
        pilot={"size": 0, "max_error_rate": 1},
    )
    assert program("run", job).code == 0
    shown = program("show", job, "--id", "[b]Akte 1/ä").out
    for part in ("=== Row (", "=== Request (", "=== Answer 1 of 1: succeeded, as declared"):
        assert part in shown
    assert "[as the API sent it]" in shown
    assert "Now: settled, succeeded." in shown
    found = program("show", job, "--id", "blank", "--json").document
    assert found["why_not_sent"] == "invalid_input: blank document"
    assert (found["attempts"], found["dead_letter"]["reason"]) == ([], "invalid_input")
    missing = program("show", job, "--id", "[b]Akte 1", "--json")
    assert (missing.code, missing.error["code"]) == (2, "usage")
    assert "Close to it: '[b]Akte 1/ä'" in missing.error["message"]
