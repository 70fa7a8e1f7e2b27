"""The program works without pandas, which Arrow would import with its first value."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from batch_pipeline.cli import main
sys.argv = ["batch-pipeline", "--help"]
try:
    main()
finally:
    import pyarrow as pa
    pa.array([1])
    print("pandas" in sys.modules, file=sys.stderr)
"""
SOMEBODYS = PROGRAM.replace("main()", "main(sys.argv[1:])")


def loads_pandas(code: str) -> bool:
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr.splitlines()[-1] == "True"


def test_the_program_does_not_load_pandas() -> None:
    assert not loads_pandas(PROGRAM)


def test_a_process_that_calls_the_command_line_keeps_its_pandas() -> None:
    assert loads_pandas(SOMEBODYS)
