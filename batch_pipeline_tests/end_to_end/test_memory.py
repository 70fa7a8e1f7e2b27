"""Memory does not grow with the night: measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
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
# From the smaller on, all buffers of a night are full: below it the peak still follows the input.
SMALL, LARGE = 600, 1_200
STATUS = Path("/proc/self/status")
# The kernel's own mark of this program: a child's `ru_maxrss` counts what its parent was before.
RUN = f"""
import re
from batch_pipeline.cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM:\\s*(\\d+) kB", open("{STATUS}").read())[1], flush=True)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's account of a process")
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
    command = [sys.executable, "-c", RUN, "run", name, "--json"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout.splitlines()[-1]) * 1024
