"""The page that answers what one asks in the morning, as Dagster's own UI shows it in a browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
import yaml

from batch_pipeline.orchestration.definitions.build import build_batch_job
from batch_pipeline_tests.orchestration.conftest import MakeSpec
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.reporting import browser

QUESTIONS = ("Did it work?", "What did it cost?", "What failed?", "What do I do?")
# Where a text is: its box, and whether what lies there at its middle is the text itself.
PLACE = """
(() => {
  const cell = [...document.querySelectorAll("strong")].find(e => e.innerText.trim() === %r);
  if (!cell) return null;
  cell.scrollIntoView({block: "center", inline: "nearest"});
  const box = cell.getBoundingClientRect();
  return [box.left >= 0, box.right <= innerWidth + 1, box.width > 20];
})()
"""


@contextmanager
def webserver(folder: Path, jobs: Path) -> Iterator[str]:
    """Dagster's webserver on the instance in a folder; it prints once it serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command: list[str | Path] = [
        Path(sys.executable).parent / "dagster-webserver",
        *("-m", "batch_pipeline.definitions", "-h", "127.0.0.1", "-p", str(port)),
    ]
    environ = {**os.environ, "DAGSTER_HOME": str(folder), "BATCH_PIPELINE_JOBS_DIR": str(jobs)}
    process = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if "Serving dagster-webserver" in line:
                break
        else:
            raise AssertionError("".join(told))
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.mark.skipif(browser.installed() is None, reason="no browser is installed")
def test_the_four_answers_are_seen_wide_and_narrow(
    environment: Path, make_spec: MakeSpec, nights: list[str], tmp_path: Path
) -> None:
    spec = make_spec()
    declared = tmp_path / "jobs" / "review" / "defs.yaml"
    declared.parent.mkdir(parents=True)
    attributes = {
        "name": "review",
        "input": {"path": spec.input.path},
        "prompt": {"user": "Sum up: {text}"},
        "model_id": spec.model_id,
        "max_tokens": spec.max_tokens,
        "partitions": {"start": nights[0]},
        "pilot": {"size": 4, "max_truncated_rate": 1.0},
        "limits": {"max_requests_per_batch": 20},
    }
    document = {"type": "batch_pipeline.BatchJobComponent", "attributes": attributes}
    declared.write_text(yaml.safe_dump(document), encoding="utf-8")
    folder = tmp_path / "dagster"
    folder.mkdir()
    settings = "telemetry: {enabled: false}\nnux: {enabled: false}\n"
    (folder / "dagster.yaml").write_text(settings, encoding="utf-8")
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        job = Nightly("review", build_batch_job(spec), instance)
        assert job.launch(nights[0]).success
        job.run_to_the_end(nights[0])
    program = browser.installed()
    assert program is not None
    with webserver(folder, declared.parents[1]) as url, browser.running(program) as page:
        for width in (1_400, 820):
            page.open(
                f"{url}/assets/review/cost_report?view=partitions&partition={nights[0]}",
                width=width,
            )
            page.wait_for(QUESTIONS[-1])
            for question in QUESTIONS:
                place = page.value(PLACE % question)
                assert place is not None, question
                assert place == [True, True, True], (width, question)
            shown = page.value("document.body.innerText")
            assert "40 of 40 documents (100.0%) succeeded" in shown
            assert "SIMULATED, nothing was paid" in shown
