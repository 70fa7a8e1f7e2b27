"""How names and contents get to the disk: what a power cut must not take back.

Belongs here: flushing, and nothing that is slow to import.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a local folder and those above it, so that they are there after a power cut as well."""
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
    """Flush files one after the other, beside what the block does, and wait for it at its end.

    Raises OSError there for the first that could not be flushed. If the block itself fails, what is
    not begun is left.
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
