"""An object store that is busy, out of reach or refuses access: waited for, or told at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from s3fs import S3FileSystem  # type: ignore[import-untyped]

from batch_pipeline.errors import StorageError
from batch_pipeline.storage import remote
from batch_pipeline.storage.files import Files
from batch_pipeline_tests.stores import (
    FaultProxy,
    as_another_process,
    credentials,
    new_bucket,
)


@pytest.fixture
def files(s3: str, proxy: FaultProxy) -> Files:
    """A home in a bucket behind the proxy."""
    return Files(f"s3://{new_bucket(s3)}/home")


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "ServiceUnavailable"), (500, "InternalError"), (429, "TooManyRequests")],
)
def test_a_store_that_fails_for_a_while_is_waited_for(
    files: Files, proxy: FaultProxy, status: int, code: str
) -> None:
    fault = proxy.fail(status, code, 6)
    files.write("a/1.json", b"one")
    fault.times += 4
    assert files.read("a/1.json") == b"one"
    fault.times += 4
    assert files.list("a", ".json") == ["a/1.json"]
    fault.times += 4
    assert files.move("a/1.json", "a/2.json")
    assert fault.seen == fault.times


def test_a_folder_that_cannot_be_listed_is_not_empty(files: Files, proxy: FaultProxy) -> None:
    """s3fs takes one for the other, and a night would seem never to have been bought."""
    files.write("a/b=1/1.json", b"one")
    files.write("a/b=2/2.json", b"two")
    fault = proxy.fail(503, "ServiceUnavailable", 3, "GET")
    assert files.list("a/b=1", ".json") == ["a/b=1/1.json"]
    fault.times += 3
    assert files.glob("a/b=*/*.json") == ["a/b=1/1.json", "a/b=2/2.json"]
    assert files.glob("a/*/1.json") == ["a/b=1/1.json"]
    assert files.glob("a/none/*.json") == files.glob("*.json") == []
    fault.times += 3
    assert files.size("a") == len(b"onetwo")
    proxy.fail(403, "AccessDenied", 2, "GET")
    with pytest.raises(PermissionError):
        files.list("a/b=1", ".json")
    with pytest.raises(PermissionError):
        files.glob("a/b=*")


def test_a_folder_is_removed_whole(files: Files, proxy: FaultProxy) -> None:
    for number in range(5):
        files.write(f"a/{number}[1].json", b"one")
    fault = proxy.fail(503, "SlowDown", 4, "GET", "DELETE", "POST")
    files.remove("a")
    assert fault.seen == 4
    assert files.size("a") == 0
    files.remove("a")
    proxy.fail(403, "AccessDenied", 1, "DELETE")
    files.write("a/1.json", b"one")
    with pytest.raises(PermissionError):
        files.remove("a")


def test_slow_down_is_waited_for(files: Files, proxy: FaultProxy) -> None:
    proxy.fail(503, "SlowDown", 7, "PUT")
    files.write("a/1.json", b"one")
    assert files.read("a/1.json") == b"one"


def test_a_slow_answer_is_waited_for(
    s3: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is asked to be taken again meanwhile would never be through a slow line."""
    monkeypatch.setattr(S3FileSystem, "read_timeout", 0.1)
    as_another_process()
    files = Files(f"s3://{new_bucket(s3)}/home")
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 3.0)
    proxy.before_write = lambda _path: time.sleep(0.5)
    files.write("a/1.json", b"one")
    assert proxy.requests["PUT"] == 1


def test_a_copy_is_made_in_the_store(files: Files, proxy: FaultProxy) -> None:
    files.write("a/1.json", b"one")
    proxy.fail(503, "ServiceUnavailable", 2)
    proxy.requests.clear()
    files.copy("a/1.json", "b/2.json")
    assert proxy.requests["GET"] == 0
    assert files.read("a/1.json") == files.read("b/2.json") == b"one"
    with pytest.raises(FileNotFoundError):
        files.copy("a/none.json", "b/3.json")


