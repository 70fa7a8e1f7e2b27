"""Records as JSON: one line each, with what they belong to, and without secrets."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from batch_pipeline import logs

KEY = "sk-ant-abc123-def456-ghi789"


def record(message: str, error: Exception | None = None) -> logging.LogRecord:
    about = None if error is None else (type(error), error, None)
    return logging.LogRecord("batch_pipeline.x", logging.WARNING, "", 0, message, (), about)


def test_a_record_is_one_line_with_its_work_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    error = ValueError(f"bad \ud800 header {KEY}")
    with logs.context(job="review", partition="2026-01-02"), logs.context(run="r1", account=None):
        line = logs.JsonFormatter().format(record(f"sent\nwith {KEY}\x1b[31m", error))
    assert "\n" not in line
    assert "\x1b" not in line
    assert KEY not in line
    found = json.loads(line)
    assert (found["job"], found["partition"], found["run"]) == ("review", "2026-01-02", "r1")
    assert "account" not in found
    assert (found["level"], found["error"]["type"]) == ("warning", "ValueError")
    assert "job" not in json.loads(logs.JsonFormatter().format(record("later")))


def test_threads_of_the_flow_belong_to_its_work() -> None:
    found: list[str] = []

    def work() -> None:
        found.append(json.loads(logs.JsonFormatter().format(record("x")))["job"])

    with logs.context(job="review"):
        thread = threading.Thread(target=logs.inherited(work))
        thread.start()
        thread.join()
    assert found == ["review"]
