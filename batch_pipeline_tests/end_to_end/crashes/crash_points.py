"""Every point between two effects of a process on the world, and a death at one of them.

Effects are what another process or a later run can see: files that get their name or go away,
transactions of the ledger, calls of the API, lines of the journal. `install` wraps them in this
process; a point is reached before and after each.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from batch_pipeline.api.client import AnthropicApi
from batch_pipeline.api.messages import AnthropicMessages
from batch_pipeline.api.protocol import Answer, BatchInfo, Streamed
from batch_pipeline.flow.batches import changed_documents
from batch_pipeline.flow.dataset.documents.store import DocumentStore
from batch_pipeline.flow.realtime.journal import Journal
from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.storage.files import Files

# A point by its number, or as the n-th of a name.
Fatal = int | tuple[str, int]


class Points:
    """Counts the points of this process, names each in a file, and kills it at the `fatal` one."""

    def __init__(self, trace: Path, fatal: Fatal | None) -> None:
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._fatal = fatal
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reach(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1
            os.write(self._trace, f"{name}\n".encode())
            if self._fatal in (self._counts.total(), (name, self._counts[name])):
                os.kill(os.getpid(), signal.SIGKILL)


def install(points: Points) -> None:
    """From now on this process reaches points; there is no way back."""
    for owner, names in (
        (Files, ("make_durable", "publish", "copy", "link", "remove")),
        (Journal, ("append",)),
        (DocumentStore, ("add",)),
        (changed_documents, ("take_out",)),
        (AnthropicApi, ("retrieve_batch", "list_batches", "cancel_batch")),
    ):
        for name in names:
            label = f"{owner.__name__.rpartition('.')[2]}.{name}"
            setattr(owner, name, _around(points, label, getattr(owner, name)))
    _wrap_ledger(points)
    _wrap_message(points)
    _wrap_create(points)
    _wrap_results(points)
    _wrap_look(points)


def _around(points: Points, label: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        points.reach(f"before {label}")
        result = function(*arguments, **named)
        points.reach(f"after {label}")
        return result

    return call


def _wrap_ledger(points: Points) -> None:
    original = Ledger.write

    @contextmanager
    def write(self: Ledger) -> Iterator[Connection]:
        with original(self) as connection:
            yield connection
            points.reach("before commit")
        points.reach("after commit")

    Ledger.write = write  # type: ignore[method-assign]


def _wrap_message(points: Points) -> None:
    original = AnthropicMessages.create

    async def create(
        self: AnthropicMessages, params: bytes | Streamed, betas: Sequence[str]
    ) -> Answer:
        points.reach("before AnthropicMessages.create")
        answer = await original(self, params, betas)
        points.reach("after AnthropicMessages.create")
        return answer

    AnthropicMessages.create = create  # type: ignore[method-assign]


def _wrap_create(points: Points) -> None:
    original = AnthropicApi.create_batch

    def create_batch(
        self: AnthropicApi, body: Iterator[bytes], length: int, betas: Sequence[str]
    ) -> BatchInfo:
        def watched() -> Iterator[bytes]:
            for chunk in body:
                points.reach("before a chunk of a body")
                yield chunk
            points.reach("after the last chunk of a body")

        points.reach("before create_batch")
        batch = original(self, watched(), length, betas)
        points.reach("after create_batch")
        return batch

    AnthropicApi.create_batch = create_batch  # type: ignore[method-assign]


def _wrap_results(points: Points) -> None:
    original = AnthropicApi.stream_results

    @contextmanager
    def stream_results(self: AnthropicApi, batch_id: str) -> Iterator[Iterator[bytes]]:
        def watched(chunks: Iterator[bytes]) -> Iterator[bytes]:
            for chunk in chunks:
                points.reach("before a chunk of results")
                yield chunk
            points.reach("after the last chunk of results")

        points.reach("before stream_results")
        with original(self, batch_id) as chunks:
            yield watched(chunks)

    AnthropicApi.stream_results = stream_results  # type: ignore[method-assign]


def _wrap_look(points: Points) -> None:
    original = changed_documents.looked_at

    @contextmanager
    def looked_at(*arguments: Any) -> Iterator[changed_documents.Looked]:
        points.reach("before changed_documents.looked_at")
        with original(*arguments) as looked:
            points.reach("after changed_documents.looked_at")
            yield looked

    changed_documents.looked_at = looked_at  # type: ignore[assignment]
