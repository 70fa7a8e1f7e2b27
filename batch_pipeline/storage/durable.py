"""Flushing files and folders of a local disk, so that a power cut does not take them back."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a local folder and its missing parents, and flush their names to the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        flush(path.parent)


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
