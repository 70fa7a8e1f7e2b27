"""Asks a process what a document is, and starts another one where a document has ended it.

Belongs here: this end of `inspect_process`, and what a file is called that has ended it.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict
from threading import Lock
from typing import Any

from batch_pipeline.flow.dataset.documents.inspection import inspect_process
from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Facts, Refused, Want
from batch_pipeline.flow.dataset.limited_process import LimitedProcess

# By the clock; for a child that waits for something and computes nothing.
MOST_WAIT_SECONDS = 120
UNREADABLE = "cannot be read within the limits"

_lock = Lock()
_running: LimitedProcess | None = None
_has_answered = False


def inspect(want: Want) -> Facts:
    """What a document is; raises Refused where it cannot be sent, and WorkerDiedError where the
    process cannot be started."""
    found = _ask(want)
    if "refused" in found:
        reason, detail, too_large = found["refused"]
        raise Refused(reason, detail, too_large=too_large)
    return Facts(**found["facts"])


def thumbnail(path: str, media_type: str) -> bytes | None:
    """A small JPEG of a local file: of an image, or of a PDF's first page; None where there is none
    to be had."""
    kind = "pdf" if media_type == "application/pdf" else "image"
    try:
        found = _ask(Want(path, kind, path, thumbnail=True))
    except Refused:
        return None
    return base64.b64decode(found["thumbnail"]) if "thumbnail" in found else None


def _ask(want: Want) -> dict[str, Any]:
    """The answer. A process may be ended by what files before have left in its memory: where it has
    answered before, the file is tried once more in a new one."""
    with _lock:
        tried_alone = not _has_answered
        try:
            return _ask_once(want)
        except _Ended as ended:
            if tried_alone or ended.waited:
                raise _refused(ended) from None
        try:
            return _ask_once(want)
        except _Ended as ended:
            raise _refused(ended) from None


class _Ended(Exception):
    """The process has ended in the middle of a request; `waited`: because it took too long."""

    def __init__(self, *, waited: bool) -> None:
        self.waited = waited


def _refused(ended: _Ended) -> Refused:
    if ended.waited:
        after = f"its process had not answered after {MOST_WAIT_SECONDS} s"
    else:
        after = (
            f"its process ended at {inspect_process.MOST_BYTES >> 20:,} MiB of memory or "
            f"{inspect_process.MOST_SECONDS} s"
        )
    return Refused(UNREADABLE, f"{after}; the file is at fault")


def _ask_once(want: Want) -> dict[str, Any]:
    global _running, _has_answered  # noqa: PLW0603  # one process for all files, as starting it takes long
    if _running is None:
        # No keys, no addresses of databases: a file that takes the process over finds none.
        environment = {
            name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ
        }
        _running = LimitedProcess(
            inspect_process.__name__, "reads documents", environment, inspect_process.MOST_BYTES
        )
        _has_answered = False
    request = {**asdict(want), "seconds": inspect_process.MOST_SECONDS}
    try:
        found: dict[str, Any] = json.loads(
            _running.ask(json.dumps(request).encode(), MOST_WAIT_SECONDS)
        )
    except (EOFError, OSError) as error:  # TimeoutError is one
        _stop()
        raise _Ended(waited=isinstance(error, TimeoutError)) from None
    except BaseException:
        # Of an answer that is not waited for the next request must not read anything.
        _stop()
        raise
    _has_answered = True
    return found


def _stop() -> None:
    global _running, _has_answered
    if _running is not None:
        _running.end()
    _running, _has_answered = None, False
