"""Memory does not grow with the night: a process of its own, so that its peak is its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from batch_pipeline_tests.end_to_end.plain_api import PlainApi

DECLARATION = """
type: batch_pipeline.BatchJobComponent
attributes:
  name: {name}
  input: {{path: {path}}}
  prompt: {{user: "{{text}}"}}
  model_id: claude-haiku-4-5-20251001
  max_tokens: 300
  limits: {{max_requests_per_batch: 50}}
  pilot: {{size: 0}}
"""
DOCUMENT_BYTES = 100_000
SMALL, LARGE = 300, 1_000


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs the peak of a child process")
def test_the_peak_does_not_grow_with_the_night(plain_api: PlainApi, tmp_path: Path) -> None:
    small, large = (_peak_bytes(tmp_path, f"night_{count}", count) for count in (SMALL, LARGE))
    documents = (LARGE - SMALL) * DOCUMENT_BYTES
    assert large - small < documents / 2, f"{small:,} bytes grew to {large:,}"


def _peak_bytes(folder: Path, name: str, count: int) -> int:
    """The largest resident memory of `batch-pipeline run` over a night of that many documents."""
    path = folder / f"{name}.jsonl"
    with path.open("w") as file:
        for number in range(count):
            text = f"{number:08} " * (DOCUMENT_BYTES // 9)
            file.write(json.dumps({"id": f"document {number}", "text": text}) + "\n")
    declared = folder / "jobs" / name / "defs.yaml"
    declared.parent.mkdir(parents=True)
    declared.write_text(DECLARATION.format(name=name, path=path))
    environ = os.environ | {
        "BATCH_PIPELINE_HOME": str(folder / "home"),
        "BATCH_PIPELINE_JOBS_DIR": str(folder / "jobs"),
        "BATCH_PIPELINE_POLL_SECONDS": "0.1",
    }
    program = str(Path(sys.executable).with_name("batch-pipeline"))
    with (folder / f"{name}.log").open("w") as log:
        actions = [(os.POSIX_SPAWN_DUP2, log.fileno(), number) for number in (1, 2)]
        pid = os.posix_spawn(program, [program, "run", name], environ, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, (folder / f"{name}.log").read_text()
    kibibytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return int(kibibytes * 1024)
