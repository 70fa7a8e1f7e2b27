"""The path of docs/deploy.md that needs no containers, with the commands of the page itself."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster._cli.api import grpc_command

from batch_pipeline.jobs.yaml_files.loading import load_files
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.deploy.files import DEPLOY, ROOT
from batch_pipeline_tests.docs_blocks import commands, variables
from batch_pipeline_tests.stores import FaultProxy, new_bucket, running_proxy, running_s3, use
from batch_pipeline_tests.support import accepted_twice, by_id, results

PAGE = "deploy.md"
DAY, COUNT = "2026-01-02", 200


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    """An S3 server behind a proxy that counts, which s3fs talks to."""
    with running_s3() as url, running_proxy(url) as proxy:
        use(monkeypatch, proxy, tmp_path)
        yield proxy


def _command(line: str) -> str:
    """A command of the page with the test's own day and fewer documents."""
    return line.replace("2026-11-29", DAY).replace(" 2000", f" {COUNT}")


def _started(command: str, environ: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _ended(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate()
    assert process.returncode == 0, said


def test_two_machines_share_a_night(
    store: FaultProxy,
    postgres_url: str,
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They have the ledger, the bucket and the API in common, and no folder."""
    bucket = new_bucket(store.url)
    machines = [tmp_path / name for name in ("first", "second")]
    each = []
    for machine in machines:
        (machine / "temporary").mkdir(parents=True)
        own = {
            "DAGSTER_HOME": str(machine),
            "DAGSTER_POSTGRES_URL": postgres_url,
            "BATCH_PIPELINE_LEDGER_URL": postgres_url,
            "BATCH_PIPELINE_HOME": f"s3://{bucket}/home",
            "BATCH_PIPELINE_JOBS_DIR": str(DEPLOY / "example" / "jobs"),
            "NOTES": f"s3://{bucket}/notes",
            "ANTHROPIC_API_KEY": "any",
            "TMPDIR": str(machine / "temporary"),
        }
        assert own.keys() == variables(PAGE, "settings").keys()
        each.append(own | {"BATCH_PIPELINE_POLL_SECONDS": "0.2"})
    put, night = map(_command, commands(PAGE, "night"))
    _ended(_started(put, each[0], ROOT))
    running = [_started(night, own, machine) for own, machine in zip(each, machines, strict=True)]
    for process in running:
        _ended(process)

    monkeypatch.setenv("NOTES", each[0]["NOTES"])
    [job] = load_files(DEPLOY / "example" / "jobs").values()
    pipeline = make_pipeline(home=each[0]["BATCH_PIPELINE_HOME"], ledger_url=postgres_url)
    rows = by_id(results(pipeline, job.spec, DAY))
    assert rows.keys() == {f"{DAY}/{number}" for number in range(COUNT)}
    assert not accepted_twice(sim)
    for machine in machines:
        assert not list(machine.glob("temporary/batch_pipeline-*/*"))
        assert [path.name for path in machine.iterdir()] == ["temporary"]


def test_the_commands_of_the_page_are_understood() -> None:
    [code] = commands(PAGE, "code")
    words = shlex.split(code)
    assert words[:3] == ["dagster", "api", "grpc"]
    grpc_command.make_context("grpc", words[3:])
    for name in ("install", "webserver", "daemon", "worker"):
        [command] = commands(PAGE, name)
        program = shlex.split(command)[0]
        there = (ROOT / program).exists() or Path(sys.executable).with_name(program).exists()
        assert there, program
    of_celery = variables(PAGE, "celery-settings")
    assert of_celery["CELERY_BROKER_URL"] == of_celery["DAGSTER_CELERY_BROKER_URL"]
    assert of_celery["CELERY_RESULT_BACKEND"] == of_celery["DAGSTER_CELERY_BACKEND_URL"]
