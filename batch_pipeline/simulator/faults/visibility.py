"""Hides batches that exist: leaves them out of the list, or answers 404 for a while.

Whether a call sees a batch depends on the batch's age and on the number of earlier calls. The
declaration may change at any time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from batch_pipeline.simulator.batches.batch import Batch
from batch_pipeline.simulator.books.books import Books
from batch_pipeline.simulator.faults.declaration import While
from batch_pipeline.simulator.faults.schedule import FaultSchedule
from batch_pipeline.simulator.wire import STATUS_TYPES, ApiError, now
from batch_pipeline.simulator.workspaces import Workspace


class HiddenError(ApiError):
    """The answer to a call for a batch, or results, that exist and are hidden."""


class Visibility:
    """Decides which batches a call sees; safe for many threads."""

    def __init__(self, schedule: FaultSchedule, books: Books) -> None:
        self._schedule, self._books = schedule, books
        self._lock = threading.Lock()
        self._hidden: Counter[tuple[str, str]] = Counter()  # (phase, batch id) → calls hidden from
        self._looks: Counter[Workspace] = Counter()
        self._first_look: dict[str, int] = {}
        self._listed: set[str] = set()

    def begin_look(self, workspace: Workspace) -> None:
        """Count a list call without a cursor."""
        with self._lock:
            self._looks[workspace] += 1

    def missing_from_list(self, batches: Iterable[Batch]) -> set[str]:
        """Ids of batches that the list does not show yet."""
        lag = self._schedule.faults.list.lag
        missing = set()
        with self._lock:
            for batch in batches:
                if batch.id in self._listed:
                    continue
                looks = self._looks[batch.workspace]
                looks_before = looks - self._first_look.setdefault(batch.id, looks)
                if looks_before < lag.calls or _is_younger(batch.created_at, lag.seconds):
                    missing.add(batch.id)
                else:
                    self._listed.add(batch.id)  # it never disappears again
        if missing:
            self._books.count_fault("list.lag", len(missing))
        return missing

    def check_retrieve(self, batch: Batch) -> None:
        """Raise `HiddenError` 404 for a batch that is hidden after its creation or its end."""
        declared = self._schedule.faults.retrieve
        phases: list[tuple[str, While, datetime | None]] = [
            ("after_create", declared.not_found_after_create, batch.created_at)
        ]
        if batch.counts is not None:
            phases.append(("after_end", declared.not_found_after_end, batch.ended_at))
        for phase, condition, since in phases:
            if self._hides(f"retrieve.not_found_{phase}", batch, condition, since):
                raise HiddenError(404, "not_found_error", f"Message Batch {batch.id} not found.")

    def check_results(self, batch: Batch) -> None:
        """Raise `HiddenError` for results that exist and are hidden after the batch's end."""
        declared = self._schedule.faults.results.unavailable_after_end
        if batch.counts is None:
            return
        if self._hides("results.unavailable_after_end", batch, declared, batch.ended_at):
            kind = STATUS_TYPES.get(declared.status, "api_error")
            message = f"Message Batch {batch.id} has no available results yet."
            raise HiddenError(declared.status, kind, message)

    def _hides(self, phase: str, batch: Batch, condition: While, since: datetime | None) -> bool:
        key = (phase, batch.id)
        with self._lock:
            by_calls = self._hidden[key] < condition.calls
            if not by_calls and not _is_younger(since, condition.seconds):
                return False
            self._hidden[key] += 1
        self._books.count_fault(phase)
        return True


def _is_younger(moment: datetime | None, seconds: float) -> bool:
    return seconds > 0 and moment is not None and (now() - moment).total_seconds() < seconds
