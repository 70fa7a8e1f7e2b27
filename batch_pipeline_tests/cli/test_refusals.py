"""What is refused: with the exit code of the contract, in the form that was asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from batch_pipeline.cli import main
from batch_pipeline_tests.cli.program import KEY, Program, documents


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """A command in this process: what it prints and its code."""
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    captured = capsys.readouterr()
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code, captured.out, captured.err


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Somebody without a key, whose commands run in this process."""
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "BATCH_PIPELINE_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)
    user = Program(tmp_path)
    user.jobs_dir.mkdir()
    monkeypatch.setenv("BATCH_PIPELINE_HOME", str(user.home))
    monkeypatch.setenv("BATCH_PIPELINE_JOBS_DIR", str(user.jobs_dir))
    return user


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing argument 'JOB'"),
        (["run", "review", "--frobnicate"], "No such option: --frobnicate"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["jobs", "surplus"], "unexpected extra argument"),
        (["estimate", "review"], "`batch-pipeline estimate` is not built yet"),
        (["approve", "review", "--gate", "pilot"], "`batch-pipeline approve` is not built yet"),
        (["prune", "review", "--before", "2026-01-01"], "`batch-pipeline prune` is not built yet"),
        (
            ["dead-letter", "redrive", "review", "--partition", "all"],
            "`batch-pipeline dead-letter redrive` is not built yet",
        ),
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
def test_wrong_usage_and_declarations(
    user: Program, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    user.declare("review", documents(1))
    user.declare("typo", documents(1), max_token=1)
    nightly = {"path": str(user.folder / "{partition}.jsonl")}
    user.declare("nightly", input=nightly, partitions={"start": "2026-01-01"})

    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err

    code, out, err = call(capsys, *arguments, "--json")
    assert code == 2
    error = json.loads(out)["error"]
    assert set(error) == {"code", "message"}
    if "--json" not in error["message"]:  # a command without the option says so
        assert said in error["message"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BATCH_PIPELINE_POLL_SECONDS", "often"),
        ("BATCH_PIPELINE_MAX_QUEUED_REQUESTS", "0"),
        ("BATCH_PIPELINE_MAX_USD_PER_MONTH", "100"),
        ("BATCH_PIPELINE_ACCOUNT", "simulator"),
    ],
)
def test_a_bad_setting(
    user: Program,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
) -> None:
    monkeypatch.setenv(variable, value)
    code, out, _ = call(capsys, "jobs", "--json")
    assert code == 2
    assert variable in json.loads(out)["error"]["message"]


@pytest.mark.parametrize("command", [["run"], ["cancel"]])
def test_no_key(user: Program, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    job = user.declare("review", documents(1))
    code, out, _ = call(capsys, *command, job, "--json")
    message = json.loads(out)["error"]["message"]
    assert code == 2
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
    user: Program,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, object]] | None,
    said: str,
) -> None:
    job = user.declare("review", rows)
    code, out, _ = call(capsys, "validate", job, "--json")
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (1, "invalid_input_data")
    assert said in error["message"]


def test_bad_input_stops_a_run_before_anything_is_sent(program: Program) -> None:
    job = program.declare("review", [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}])
    ended = program("run", job, "--json")
    assert (ended.code, ended.error["code"]) == (1, "invalid_input_data")
    assert "Home: " in ended.err


def test_a_model_without_a_price_is_no_surprise_on_the_bill(
    user: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    job = user.declare("review", documents(3), model_id="claude-haiku-9")
    code, out, _ = call(capsys, "validate", job, "--json")
    assert code == 2
    assert "claude-haiku-9" in json.loads(out)["error"]["message"]


def test_nobody_listens(offline: Program) -> None:
    job = offline.declare("review", documents(1))
    ended = offline("run", job, "--json", ANTHROPIC_API_KEY=KEY)
    assert ended.code == 1
    assert ended.error["code"] == "api"
    assert "ANTHROPIC_BASE_URL" in ended.error["message"]
    assert "Traceback" not in ended.err


def test_a_bug_is_one_document_too(
    user: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("batch_pipeline.declarations.scan_jobs", broken)
    code, out, _ = call(capsys, "jobs", "--json")
    assert code == 1
    assert json.loads(out)["error"] == {"code": "internal", "message": "ZeroDivisionError: a bug"}


def test_no_argument_shows_the_commands(user: Program, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys)
    assert code == 2
    assert re.search(r"\bvalidate\b", out + err)
    assert "Error" not in out + err
