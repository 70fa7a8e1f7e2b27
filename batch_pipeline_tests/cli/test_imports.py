"""What a command loads before it answers: nothing heavy that it can do without."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("anthropic", "dagster", "duckdb", "numpy", "pandas", "pyarrow", "starlette", "uvicorn")
LOADED = """
import sys
from batch_pipeline.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "spared"),
    [
        (["--help"], (*HEAVY, "sqlalchemy", "pydantic")),
        (["status"], HEAVY),
        (["jobs"], HEAVY),
    ],
)
def test_nothing_heavy_is_loaded(arguments: list[str], spared: tuple[str, ...], home: Path) -> None:
    environ = os.environ | {"BATCH_PIPELINE_HOME": str(home)}
    command = [sys.executable, "-c", LOADED, *arguments]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    loaded = set(ended.stderr.splitlines()[-1].split())
    assert loaded & set(spared) == set()


DEFINITIONS = """
import sys
from batch_pipeline.definitions import defs
defs().get_repository_def()
print(*sorted(sys.modules))
"""
# What steps and ticks load as the first of them runs.
OF_THE_FLOW = (
    "apprise", "genai_prices", "jinja2", "batch_pipeline.flow.pipeline", "batch_pipeline.ledger"
)  # fmt: skip


def test_definitions_load_neither_pandas_nor_the_flow(home: Path) -> None:
    """Each process of Dagster's loads them, most of them to do no work."""
    spared = {*HEAVY, *OF_THE_FLOW} - {"dagster"}
    environ = os.environ | {"BATCH_PIPELINE_HOME": str(home)}
    command = [sys.executable, "-c", DEFINITIONS]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert set(ended.stdout.splitlines()[-1].split()) & spared == set()