def test_a_file_that_is_open_is_read_on_after_a_fault(files: Files, proxy: FaultProxy) -> None:
    content = bytes(range(256)) * 1024
    files.write("a/1.bin", content)
    with files.open("a/1.bin") as file:
        assert file.read(5) == content[:5]
        file.seek(100_000)
        fault = proxy.fail(503, "ServiceUnavailable", 3, "GET")
        fault.times = 3
        assert file.read(1000) == content[100_000:101_000]
        file.seek(0)
        assert file.read() == content


def test_credentials_that_end_are_read_again(
    files: Files, proxy: FaultProxy, tmp_path: Path
) -> None:
    files.write("a/1.json", b"one")
    ended = proxy.expire("first")
    credentials(tmp_path, "second")
    files.write("a/2.json", b"two")
    assert files.read("a/1.json") == b"one"
    assert ended.seen == 1
    proxy.expire("second")
    credentials(tmp_path, "third")
    # A HEAD request is refused without a reason.
    assert files.move("a/1.json", "a/3.json")


def test_new_credentials_may_come_late(files: Files, proxy: FaultProxy, tmp_path: Path) -> None:
    files.write("a/1.json", b"one")
    ended = proxy.expire("first")
    of_the_first = ended.applies

    def late(headers: object) -> bool:
        if ended.seen == 8:
            credentials(tmp_path, "second")
        return of_the_first(headers)

    ended.applies = late
    files.write("a/2.json", b"two")
    assert ended.seen > 8


def test_definite_refusals_are_not_repeated(files: Files, proxy: FaultProxy) -> None:
    files.write("a/1.json", b"one")
    before = proxy.requests.total()
    denied = proxy.fail(403, "AccessDenied", float("inf"))
    with pytest.raises(PermissionError):
        files.write("a/2.json", b"two")
    # "Not there" would let a night be bought again.
    with pytest.raises(PermissionError):
        files.move("a/1.json", "a/2.json")
    assert denied.seen == 2
    assert proxy.requests.total() == before + 2
    denied.times = 0
    as_another_process()
    with pytest.raises(FileNotFoundError):
        Files("s3://no-such-bucket/home").write("a/1.json", b"one")


def test_patience_ends_with_an_error_for_people(
    files: Files, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.1)
    proxy.fail(503, "ServiceUnavailable", float("inf"))
    with pytest.raises(StorageError, match=r"has failed for .* Nothing is lost"):
        files.write("a/1.json", b"one")


def test_a_caller_that_cannot_wait_says_so(files: Files, proxy: FaultProxy) -> None:
    """The sensor: Dagster ends its tick after a minute, and would not say why."""
    proxy.fail(503, "ServiceUnavailable", float("inf"))
    with remote.patience(0.05):
        for _ in range(3):
            with pytest.raises(StorageError):
                files.write("a/1.json", b"one")


def test_files_of_another_process_are_seen_and_read(files: Files) -> None:
    """s3fs keeps listings unless it is told not to."""
    as_another_process()
    other = Files(files.home)
    files.write("a/1.json", b"one")
    assert files.list("a", ".json") == ["a/1.json"]
    other.write("a/2.json", b"two")
    assert files.read("a/2.json") == b"two"
    assert files.list("a", ".json") == ["a/1.json", "a/2.json"]
    other.write("a/1.json", b"longer than before")
    assert files.read("a/1.json") == b"longer than before"
    other.remove("a/2.json")
    assert files.size("a") == len(b"longer than before")
    assert files.read("a/2.json") is None


def test_a_store_that_cannot_be_reached_is_waited_for(
    s3: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(s3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    as_another_process()
    files = Files(f"s3://{bucket}/home")
    monkeypatch.setattr(remote, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(StorageError):
        files.write("a/1.json", b"one")


def test_threads_that_wait_together_all_go_on(
    files: Files, proxy: FaultProxy, tmp_path: Path
) -> None:
    files.write("a/0.json", b"zero")
    proxy.expire("first")
    credentials(tmp_path, "second")
    threads = [
        threading.Thread(target=files.write, args=(f"a/{n}.json", b"x")) for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files.list("a", ".json")) == 9
