"""Local folders in which files are made before they go to a remote home.

Each process has one, `<temporary folder>/batch_pipeline-<user>/<any name>`, with a lock that the
system lets go when the process ends, however it ends. So a folder whose lock can be taken was left
by a dead process: true over process namespaces, and after a restart of the machine.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
import uuid
from pathlib import Path

from batch_pipeline.errors import UsageError

LOCK = "lock"

# The folder of each process by its id: a process that was forked from this one makes its own.
_folders: dict[int, tuple[Path, int]] = {}
_making = threading.Lock()


def folder() -> Path:
    """This process's folder, closed to other users; made where it is missing."""
    with _making:
        mine = _folders.get(os.getpid())
        if mine is None or not mine[0].is_dir():
            mine = _folders[os.getpid()] = _made()
        return mine[0]


def sweep() -> None:
    """Remove the folders of processes of this user that have ended."""
    for path in of_user().iterdir():
        if not path.is_dir():
            continue
        descriptor = _lock(path / LOCK)
        if descriptor is None:
            # One whose process died before it made the lock has nothing in it either.
            with contextlib.suppress(OSError):
                path.rmdir()
            continue
        try:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def of_user() -> Path:
    """The folder of all processes of this user on this machine; made where it is missing."""
    path = Path(tempfile.gettempdir(), f"batch_pipeline-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
    status = path.lstat()
    # Anyone may make a folder of that name where all users share one folder for temporary files.
    if path.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UsageError(
            f"{path} belongs to another user or is open to others: remove it, or set TMPDIR to a "
            "folder of your own."
        )
    return path


def _made() -> tuple[Path, int]:
    """A new folder and its lock."""
    while True:
        path = of_user() / uuid.uuid4().hex
        path.mkdir(0o700)
        with contextlib.suppress(FileNotFoundError):
            (path / LOCK).touch(0o600)
        descriptor = _lock(path / LOCK)
        # Another process that sweeps may have taken the new folder for that of a dead process.
        if descriptor is not None and (path / LOCK).exists():
            atexit.register(_remove, path, os.getpid())
            return path, descriptor
        if descriptor is not None:
            os.close(descriptor)


def _remove(path: Path, process: int) -> None:
    if process == os.getpid():
        shutil.rmtree(path, ignore_errors=True)


def _lock(file: Path) -> int | None:
    """A descriptor that holds the file's lock; None where a living process holds it, or there is
    no file."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
