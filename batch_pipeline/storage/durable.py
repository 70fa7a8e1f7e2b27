"""Flushing files and folders of a local disk, so that a power cut does not take them back."""

from __future__ import annotations

import contextlib
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def make_folder(folder: Path, shared: int = 0) -> None:
    """Make a local folder and its missing parents for this user alone, and flush their names.

    `shared` are the bits of `shared_with_group`, where its group uses the folder too.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
            if shared:
                path.chmod(0o700 | shared)
    folder.mkdir(exist_ok=True)  # raises where a file is in the way
    for path in missing:
        flush(path.parent)


def make_file(file: Path, shared: int = 0) -> None:
    """Make an empty local file for this user alone; one that exists stays as it is."""
    with contextlib.suppress(FileExistsError):
        file.touch(0o600, exist_ok=False)
        if shared:
            close_to_others(file, shared)


def close_to_others(path: Path, shared: int = 0) -> None:
    """Take a file or a folder away from other users, save a group that it is shared with."""
    path.chmod(0o700 | shared if path.is_dir() else 0o600 | shared & 0o060)


def shared_with_group(folder: Path) -> int:
    """The mode bits that new files and folders in an existing folder get for its group.

    0 unless the folder was given to a group on purpose: the group may write, new files get the
    folder's group, and no other user has access or the folder has the bit that hands its group on.
    """
    try:
        status = folder.stat()
    except OSError:
        return 0
    mode = status.st_mode
    handed_on = bool(mode & stat.S_ISGID)
    closed = not mode & stat.S_IRWXO and status.st_gid == os.getegid()
    meant = mode & stat.S_IWGRP and (handed_on or closed)
    return mode & (stat.S_IRWXG | stat.S_ISGID) if meant else 0


def flush(path: Path) -> None:
    """Flush a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def flushing() -> Iterator[Callable[[Path], None]]:
    """A function that has a thread flush files while the block goes on; waits for it at the end.

    Raises OSError at the end for the first file that could not be flushed. Where the block itself
    fails, files that are still waiting are not flushed.
    """
    paths: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
    errors: list[OSError] = []
    given_up = threading.Event()

    def run() -> None:
        while (path := paths.get()) is not None:
            if given_up.is_set():
                continue
            try:
                flush(path)
            except OSError as error:
                errors.append(error)
                given_up.set()

    thread = threading.Thread(target=run, name="flush", daemon=True)
    thread.start()
    try:
        yield paths.put
    except BaseException:
        given_up.set()
        raise
    finally:
        paths.put(None)
        thread.join()
    if errors:
        raise errors[0]
