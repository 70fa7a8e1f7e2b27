"""Runs and ticks that fail with secrets in the environment: Dagster's storage has none of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.orchestration.steps import asset_steps
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.support import Faults, write_rows

SECRET = "pl4nted-s3cret"
NOBODY = "127.0.0.1:9"


def stored(instance: dg.DagsterInstance) -> str:
    """Events with traces and causes, ticks, logs of processes: all that Dagster has on its disk."""
    events = [
        str(record) for run in instance.get_runs() for record in instance.all_logs(run.run_id)
    ]
    files = [path for path in Path(instance.root_directory).rglob("*") if path.is_file()]
    return "\n".join([*events, *(repr(path.read_bytes()) for path in files)])


@pytest.mark.parametrize(
    "environ",
    [
        {"ANTHROPIC_API_KEY": f"{SECRET}\n"},
        {"ANTHROPIC_API_KEY": f"{SECRET}\n{SECRET}"},
        {"ANTHROPIC_BASE_URL": f"http://user:{SECRET}@{NOBODY}/?token={SECRET}"},
        {"BATCH_PIPELINE_LEDGER_URL": f"postgresql://user:{SECRET}@{NOBODY}/db?password={SECRET}"},
        {"BATCH_PIPELINE_LEDGER_URL": f"noway://user:{SECRET}@{NOBODY}/db"},
        {"BATCH_PIPELINE_HOME": f"noway://user:{SECRET}@{NOBODY}/a",
         "BATCH_PIPELINE_LEDGER_URL": "sqlite:////dev/null/x"},
        {"INPUT": f"ftp://user:{SECRET}@{NOBODY}/a"},
        {"INPUT": f"http://user:{SECRET}@{NOBODY}/a.jsonl?signature={SECRET}&x="},
    ],
)  # fmt: skip
def test_no_secret_is_stored_whatever_fails(
    nightly: Callable[..., Nightly],
    instance: dg.DagsterInstance,
    nights: list[str],
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    def repeat(request: Request) -> Response:
        return Response(f"not allowed: {dict(request.headers)} {request.url}", 401)

    faults.on_request = repeat
    monkeypatch.setattr(asset_steps, "INPUT_PAUSES", ())
    monkeypatch.setattr(asset_steps, "PATIENCE_SECONDS", 0.0)
    path = {"input": {"path": "${INPUT}/{partition}.jsonl", "id_column": "id"}}
    job = nightly(**(path if "INPUT" in environ else {}))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    ended = job.launch_everything(nights[0])
    assert not ended.success
    try:
        said = str(job.tick().skip_message)
    except Exception as error:  # noqa: BLE001  # whatever Dagster would store
        said = "".join(map(str, _chain(error)))
    out, err = capfd.readouterr()
    assert SECRET not in said + out + err
    assert SECRET not in stored(instance)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def test_data_forge_no_line_and_steer_no_terminal(
    nightly: Callable[..., Nightly],
    instance: dg.DagsterInstance,
    nights: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """An id of a row that cannot be sent is named in the run's error, its log and its metadata."""
    hostile = "\x1b[2J\x9b1m\u202e\n2026-01-01 FORGED"
    rows: list[dict[str, Any]] = [{"id": f"{hostile} {n}", "text": None} for n in range(5)]
    rows += [{"id": str(n), "text": "A text."} for n in range(20)]
    write_rows(tmp_path / "input" / nights[0] / "documents.jsonl", rows)
    for limit in (0.01, 1.0):
        job = nightly(pilot={"size": 0, "max_error_rate": limit})
        job.launch(nights[0])
    job.run_to_the_end(nights[0])
    shown = str(job.metadata("dead_letter", nights[0]))
    out, err = capfd.readouterr()
    messages = [
        entry.user_message for run in instance.get_runs() for entry in instance.all_logs(run.run_id)
    ]
    for text in (shown, out, err, *messages):
        assert [
            part for part in ("\x1b[2J", "\x9b", "\u202e", "\n2026-01-01 FORGED") if part in text
        ] == []
