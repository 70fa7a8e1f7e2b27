"""What is refused: with the exit code of the contract, in the form that was asked for."""

from __future__ import annotations

import re

import pytest

from batch_pipeline_tests.cli.program import KEY, Program, documents


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing argument 'JOB'"),
        (["run", "review", "--frobnicate"], "No such option: --frobnicate"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["jobs", "surplus"], "unexpected extra argument"),
        (["prune", "review"], "Missing option '--before'"),
        (["approve", "review", "--gate", "pilot"], "Missing option '--reason'"),
        (["approve", "review", "--reason", "so be it"], "Missing option '--gate'"),
        (
            ["approve", "review", "--gate", "budget", "--reason", "x"],
            "`pilot: reason` or `breaker:",
        ),
        (["approve", "review", "--gate", "pilot", "--reason", "x"], "review all has not been run"),
        (["prune", "review", "--before", "2026-01-01"], "the job has one night, 'all'"),
        (["prune", "nightly", "--before", "January"], "is not a day written like"),
        (["simulator", "--port", "70000"], "65535"),
        (["run", "nobody"], "there is no job 'nobody'"),
        (["run", "review", "--partition", "2026-01-01"], "partition '2026-01-01'"),
        (["run", "nightly", "--partition", "all"], "partition 'all'"),
        (["status", "reviw"], "did you mean 'review'?"),
        (["report", "review"], "review all has not been run"),
        (["dead-letter", "list", "review"], "review all has not been run"),
        (["validate", "typo"], "attributes.max_token: unknown key; did you mean max_tokens?"),
        (["run", "typo"], "typo/defs.yaml:"),
    ],
)
def test_wrong_usage_and_declarations(offline: Program, arguments: list[str], said: str) -> None:
    offline.declare("review", documents(1))
    offline.declare("typo", documents(1), max_token=1)
    nightly = {"path": str(offline.folder / "{partition}.jsonl")}
    offline.declare("nightly", input=nightly, partitions={"start": "2026-01-01"})

    ended = offline(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err

    ended = offline(*arguments, "--json")
    assert ended.code == 2
    # A command without the option says so.
    assert said in ended.error["message"] or "option: --json" in ended.error["message"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BATCH_PIPELINE_POLL_SECONDS", "often"),
        ("BATCH_PIPELINE_MAX_QUEUED_REQUESTS", "0"),
        ("BATCH_PIPELINE_MAX_USD_PER_MONTH", "0"),
        ("BATCH_PIPELINE_ACCOUNT", "simulator"),
    ],
)
def test_a_bad_setting(
    offline: Program,
    variable: str,
    value: str,
) -> None:
    ended = offline("jobs", "--json", **{variable: value})
    assert ended.code == 2
    assert variable in ended.error["message"]


@pytest.mark.parametrize("command", [["run"], ["cancel"]])
def test_no_key(offline: Program, command: list[str]) -> None:
    job = offline.declare("review", documents(1))
    ended = offline(*command, job, "--json")
    message = ended.error["message"]
    assert ended.code == 2
    assert "set ANTHROPIC_API_KEY" in message
    assert "demo`" in message
    assert "simulator --port" in message


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "'1' in "),
        ([{"id": None, "text": "a"}], "line 1"),
        ([{"id": 1, "body": "a"}], "'text' is missing"),
        (None, "nothing matches"),
    ],
)
def test_bad_input(
    offline: Program,
    rows: list[dict[str, object]] | None,
    said: str,
) -> None:
    job = offline.declare("review", rows)
    ended = offline("validate", job, "--json")
    assert (ended.code, ended.error["code"]) == (1, "invalid_input_data")
    assert said in ended.error["message"]


def test_bad_input_stops_a_run_before_anything_is_sent(program: Program) -> None:
    job = program.declare("review", [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}])
    ended = program("run", job, "--json")
    assert (ended.code, ended.error["code"]) == (1, "invalid_input_data")
    assert "Home: " in ended.err


def test_a_model_without_a_price_is_no_surprise_on_the_bill(offline: Program) -> None:
    job = offline.declare("review", documents(3), model_id="claude-haiku-9")
    ended = offline("validate", job, "--json")
    assert ended.code == 2
    assert "claude-haiku-9" in ended.error["message"]


def test_nobody_listens(offline: Program) -> None:
    job = offline.declare("review", documents(1))
    ended = offline("run", job, "--no-wait", "--json", ANTHROPIC_API_KEY=KEY)
    assert ended.code == 1
    assert ended.error["code"] == "api"
    assert "ANTHROPIC_BASE_URL" in ended.error["message"]
    assert "Traceback" not in ended.err


def test_a_bug_is_one_document_too(offline: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("batch_pipeline.jobs.yaml_files.loading.scan_jobs", broken)
    ended = offline("jobs", "--json")
    assert ended.code == 1
    assert ended.error == {"code": "internal", "message": "ZeroDivisionError: a bug"}


def test_no_argument_shows_the_commands(
    offline: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = offline()
    assert ended.code == 2
    assert re.search(r"\bvalidate\b", ended.out + ended.err)
    assert "Error" not in ended.out + ended.err
