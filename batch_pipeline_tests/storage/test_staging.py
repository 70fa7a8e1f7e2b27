"""Staging of remote homes: swept once its process is dead, never before."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from batch_pipeline.errors import UsageError
from batch_pipeline.storage import staging
from batch_pipeline.storage.files import Files

WORKER = """
import os, sys, time
from batch_pipeline.storage import staging
folder = staging.folder()
(folder / "part.parquet").write_bytes(b"half")
print(folder, flush=True)
if sys.argv[1] == "ends":
    sys.exit()
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary folders are made."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(staging, "_folders", {})
    return tmp_path


def _worker(how: str) -> tuple[subprocess.Popen[str], Path]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    return worker, Path(worker.stdout.readline().strip())


def test_only_the_folders_of_dead_processes_are_swept(temporary: Path) -> None:
    worker, folder = _worker("waits")
    mine = staging.folder()
    staging.sweep()
    assert (folder / "part.parquet").exists()
    worker.kill()
    worker.wait()
    assert (folder / "part.parquet").exists()
    Files("memory://swept").sweep()
    assert [path.name for path in folder.parent.iterdir()] == [mine.name]
    assert staging.folder() == mine


def test_a_process_that_ends_leaves_nothing(temporary: Path) -> None:
    worker, folder = _worker("ends")
    assert worker.wait() == 0
    assert not folder.exists()


def test_a_folder_that_was_removed_is_made_again(temporary: Path) -> None:
    first = staging.folder()
    (first / staging.LOCK).unlink()
    first.rmdir()
    assert staging.folder().is_dir()
    (staging.folder().parent / "died-before-its-lock").mkdir()
    staging.sweep()
    assert [path.name for path in staging.folder().parent.iterdir()] == [staging.folder().name]


def test_staging_is_closed_to_other_users(temporary: Path) -> None:
    folder = staging.folder()
    assert folder.stat().st_mode & 0o077 == folder.parent.stat().st_mode & 0o077 == 0
    folder.parent.chmod(0o755)
    staging._folders.clear()
    with pytest.raises(UsageError, match="open to others"), Files("memory://open").staged():
        pass
