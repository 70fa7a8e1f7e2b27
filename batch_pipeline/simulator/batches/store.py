"""The batch store: creates, lists, ends, cancels and deletes batches.

There are no timers: a batch whose turnaround is over is settled (results written, bill booked) by
the first call that looks at it. HTTP belongs to `app`.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import timedelta
from pathlib import Path

import orjson

from batch_pipeline.simulator.answers.prompt_cache import Work
from batch_pipeline.simulator.answers.source_text import Dice
from batch_pipeline.simulator.batches.batch import Batch, Pace
from batch_pipeline.simulator.batches.settlement import Responder, settle
from batch_pipeline.simulator.batches.spool import Spool, request_lines
from batch_pipeline.simulator.books.books import Books
from batch_pipeline.simulator.database import Database
from batch_pipeline.simulator.faults.declaration import RequestFaults
from batch_pipeline.simulator.faults.foreign import foreign_entries
from batch_pipeline.simulator.faults.requests import RequestFaultInjection, check_body
from batch_pipeline.simulator.faults.schedule import FaultSchedule
from batch_pipeline.simulator.wire import (
    BATCH_LIFETIME_SECONDS,
    RESULTS_KEPT_SECONDS,
    RETRY_AFTER_SECONDS,
    ApiError,
    invalid_request,
    new_id,
    not_found,
    now,
)
from batch_pipeline.simulator.workspaces import Workspace

_CANCEL_SHARE_OF_TURNAROUND = 0.05


class BatchStore:
    """All batches of the simulated organisations; safe for many threads."""

    def __init__(
        self, database: Database, books: Books, spool: Spool, responder: Responder,
        schedule: FaultSchedule, *, pace: Pace, queue_limit: int,
    ) -> None:  # fmt: skip
        self._database, self._books, self._spool = database, books, spool
        self._responder = responder
        self._schedule = schedule
        self.pace = pace
        self._queue_limit = queue_limit
        self._queue_limits: dict[str, int] = {}  # of organisations with one of their own
        # Guards the two dictionaries.
        self._lock = threading.RLock()
        # One settlement at a time: several at once would leave no processor for the polls.
        self._settling = threading.Lock()
        self._batches: dict[str, Batch] = {}
        # Batches that are not settled: id → start on the monotonic clock.
        self._running: dict[str, float] = {}
        self._load()

    def _load(self) -> None:
        """Read the batches of an earlier simulator; those that ran go on, old ones are removed."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT body FROM batch ORDER BY ordinal").fetchall()
            for (body,) in rows:
                batch = Batch.from_json(body)
                if (now() - batch.created_at).total_seconds() > RESULTS_KEPT_SECONDS:
                    connection.execute("DELETE FROM batch WHERE id = ?", (batch.id,))
                elif batch.counts is None:
                    self._run(batch)
                else:
                    self._batches[batch.id] = batch
        self._spool.keep_only({batch.id for batch in self._batches.values() if not batch.deleted})

    def queue_limit(self, organisation: str) -> int:
        """The most requests in the queue of an organisation."""
        return self._queue_limits.get(organisation, self._queue_limit)

    def set_queue_limit(self, requests: int, organisation: str | None) -> None:
        """Set the limit of an organisation; None: of all that have none of their own."""
        if organisation is None:
            self._queue_limit = requests
        else:
            self._queue_limits[organisation] = requests

    # Creating.

    def create(self, incoming: Path, version: str, workspace: Workspace) -> Batch:
        """Create a batch from a received body; the files of a refused one are removed.

        Errors: `ApiError` 400 for an unacceptable batch, 429 for a queue without room.
        """
        batch_id = new_id("msgbatch")
        size = incoming.stat().st_size
        digests = self._spool.unpack(incoming, batch_id)
        foreign_before, foreign_after = self._schedule.foreign_batches_of_next_create()
        try:
            if foreign_before:
                self.create_foreign_like(len(digests), workspace)
            self._check_body(batch_id, size)
            with self._lock:
                return self._accept(batch_id, digests, version, workspace)
        except BaseException:
            self._spool.remove(batch_id)
            raise
        finally:
            if foreign_after:
                self.create_foreign_like(len(digests), workspace)

    def _check_body(self, batch_id: str, size: int) -> None:
        rules = self._schedule.faults.refused_bodies
        if rules:
            try:
                check_body(rules, size, request_lines(self._spool.requests(batch_id)))
            except ApiError:
                self._books.count_fault("create.refused_body")
                raise

    def create_foreign_like(self, ours: int, workspace: Workspace) -> None:
        """Create another tenant's batch, of the declared size or (none declared) of `ours`."""
        self.create_foreign(self._schedule.faults.foreign_batches.requests or ours, workspace)

    def create_foreign(self, total: int, workspace: Workspace) -> Batch:
        """Create another tenant's batch: listed, counted in the queue, not billed to us."""
        batch_id = new_id("msgbatch")
        self._spool.write_requests(batch_id, foreign_entries(batch_id, total))
        with self._lock:
            return self._add(self._new(batch_id, total, "", workspace, foreign=True))

    def _accept(
        self, batch_id: str, digests: list[bytes], version: str, workspace: Workspace
    ) -> Batch:
        queue = self._schedule.faults.queue
        organisation, limit = workspace.organisation, self.queue_limit(workspace.organisation)
        queued = self.queued(organisation) + queue.foreign_requests + len(digests)
        if queue.enforced and queued > limit:
            raise ApiError(
                429,
                "rate_limit_error",
                f"This batch would bring the organization to {queued} batch requests in the"
                f" processing queue; the limit is {limit}.",
                {"retry-after": str(RETRY_AFTER_SECONDS)},
            )
        batch = self._new(batch_id, len(digests), version, workspace)
        share = self._schedule.share_done_of_next_batch()
        if share is not None:
            batch = dataclasses.replace(batch, done=int(batch.total * share), rest="expired")
        with self._database.transaction():
            if share is not None:
                self._books.count_fault("expired_batches")
            self._books.accept(digests)
            ours = self.queued(organisation, foreign=False) + len(digests)
            self._books.count_batch(workspace, ours, self.queued(foreign=False) + len(digests))
            return self._add(batch)

    def _new(
        self, batch_id: str, total: int, version: str, workspace: Workspace, *,
        foreign: bool = False,
    ) -> Batch:  # fmt: skip
        spread = Dice(self._responder.seed ^ (len(self._batches) * 0x9E3779B97F4A7C15))
        spread.below(2)  # the first throw of neighbouring seeds is too much alike
        pace = 0.5 + spread.unit()
        return Batch(batch_id, total, version, pace, now(), workspace, foreign=foreign)

    def _add(self, batch: Batch) -> Batch:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO batch (id, body) VALUES (?, ?)", (batch.id, _as_text(batch))
            )
            if batch.foreign:
                self._books.count_foreign_batch()
        self._run(batch)
        return batch

    def _run(self, batch: Batch) -> None:
        """Let a batch run, since its creation: writing it down has taken a moment."""
        self._batches[batch.id] = batch
        self._running[batch.id] = time.monotonic() - (now() - batch.created_at).total_seconds()

    def queued(self, organisation: str | None = None, *, foreign: bool = True) -> int:
        """Requests of batches that have not ended, of one organisation or (None) of all.

        `foreign`: those of other tenants as well.
        """
        with self._lock:
            return sum(
                batch.total
                for batch in (self._batches[batch_id] for batch_id in self._running)
                if (foreign or not batch.foreign)
                and organisation in (None, batch.workspace.organisation)
                and not self._is_due(batch)
            )

    # Looking.

    def get(self, batch_id: str, workspace: Workspace | None = None) -> Batch:
        """A batch, of any workspace or (`workspace` given) of one.

        Errors: `ApiError` 404.
        """
        with self._lock:
            batch = self._batches.get(batch_id)
        if batch is None or batch.deleted or workspace not in (None, batch.workspace):
            raise not_found(f"Message Batch {batch_id} not found.")
        return batch

    def of(self, workspace: Workspace) -> list[Batch]:
        """The batches of a workspace, oldest first."""
        with self._lock:
            return [each for each in self._batches.values() if each.workspace == workspace]

    def touch(self, batch_id: str, action: str) -> None:
        """Record a call for one batch in the books, if the batch is another tenant's."""
        with self._lock:
            batch = self._batches.get(batch_id)
        if batch is not None and batch.foreign:
            self._books.touch_foreign(batch_id, action)

    def page(
        self,
        workspace: Workspace,
        limit: int,
        after_id: str | None,
        before_id: str | None,
        missing: AbstractSet[str] = frozenset(),
    ) -> tuple[list[Batch], bool]:
        """A page of a workspace's batches, newest first, and whether there are more beyond it.

        `missing`: ids of batches that the list does not show.
        """

        def shown(batch: Batch) -> bool:
            return not batch.deleted and batch.id not in missing

        newest_first = self.of(workspace)[::-1]
        cursor = after_id or before_id
        position = -1
        if cursor is not None:
            ids = [batch.id for batch in newest_first]
            if cursor not in ids:
                raise invalid_request(f"after_id or before_id: no Message Batch {cursor}")
            position = ids.index(cursor)
        if before_id is not None:
            found = [batch for batch in newest_first[:position] if shown(batch)]
            return found[-limit:], len(found) > limit
        found = [batch for batch in newest_first[position + 1 :] if shown(batch)]
        return found[:limit], len(found) > limit

    def results(self, batch_id: str) -> Path:
        """The file of an ended batch's result lines."""
        if self.get(batch_id).counts is None:
            raise not_found(f"Message Batch {batch_id} has no available results yet.")
        return self._spool.results(batch_id)

    # Ending.

    def needs_settling(self, batches: Iterable[Batch]) -> bool:
        with self._lock:  # looked up again: another thread may have settled them meanwhile
            current = [self._batches[batch.id] for batch in batches]
            return any(batch.counts is None and self._is_due(batch) for batch in current)

    def settle_due(self, batches: Iterable[Batch], patience: float) -> None:
        """Settle batches whose turnaround is over; begins none after `patience` seconds.

        The others are shown as running, and a later call settles them.
        """
        deadline = time.monotonic() + patience
        for batch in batches:
            left = deadline - time.monotonic()
            if left <= 0 or not self._settling.acquire(timeout=left):
                return
            try:
                with self._lock:
                    current = self._batches[batch.id]
                    due = current.counts is None and self._is_due(current)
                if due:
                    self._settle(current)
            finally:
                self._settling.release()

    def _settle(self, batch: Batch) -> None:
        with self._lock:
            batch = self._with_end(self._batches[batch.id])
            self._replace(batch)
        done = batch.total if batch.done is None else batch.done
        faults = RequestFaults() if batch.foreign else self._schedule.faults.requests
        injection = RequestFaultInjection(
            faults, self._schedule.seed, "batch", self._books.attempts, self._schedule.faults.billed
        )
        settled = settle(
            self._spool.requests(batch.id), self._spool.results(batch.id), self._responder,
            injection, version=batch.version, done=done, rest=batch.rest, work=self._work(batch),
        )  # fmt: skip
        with self._lock, self._database.transaction():
            if not batch.foreign:
                self._books.count_attempts(settled.attempted)
                self._books.book(settled.bill, batch.workspace)
            for name, times in injection.injected.items():
                self._books.count_fault(name, times)
            self._replace(dataclasses.replace(batch, counts=settled.counts))
            self._running.pop(batch.id)
        self._spool.requests(batch.id).unlink()

    def _work(self, batch: Batch) -> Work:
        """When a batch was worked on, and what its requests find in the prompt cache."""
        assert batch.ended_at is not None
        begin, end = batch.created_at.timestamp(), batch.ended_at.timestamp()
        return Work(begin, end, str(batch.workspace), self._responder.cache.batch_hits)

    def _with_end(self, batch: Batch) -> Batch:
        """The batch with the time of its end and the number of its answers fixed."""
        if batch.ended_at is not None:
            return batch
        seconds = self._time_to_end(batch)
        if seconds <= BATCH_LIFETIME_SECONDS:
            return dataclasses.replace(
                batch, ended_at=batch.created_at + timedelta(seconds=seconds)
            )
        done = int(batch.total * BATCH_LIFETIME_SECONDS / seconds)
        return dataclasses.replace(batch, ended_at=batch.expires_at, done=done, rest="expired")

    def _is_due(self, batch: Batch) -> bool:
        if batch.ended_at is not None:
            return True
        return self._elapsed(batch) >= min(self._time_to_end(batch), BATCH_LIFETIME_SECONDS)

    def _elapsed(self, batch: Batch) -> float:
        return time.monotonic() - self._running[batch.id]

    def _duration(self, batch: Batch) -> float:
        return self.pace.turnaround * batch.pace

    def _time_to_end(self, batch: Batch) -> float:
        """Seconds from creation to end as known now; infinite while batches are held."""
        duration = self._duration(batch)
        if batch.cancel_initiated_at is not None:
            before_cancel = (batch.cancel_initiated_at - batch.created_at).total_seconds()
            return before_cancel + duration * _CANCEL_SHARE_OF_TURNAROUND
        if self.pace.held:
            return math.inf
        return max(duration, self.pace.released_at - self._running[batch.id])

    # Canceling and deleting.

    def cancel(self, batch_id: str) -> Batch:
        """Begin to cancel: requests that are not answered yet end as `canceled`.

        Errors: `ApiError` 400 for a batch that has ended.
        """
        with self._lock:
            batch = self.get(batch_id)
            if batch.counts is not None or self._is_due(batch):
                if batch.cancel_initiated_at is not None:
                    return batch
                raise invalid_request(f"Message Batch {batch_id} has ended; it cannot be canceled.")
            if batch.cancel_initiated_at is None:
                share = self.pace.done_at_cancel
                if share is None:
                    duration = self._duration(batch)
                    share = min(1.0, self._elapsed(batch) / duration) if duration else 0.0
                batch = dataclasses.replace(
                    batch,
                    cancel_initiated_at=now(),
                    done=int(batch.total * share),
                    rest="canceled",
                )
                self._replace(batch)
            return batch

    def delete(self, batch_id: str) -> None:
        with self._lock:
            batch = self.get(batch_id)
            if batch.counts is None:
                raise invalid_request(
                    f"Message Batch {batch_id} is still processing; cancel it before deleting it."
                )
            self._replace(dataclasses.replace(batch, deleted=True))
        self._spool.remove(batch_id)

    def _replace(self, batch: Batch) -> None:
        with self._lock, self._database.transaction() as connection:
            connection.execute(
                "UPDATE batch SET body = ? WHERE id = ?", (_as_text(batch), batch.id)
            )
            self._batches[batch.id] = batch


def _as_text(batch: Batch) -> str:
    return orjson.dumps(batch).decode()
