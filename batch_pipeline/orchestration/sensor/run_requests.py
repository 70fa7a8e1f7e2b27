"""Which runs a tick of the sensor asks for: pure functions of what was read before.

What stands in a night's way is decided by `ledger.admission.night_state`, as in admission, so that
no run is asked for that could only find out that it has to wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from batch_pipeline.ledger.admission.admission import with_queue
from batch_pipeline.ledger.admission.night_state import (
    RUN_SUBMITS,
    Facts,
    Kind,
    NightState,
    may_go,
    running,
    state_of,
)
from batch_pipeline.ledger.admission.queue import Queues
from batch_pipeline.orchestration.names import ASSETS, PILOT_SAMPLE, SUBMITTED_BATCHES
from batch_pipeline.orchestration.names import Kind as RunKind

# A run that failed this often without any change of its night is left to a person.
MOST_FAILURES = 3
# A run that changed nothing (for example where others fill the queue) is repeated ever more rarely.
FIRST_REST_SECONDS = 60.0
LONGEST_REST_SECONDS = 900.0
# A run whose worker died says nothing of its night; Dagster's own retry comes sooner than this.
FIRST_LOST_REST_SECONDS = 10.0


class PilotStage(StrEnum):
    """Where a pilot is: a run would bring it forward, it is on its way, or it has a verdict."""

    MOVABLE = "movable"
    BUSY = "busy"
    JUDGED = "judged"


@dataclass(frozen=True)
class UnfinishedNight:
    """A night that is not complete, as a tick reads it from the ledger.

    `facts` are what may stand in its way, room at the `queue` apart. Whether submission was asked
    for is one of them: taking an input spends nothing, and is no leave to spend.
    `next_requests` is the size of the batch that would go next (0: none would); `calls_due` says
    that something is to go in real time, which needs no room. `settled_up`: everything is sent and
    collected, and only the night's completion is missing. `marker` changes with any progress.
    """

    partition: str
    marker: str
    facts: Facts
    queue: Queues
    pilot: PilotStage
    next_requests: int
    waiting: int
    to_collect: int
    settled_up: bool
    summary: str
    calls_due: bool = False

    @property
    def blocked(self) -> NightState | None:
        """Why nothing may go out, room and a missing order to submit left aside; None: it may."""
        asked = replace(self.facts, asked=True)
        return None if may_go(asked) else state_of(asked)


@dataclass(frozen=True)
class EarlierRun:
    """A run asked for earlier, for the same partition and kind; `lost`: its worker died."""

    marker: str
    failed: bool
    ended_at: float
    lost: bool = False


@dataclass(frozen=True)
class WantedRun:
    """A run that would bring a night forward, and the assets that it is narrowed to."""

    partition: str
    kind: RunKind
    marker: str
    assets: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The runs that nights need, and by partition what keeps a night from going on (None: nothing
    does)."""

    wanted: tuple[WantedRun, ...]
    waits: dict[str, NightState | None]


def plan(nights: Sequence[UnfinishedNight], unfinished: set[tuple[str, RunKind]]) -> Plan:
    """Which runs would bring nights forward; `nights` are those of one job, oldest first.

    There is at most one unfinished run for each partition and kind. An older night that waits for
    room keeps the younger ones from taking it: otherwise a large batch would never get its turn.
    """
    wanted: list[WantedRun] = []
    waits: dict[str, NightState | None] = {}
    joining = 0
    older: str | None = None
    for night in nights:
        if wants_collecting(night) and (night.partition, RunKind.COLLECT) not in unfinished:
            collecting = ASSETS[RunKind.COLLECT]
            wanted.append(WantedRun(night.partition, RunKind.COLLECT, night.marker, collecting))
        facts = _with_room(night, joining, older)
        free = may_go(facts)
        state = None if free else state_of(facts)
        waits[night.partition] = state
        if state is not None and state.kind in (Kind.QUEUE_FULL, Kind.OLDER_NIGHT_FIRST):
            older = older or f"{night.facts.job} {night.partition}"
        elif free and night.next_requests:
            joining += night.waiting
        assets = _to_submit(night, free=free)
        if not assets:
            continue
        if (night.partition, RunKind.SUBMIT) in unfinished:
            waits[night.partition] = running(RUN_SUBMITS)
            continue
        wanted.append(WantedRun(night.partition, RunKind.SUBMIT, night.marker, assets))
    return Plan(tuple(wanted), waits)


def _with_room(night: UnfinishedNight, joining: int, older: str | None) -> Facts:
    """A night's facts, with the queue as the runs that are asked for before leave it."""
    if not night.next_requests:
        return night.facts
    queue = night.queue.joined_by(joining).behind(older)
    return with_queue(night.facts, queue, night.next_requests)


def wants_collecting(night: UnfinishedNight) -> bool:
    # A pilot's own batch is left to the pilot, which collects and judges it, if it may.
    left_to_pilot = night.pilot is PilotStage.MOVABLE and night.blocked is None
    return night.settled_up or (night.to_collect > 0 and not left_to_pilot)


def _to_submit(night: UnfinishedNight, *, free: bool) -> tuple[str, ...]:
    """The assets that would bring a night forward; `free`: its next batch may go out."""
    if night.pilot is PilotStage.MOVABLE:
        if free and not night.settled_up:
            return (PILOT_SAMPLE, SUBMITTED_BATCHES)
        if night.to_collect and night.blocked is None:
            # Its pilot alone was asked for, and is answered: judging it costs nothing.
            return (PILOT_SAMPLE,)
    elif free and night.next_requests:
        return (SUBMITTED_BATCHES,)
    return (SUBMITTED_BATCHES,) if night.calls_due and may_go(night.facts) else ()


def might_submit(night: UnfinishedNight) -> bool:
    """Whether anything of a night could be asked to go out, if there were room."""
    movable = night.pilot is PilotStage.MOVABLE
    return night.blocked is None and (movable or night.calls_due or night.next_requests > 0)


def attempt(earlier: Sequence[EarlierRun], marker: str, now: float) -> int | str:
    """The number of the next attempt at a run, counted from 1, or why there is none now.

    Only runs count that were asked for at the same marker: any progress starts anew.
    """
    same = [run for run in earlier if run.marker == marker]
    failures = sum(run.failed and not run.lost for run in same)
    if failures >= MOST_FAILURES:
        return f"its run failed {failures} times, see the runs; launch it again after a fix"
    if same:
        last = max(run.ended_at for run in same)
        lost = all(run.lost for run in same)
        rest = lost_rest(len(same)) if lost else _rest(len(same), FIRST_REST_SECONDS)
        left = last + rest - now
        if left > 0:
            what = "the last run's worker died" if lost else "the last run changed nothing"
            return f"{what}; another in {left:.0f} s"
    return len(same) + 1


def lost_rest(runs: int) -> float:
    """Seconds to rest after this many runs in a row whose worker died."""
    return _rest(runs, FIRST_LOST_REST_SECONDS)


def _rest(runs: int, first_seconds: float) -> float:
    """Seconds to rest after this many runs in a row."""
    return min(first_seconds * 2.0 ** min(runs - 1, 10), LONGEST_REST_SECONDS)
