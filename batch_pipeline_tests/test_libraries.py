"""What the program's own process leaves out of its libraries, and nobody else's does."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import json, os, sys
from batch_pipeline.cli import main
sys.argv = ["batch-pipeline", "--help"]
try:
    main()
finally:
    import pyarrow as pa
    from batch_pipeline.libraries import loading_without
    pa.array([1])
    with loading_without("aiohttp"):
        import anthropic
    loaded = sorted({"pandas", "aiohttp"} & sys.modules.keys())
    import aiohttp
    print(json.dumps({
        "loaded": loaded,
        "threads": os.environ.get("OPENBLAS_NUM_THREADS"),
        "plugins": os.environ.get("PYDANTIC_DISABLE_PLUGINS"),
    }), file=sys.stderr)
"""
SOMEBODYS = PROGRAM.replace("main()", "main(sys.argv[1:])")


def process(code: str, threads: str = "", plugins: str = "") -> dict[str, Any]:
    given = {"OPENBLAS_NUM_THREADS": threads, "PYDANTIC_DISABLE_PLUGINS": plugins}
    environ = {name: value for name, value in os.environ.items() if name not in given}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environ | {name: value for name, value in given.items() if value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stderr.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("code", "given", "loaded", "threads", "plugins"),
    [
        (PROGRAM, (), [], "1", "__all__"),
        (PROGRAM, ("2", "mine"), [], "2", "mine"),
        (SOMEBODYS, (), ["aiohttp", "pandas"], None, None),
    ],
    ids=["the program", "in an environment that says otherwise", "a process that calls it"],
)
def test_what_a_process_does_without(
    code: str,
    given: tuple[str, ...],
    loaded: list[str],
    threads: str | None,
    plugins: str | None,
) -> None:
    found = process(code, *given)
    assert [found[name] for name in ("loaded", "threads", "plugins")] == [loaded, threads, plugins]


FAULTS = """
import resource, sys
from batch_pipeline.libraries import lighten_libraries
if sys.argv[1] == "lightly":
    lighten_libraries()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in range(50):
    blocks = [b"a" * (500_000 + size), b"b" * 400_000]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_that_is_free_is_used_again() -> None:
    lightly, otherwise = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how]))
        for how in ("lightly", "as ever")
    )
    assert lightly < otherwise / 5
