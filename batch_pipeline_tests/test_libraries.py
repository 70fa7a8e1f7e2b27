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
        "environ": dict(os.environ),
        "pool": pa.default_memory_pool().backend_name,
    }), file=sys.stderr)
"""
SOMEBODYS = PROGRAM.replace("main()", "main(sys.argv[1:])")


LIGHT = {
    "OPENBLAS_NUM_THREADS": "1",
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
    **({"ARROW_DEFAULT_MEMORY_POOL": "jemalloc"} if sys.platform == "linux" else {}),
}
MINE = {
    "OPENBLAS_NUM_THREADS": "2",
    "PYDANTIC_DISABLE_PLUGINS": "mine",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


@pytest.mark.parametrize(
    ("code", "given", "loaded", "environ"),
    [
        (PROGRAM, {}, [], LIGHT),
        (PROGRAM, MINE, [], MINE),
        (SOMEBODYS, {}, ["aiohttp", "pandas"], {}),
    ],
    ids=["the program", "in an environment that says otherwise", "a process that calls it"],
)
def test_what_a_process_does_without(
    code: str, given: dict[str, str], loaded: list[str], environ: dict[str, str]
) -> None:
    inherited = {name: value for name, value in os.environ.items() if name not in MINE}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stderr.splitlines()[-1])
    assert found["loaded"] == loaded
    assert {name: found["environ"][name] for name in MINE if name in found["environ"]} == environ
    assert found["pool"] == environ.get("ARROW_DEFAULT_MEMORY_POOL", found["pool"])


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
