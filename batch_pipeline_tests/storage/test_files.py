"""Files under the home, on a disk and in an object store: whole or not there."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline.errors import UsageError
from batch_pipeline.storage.files import STAGING, STAGING_MAX_AGE_SECONDS, Files


@pytest.fixture(params=["local", "remote"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    """A local and a remote home, one after the other."""
    remote = f"memory://home-{uuid.uuid4().hex}/deeper"
    return Files(str(tmp_path / "home") if request.param == "local" else remote)


def test_what_is_written_can_be_read_and_replaced(files: Files) -> None:
    assert files.read("a/b.json") is None
    files.write("a/b.json", b"one")
    assert files.read("a/b.json") == b"one"
    files.write("a/b.json", b"two")
    with files.open("a/b.json") as file:
        assert file.read() == b"two"
    files.remove("a/b.json")
    files.remove("a/b.json")
    assert files.read("a/b.json") is None


def test_list_shows_the_files_of_one_folder(files: Files) -> None:
    for path in ("a/2.parquet", "a/1.parquet", "a/1.json", "a/deeper/3.parquet", "b/4.parquet"):
        files.write(path, b"x")
    assert files.list("a", ".parquet") == ["a/1.parquet", "a/2.parquet"]
    assert files.list("nowhere", ".parquet") == []


def test_a_partition_key_with_glob_characters_is_a_plain_name(files: Files) -> None:
    """Keys hold dates today; on the day they do not, a listing must match that folder alone."""
    files.write("a/partition=x/1.parquet", b"x")
    assert files.list("a/partition=x", ".parquet") == ["a/partition=x/1.parquet"]
    files.remove("a")
    assert files.list("a/partition=x", ".parquet") == []


def test_a_folder_is_published_as_a_whole_and_stays(files: Files) -> None:
    for attempt in ("one", "two"):
        with files.staged() as folder:
            folder.mkdir()
            (folder / "x").write_bytes(b"same")
            (folder / "y").write_bytes(b"same")
            files.make_durable(folder)
            files.publish(folder, "snapshots/hash")
        assert not folder.exists(), attempt
    assert files.list("snapshots/hash", "") == ["snapshots/hash/x", "snapshots/hash/y"]


def test_nothing_is_left_of_what_was_not_published(files: Files) -> None:
    with files.staged(".x") as staged:
        staged.write_bytes(b"half of it")
    assert not staged.exists()
    assert staged.name.endswith(".x")
    with files.staged() as folder:
        folder.mkdir()
        (folder / "x").write_bytes(b"x")
    assert not folder.exists()


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    files.write("a", b"old")
    with files.staged() as staged:
        staged.write_bytes(b"new")
        assert files.read("a") == b"old"
        files.publish(staged, "a")
        assert files.read("a") == b"new"


def test_parquet_files_are_one_dataset_in_the_order_given(files: Files) -> None:
    for name, values in (("1", [1, 2]), ("2", [3])):
        with files.staged() as staged:
            pq.write_table(pa.table({"n": values}), staged)
            files.publish(staged, f"a/{name}.parquet")
    both = files.dataset(["a/2.parquet", "a/1.parquet"])
    assert both.to_table().column("n").to_pylist() == [3, 1, 2]


def test_sweep_removes_what_the_dead_left_long_ago(tmp_path: Path) -> None:
    files = Files(str(tmp_path))
    files.sweep()
    staging = tmp_path / STAGING
    staging.mkdir()
    long_ago = time.time() - STAGING_MAX_AGE_SECONDS - 60
    for name in ("old", "young"):
        (staging / name).write_bytes(b"x")
        (staging / f"{name} folder").mkdir()
        if name == "old":
            os.utime(staging / name, (long_ago, long_ago))
            os.utime(staging / f"{name} folder", (long_ago, long_ago))
    files.sweep()
    assert sorted(path.name for path in staging.iterdir()) == ["young", "young folder"]


def test_uris_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Files("home").uri("a/b") == str(tmp_path / "home" / "a" / "b")
    assert Files("memory://x/").uri("a/b") == "memory://x/a/b"


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(UsageError, match="BATCH_PIPELINE_HOME"),
        Files(str(tmp_path / "file")).staged(),
    ):
        pass


def test_new_folders_survive_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a folder stands in the folder above it, which has to be flushed as well."""
    flushed: list[Path] = []
    for module in ("durable", "files"):
        monkeypatch.setattr(f"batch_pipeline.storage.{module}.flush", flushed.append)
    home = tmp_path / "home"
    Files(str(home)).write("a/b/c.json", b"x")
    assert {tmp_path, home, home / "a", home / "a" / "b"} <= set(flushed)


@pytest.mark.parametrize(
    ("mode", "folder_bits", "file_bits"),
    [(None, 0, 0), (0o755, 0, 0), (0o777, 0, 0), (0o775, 0, 0), (0o2770, 0o070, 0o060),
     (0o2775, 0o070, 0o060), (0o770, 0o070, 0o060)],
)  # fmt: skip
def test_new_files_are_for_this_user_or_for_the_group_of_the_home(
    tmp_path: Path, mode: int | None, folder_bits: int, file_bits: int
) -> None:
    home = tmp_path / "home"
    if mode is not None:
        home.mkdir()
        home.chmod(mode)
    former = os.umask(0)
    try:
        files = Files(str(home))
        files.write("job/results/a.parquet", b"x")
        files.make_file("job/raw/b.zst")
        with files.staged() as folder:
            folder.mkdir()
            (folder / "x").write_bytes(b"x")
            files.publish(folder, "job/snapshots/c")
    finally:
        os.umask(former)
    assert mode is None or home.stat().st_mode & 0o7777 == mode
    for path in home.rglob("*"):
        bits = folder_bits if path.is_dir() else file_bits
        assert path.stat().st_mode & 0o077 == bits, path
    assert not Path(home, STAGING).stat().st_mode & 0o007


def test_the_staging_of_a_remote_home_is_closed_to_other_users() -> None:
    files = Files(f"memory://home-{uuid.uuid4().hex}")
    with files.staged() as path:
        assert path.parent.stat().st_mode & 0o077 == 0
        path.write_bytes(b"x")
    assert not path.exists()


def test_a_home_of_an_unknown_kind_says_what_to_install() -> None:
    with pytest.raises(UsageError, match=r"BATCH_PIPELINE_HOME is foo://x/y.*batch-pipeline\[s3\]"):
        Files("foo://x/y")
