"""Where a row's document is: from a path, a URL, bytes, or the row's own file to what opens it."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from dataclasses import dataclass
from pathlib import Path

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Refused
from batch_pipeline.flow.dataset.reading.files import SourceFile
from batch_pipeline.flow.dataset.reading.listing import filesystem_of, is_remote
from batch_pipeline.flow.dataset.reading.streams import GONE

OUTSIDE = "path outside of input.root"
UNREADABLE = "document cannot be read"
EMPTY = "empty file"


@dataclass(frozen=True)
class Place:
    """A document that is there: `path` is what the user gave, `name` and `store` open it, as in
    `SourceFile`; `stored` says that the home keeps it."""

    path: str
    name: str
    store: str | None
    size: int
    stored: bool = False


def of_file(file: SourceFile) -> Place:
    """The place of a row's own file; its size as it is now."""
    return _seen(file.path, file.name, file.store)


def under_root(root: str, path: str) -> Place:
    """The place of a path in a column, which has to stay inside of the root, links followed.

    Raises Refused for one that does not, and for what cannot be read; InputDataError where the root
    is not there, as it would be where a disk is not mounted.
    """
    if "\x00" in path or not path.strip():
        raise Refused(UNREADABLE, f"{path!r} is no path")
    if is_remote(root):
        return _under_url(root, path)
    base = os.path.realpath(Path(root).expanduser())
    if not os.path.isdir(base):  # noqa: PTH112
        raise InputDataError(
            f"input.root {root} is no folder here: is it mounted? Correct input.root, or make it "
            "available, then run again."
        )
    name = os.path.realpath(os.path.join(base, path))  # noqa: PTH118
    if os.path.commonpath((base, name)) != base:
        raise Refused(OUTSIDE, path)
    return _seen(path, name, None)


def _under_url(root: str, path: str) -> Place:
    _, base = filesystem_of(root)
    base = base.rstrip("/")
    name = posixpath.normpath(posixpath.join(base, path))
    if not name.startswith(f"{base}/"):
        raise Refused(OUTSIDE, path)
    return _seen(path, name, root)


def _seen(path: str, name: str, store: str | None) -> Place:
    """A place with its size; Refused where there is no file that can be read."""
    try:
        if store is None:
            status = Path(name).stat()
            regular, size = stat.S_ISREG(status.st_mode), status.st_size
        else:
            filesystem, _ = filesystem_of(store)
            found = filesystem.info(name)
            regular, size = found["type"] == "file", int(found["size"] or 0)
    except OSError as error:
        raise cannot_be_read(path, error) from None
    except Exception as error:
        # Remote backends raise what their HTTP clients raise; anything else is a bug.
        if store is None:
            raise
        raise InputDataError(
            f"{path}: cannot be read for now: {type(error).__name__}: {error}. Run again."
        ) from error
    if not regular:
        raise Refused(UNREADABLE, f"{path}: not a regular file")
    if not size:
        raise Refused(EMPTY, path)
    return Place(path, name, store, size)


def cannot_be_read(path: str, error: OSError) -> Refused | InputDataError:
    """What an error of reading comes to: a file that is gone or closed concerns its row alone."""
    missing = os.strerror(errno.ENOENT) if isinstance(error, FileNotFoundError) else None
    why = error.strerror or missing or type(error).__name__
    if isinstance(error, GONE) or error.errno is not None:
        return Refused(UNREADABLE, f"{path}: {why}")
    return InputDataError(f"{path}: cannot be read for now: {error}. Run again.")
