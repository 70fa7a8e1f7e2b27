"""The benchmarks run: in their quick mode, which says nothing of speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent


def test_the_whole_flow_runs_beside_the_plain_way() -> None:
    command = [sys.executable, "-m", "benchmarks.flow", "--quick"]
    ended = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for way in ("plain SDK", "batch-pipeline", "times as fast"):
        assert way in ended.stdout
