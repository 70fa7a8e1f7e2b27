"""Nights that real time has a part in, killed and frozen at random: all of one, or what is late.

Batches that do not end by themselves make the second kind late: what is at the API is taken over
before the deadline, while both of a night's processes suffer blows and the API misbehaves.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from batch_pipeline.errors import LedgerError
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.submissions.submissions import IN_QUEUE, LIVE, State
from batch_pipeline.simulator import Faults, Simulator
from batch_pipeline_tests.end_to_end.crashes.crash_books import Figures, check
from batch_pipeline_tests.end_to_end.crashes.crash_nights import (
    HOSTILE,
    HOSTILE_RECONCILE_SECONDS,
    a_night,
    caching_of,
    pursued,
)
from batch_pipeline_tests.end_to_end.crashes.crash_processes import Forks, Work
from batch_pipeline_tests.support import set_deadline, submissions_of, takeovers_of

_CALLS = Faults.of(
    messages={
        "chances": [
            {"probability": 0.05, "fault": {"kind": "error", "status": 429, "retry_after": 0.2}},
            {"probability": 0.05, "fault": {"kind": "error", "status": 529}},
            {"probability": 0.03, "fault": {"kind": "error", "status": 500}},
            {"probability": 0.03, "fault": {"kind": "drop"}},
            {"probability": 0.03, "fault": {"kind": "drop", "when": "before", "reset": True}},
            {"probability": 0.1, "fault": {"kind": "normal", "delay_after": 0.4}},
        ]
    },
    cancel={
        "chances": [
            {"probability": 0.2, "fault": {"kind": "drop"}},
            {"probability": 0.1, "fault": {"kind": "error", "status": 500}},
            {"probability": 0.1, "fault": {"kind": "error", "status": 529, "accepted": True}},
        ]
    },
)
HOSTILE_BOTH_WAYS = HOSTILE.model_copy(
    update={"messages": _CALLS.messages, "cancel": _CALLS.cancel}
)
CONCURRENCY = 4
QUEUE = 40
LATENCY_SECONDS = 0.2
# A machine that is busy with other things must not look like a freeze.
LEASE_SECONDS = 1.0
# So near that no batch is waited for: a cancel may take minutes, until one was measured.
HURRY_SECONDS = 25.0
LOOK_SECONDS = 0.05
# So long has nothing happened but that batches of unknown outcome are looked for.
STANDSTILL_SECONDS = 2.0


def hunted_in_real_time(
    forks: Forks,
    folder: Path,
    seed: int,
    *,
    blows: int,
    items: int = 150,
    ledger_url: str | None = None,
    documents_as: str | None = None,
) -> Figures:
    """As `crash_nights.hunted`, of a night whose every request is a call."""
    return _hunted(
        forks,
        folder,
        seed,
        "realtime",
        items=items,
        blows=blows,
        ledger_url=ledger_url,
        documents_as=documents_as,
    )


def hunted_before_deadline(
    forks: Forks,
    folder: Path,
    seed: int,
    *,
    blows: int,
    ledger_url: str | None = None,
    documents_as: str | None = None,
) -> Figures:
    """As `crash_nights.hunted`, of a night whose batches are slow, with a deadline."""
    return _hunted(
        forks,
        folder,
        seed,
        "auto",
        items=60,
        blows=blows,
        ledger_url=ledger_url,
        documents_as=documents_as,
    )


def _hunted(
    forks: Forks,
    folder: Path,
    seed: int,
    mode: str,
    *,
    items: int,
    blows: int,
    ledger_url: str | None,
    documents_as: str | None,
) -> Figures:
    dice = random.Random(seed)
    with a_night(
        folder,
        HOSTILE_BOTH_WAYS,
        items=items,
        turnaround=0.4,
        seed=seed,
        caching=caching_of(seed) if documents_as is None else None,
        documents_as=documents_as,
    ) as found:
        sim, planned, rows = found
        sim.set_latency(LATENCY_SECONDS)
        work = replace(
            planned,
            mode=mode,
            queue=QUEUE,
            pilot_via=dice.choice(["realtime", "batch"]),
            concurrency=CONCURRENCY,
            lease_seconds=LEASE_SECONDS,
            reconcile_seconds=HOSTILE_RECONCILE_SECONDS,
            ledger_url=ledger_url,
        )
        with _slow_batches(sim, work, dice) if mode == "auto" else nullcontext():
            figures = pursued(forks, work, dice, blows)
        figures.add(check(sim, work, rows))
        # All else that was billed again was in flight at a kill, or its answer got lost. A machine
        # that is busy for the time of a lease may look like one freeze more.
        assert figures.repeated_beside <= (figures.freezes + 1) * CONCURRENCY
    return figures


@contextmanager
def _slow_batches(sim: Simulator, work: Work, dice: random.Random) -> Iterator[None]:
    """For as long as the block lasts, no batch of a night ends but what is cancelled.

    Once some are at the API, the night is late. What is of unknown outcome is never cancelled: the
    batches end where nothing else is waited for, and in some nights soon after it has become late.
    """
    watcher = _Watcher(sim, work, dice)
    done = threading.Event()

    def watch() -> None:
        try:
            while not done.wait(LOOK_SECONDS):
                watcher.look()
        finally:
            sim.release()
            watcher.close()

    sim.hold()
    sim.set_done_at_cancel(dice.random())
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield
        finally:
            done.set()
        watching.result()


class _Watcher:
    """Looks at the night from outside, and makes it late and its batches end when it is time."""

    def __init__(self, sim: Simulator, work: Work, dice: random.Random) -> None:
        self._sim = sim
        self._pipeline = work.pipeline()
        # A pilot's batch is alone there, and so is one that warms the prompt cache up.
        alone = work.pilot_via == "batch" or work.caching == "auto"
        self._wanted = 1 if alone else dice.randrange(1, 5)
        self._late: set[int] = set()
        self._late_at: float | None = None
        # In some nights batches end while they are being taken over.
        self._released_after = dice.choice([HURRY_SECONDS, HURRY_SECONDS, dice.uniform(0.0, 2.0)])
        self._still_since: float | None = None

    def look(self) -> None:
        now = time.monotonic()
        try:
            # In this order: what is proven by now may be taken over a moment later.
            taken = {takeover.submission_id for takeover in takeovers_of(self._pipeline)}
            live = [s for s in submissions_of(self._pipeline) if s.state in LIVE]
            under_way = [s for s in live if s.state in IN_QUEUE]
            unproven = [s for s in under_way if s.state is not State.ACCEPTED]
            assert not taken & {s.id for s in unproven}, "taken over, whosever it is"
            some = len(under_way) > len(unproven) and len(under_way) >= self._wanted
            for night in {s.night_id for s in under_way if some} - self._late:
                # As nobody has seen one end, a batch is expected to take an hour.
                self._make_late(night)
                self._late_at = now
        except (LedgerError, sa.exc.DBAPIError):
            # Its connections are cut like those of the others.
            return
        self._set_pace(now, still=bool(unproven) and len(unproven) == len(live))

    def _make_late(self, night_id: int) -> None:
        with self._pipeline.ledger.read() as connection:
            night = nights.get_night(connection, night_id)
        set_deadline(self._pipeline, night.partition, HURRY_SECONDS)
        self._late.add(night_id)

    def _set_pace(self, now: float, *, still: bool) -> None:
        self._still_since = (self._still_since or now) if still else None
        waited = self._still_since is not None and now - self._still_since > STANDSTILL_SECONDS
        over = self._late_at is not None and now - self._late_at > self._released_after
        if waited or over:
            self._sim.release()
        elif not still:
            self._sim.hold()

    def close(self) -> None:
        self._pipeline.ledger.close()
