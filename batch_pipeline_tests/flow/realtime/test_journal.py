"""The journal of real-time calls: of what a killed process leaves, all whole lines are read."""

from __future__ import annotations

import resource
import uuid
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batch_pipeline.flow.realtime.journal import Journal, read_lines
from batch_pipeline.storage.files import Files
from batch_pipeline_tests.support import together

LINES = [b'{"custom_id": "t_%d", "result": {}}' % n for n in range(20)]


def write(files: Files, name: str, lines: list[bytes], at_once: int = 2) -> None:
    """Append so many lines at once, with a checkpoint after every second time."""
    with Journal(files, "raw", name) as journal:
        for start in range(0, len(lines), at_once):
            journal.append(lines[start : start + at_once])
            if start % (2 * at_once) == 0:
                journal.checkpoint()


@pytest.fixture(params=["local", "remote"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """A local and a remote home, one after the other."""
    return Files(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_lines_of_all_holders_are_read(files: Files) -> None:
    write(files, "token-1", LINES[:7])
    write(files, "token-2", LINES[7:])
    write(files, "token2-1", [b"another's"])
    assert list(read_lines(files, "raw", "token")) == LINES
    assert list(read_lines(files, "raw", "nobody")) == []


def test_what_is_written_is_there_before_the_end(files: Files) -> None:
    with Journal(files, "raw", "token-1") as journal:
        journal.append(LINES[:2])
        journal.append(LINES[2:3])
        journal.checkpoint()
        journal.append(LINES[3:5])
        known = list(read_lines(files, "raw", "token"))
    # Locally every line, remotely those up to the last checkpoint.
    assert known == LINES[: 3 if files.is_remote else 5]


@hypothesis_settings(max_examples=30, deadline=None)
@given(kept=st.integers(min_value=0, max_value=2_000), at_once=st.integers(1, 5))
def test_a_cut_last_frame_costs_its_lines_alone(
    kept: int, at_once: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = Files(str(tmp_path_factory.mktemp("home")))
    write(files, "token-1", LINES, at_once)
    path = Path(files.uri("raw/token-1.jsonl.zst"))
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    found = list(read_lines(files, "raw", "token"))
    assert found == LINES[: len(found)]
    frames = -(-len(LINES) // at_once)
    assert len(found) >= min(len(LINES), at_once * (int(kept / len(whole) * frames) - 1))
    # The next holder's file is read beside it.
    write(files, "token-2", LINES[len(found) :])
    assert list(read_lines(files, "raw", "token")) == LINES


def test_half_a_frame_is_taken_back_where_the_disk_is_full(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(files, "raw", "token-1") as journal:
        journal.append(LINES[:2])
        size = Path(files.uri("raw/token-1.jsonl.zst")).stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, unlimited[1]))
        try:
            with pytest.raises(OSError, match="No space left"):
                journal.append(LINES[2:4])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        journal.append(LINES[4:])
    assert list(read_lines(files, "raw", "token")) == LINES[:2] + LINES[4:]


def test_many_threads_may_append(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    with Journal(files, "raw", "token-1") as journal:

        def append(part: int) -> None:
            for line in LINES[part::4]:
                journal.append([line])

        together(*[partial(append, part) for part in range(4)])
    assert sorted(read_lines(files, "raw", "token")) == sorted(LINES)
