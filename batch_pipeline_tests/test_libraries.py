"""What the program's own process leaves out of its libraries, and nobody else's does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from batch_pipeline.cli import main
sys.argv = ["batch-pipeline", "--help"]
try:
    main()
finally:
    import pyarrow as pa
    from batch_pipeline.libraries import left_out
    pa.array([1])
    with left_out("aiohttp"):
        import anthropic
    loaded = {"pandas", "aiohttp"} & sys.modules.keys()
    import aiohttp
    names = "OPENBLAS_NUM_THREADS", "PYDANTIC_DISABLE_PLUGINS"
    print(*sorted(loaded), *map(os.environ.get, names), file=sys.stderr)
"""
SOMEBODYS = PROGRAM.replace("main()", "main(sys.argv[1:])")


@pytest.mark.parametrize(
    ("code", "given", "expected"),
    [
        (PROGRAM, {}, "1 __all__"),
        (PROGRAM, {"OPENBLAS_NUM_THREADS": "2", "PYDANTIC_DISABLE_PLUGINS": "mine"}, "2 mine"),
        (SOMEBODYS, {}, "aiohttp pandas None None"),
    ],
    ids=["the program", "in an environment that says otherwise", "a process that calls it"],
)
def test_what_a_process_does_without(code: str, given: dict[str, str], expected: str) -> None:
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in {"OPENBLAS_NUM_THREADS", "PYDANTIC_DISABLE_PLUGINS"}
    }
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environ | given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.splitlines()[-1] == expected
