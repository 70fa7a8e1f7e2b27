"""What a sensor tick asks for, decided from plain values; reads and requests nothing itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from batch_pipeline.orchestration.names import ASSETS, PILOT_SAMPLE, SUBMITTED_BATCHES, Kind

# A run that failed this often without any change of its night is left to a person.
MOST_FAILURES = 3
# A run that changed nothing (a queue that other tenants fill) is repeated at growing distances.
FIRST_REST_SECONDS = 60.0
LONGEST_REST_SECONDS = 900.0
# A run whose worker died says nothing of its night; Dagster's own retry comes sooner than this.
FIRST_LOST_REST_SECONDS = 10.0
TERMINATED = "its run was terminated; launch it again"


class PilotStage(StrEnum):
    """Where a pilot is: a run would bring it forward, it is on its way, or it has a verdict."""

    MOVABLE = "movable"
    BUSY = "busy"
    JUDGED = "judged"


@dataclass(frozen=True)
class Standing:
    """What the ledger says of a night that is not complete, as far as a tick is concerned.

    `asked` tells whether anybody wants this input submitted: taking it spends nothing, so that it
    is no leave to spend. `blocked` is why nothing may go out until a person acts. `next_requests`
    is the size of what would go next (0: nothing could), `older_first` an older night of another
    job that wants room. `calls_due`: something is to go in real time, which needs no room.
    `settled_up` means that everything is sent and collected, and only the night's completion is
    missing. `marker` changes with any progress.
    """

    partition: str
    marker: str
    asked: bool
    blocked: str | None
    pilot: PilotStage
    next_requests: int
    waiting: int
    to_collect: int
    settled_up: bool
    older_first: str | None
    summary: str
    calls_due: bool = False


@dataclass(frozen=True)
class Room:
    """Requests that may still join the queue; `closed` says why none may for now."""

    requests: int
    closed: str | None = None


@dataclass(frozen=True)
class Former:
    """A run asked for earlier, for the same partition and kind; `lost`: its worker died."""

    marker: str
    failed: bool
    ended_at: float
    lost: bool = False


@dataclass(frozen=True)
class Wish:
    """A run that would bring a night forward, and the assets that it is narrowed to."""

    partition: str
    kind: Kind
    marker: str
    assets: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What the nights need: runs, and for each night why it waits (None: it does not)."""

    wishes: tuple[Wish, ...]
    reasons: dict[str, str | None]


def plan(standings: Sequence[Standing], room: Room, unfinished: set[tuple[str, Kind]]) -> Plan:
    """Which runs would bring nights forward; `standings` come oldest first.

    At most one unfinished run a partition and kind. An older night that waits for room keeps the
    younger ones from taking it: otherwise a large shard would never get its turn.
    """
    wishes: list[Wish] = []
    reasons: dict[str, str | None] = {}
    left = room.requests
    full = room.closed
    for night in standings:
        if wants_collecting(night) and (night.partition, Kind.COLLECT) not in unfinished:
            wish = Wish(night.partition, Kind.COLLECT, night.marker, ASSETS[Kind.COLLECT])
            wishes.append(wish)
        reason = _holds_back(night)
        if reason is None and night.next_requests:
            if night.older_first is not None:
                reason = f"an older night ({night.older_first}) goes first"
            elif full is not None:
                reason = full
            elif night.next_requests > left:
                reason = full = "waits for room in the API's queue"
            else:
                left -= night.waiting
        reasons[night.partition] = reason
        assets = _submitting(night, reason)
        if not assets and night.calls_due and _holds_back(night) is None:
            assets = (SUBMITTED_BATCHES,)
        if not assets:
            continue
        if (night.partition, Kind.SUBMIT) in unfinished:
            reasons[night.partition] = "a run is submitting"
            continue
        wishes.append(Wish(night.partition, Kind.SUBMIT, night.marker, assets))
    return Plan(tuple(wishes), reasons)


def wants_collecting(night: Standing) -> bool:
    # A pilot's own batch is left to the pilot, which collects and judges it, if it may.
    left_to_pilot = night.pilot is PilotStage.MOVABLE and night.blocked is None
    return night.settled_up or (night.to_collect > 0 and not left_to_pilot)


def _submitting(night: Standing, reason: str | None) -> tuple[str, ...]:
    """The assets that would bring a night forward; `reason` is why nothing may go out."""
    if night.pilot is not PilotStage.MOVABLE:
        return (SUBMITTED_BATCHES,) if night.next_requests and reason is None else ()
    if reason is None and not night.settled_up:
        return (PILOT_SAMPLE, SUBMITTED_BATCHES)
    if night.to_collect and night.blocked is None:
        # Its pilot alone was asked for, and is answered: judging it costs nothing.
        return (PILOT_SAMPLE,)
    return ()


def _holds_back(night: Standing) -> str | None:
    if night.blocked is not None:
        return night.blocked
    if not night.asked:
        return "nobody has asked for its submission; materialize submitted_batches"
    return None


def might_submit(night: Standing) -> bool:
    """Whether anything of a night could be asked to go out, if nothing held it back."""
    movable = night.pilot is PilotStage.MOVABLE
    return night.blocked is None and (movable or night.calls_due or night.next_requests > 0)


def last_was_canceled(runs: Iterable[tuple[float, bool]]) -> bool:
    """Whether the newest of a night's submitting runs was; of each, when it was created and
    whether it was canceled.

    Who terminates a run wants nothing more to be sent, until somebody launches another.
    """
    return max(runs, default=(0.0, False))[1]


def attempt(former: Sequence[Former], marker: str, now: float) -> int | str:
    """The number of the next attempt at a run, counted from 1, or why there is none now.

    Only runs asked for at this very standing count: any progress starts anew.
    """
    same = [run for run in former if run.marker == marker]
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
    """How long to rest after so many runs in a row whose worker died, in seconds."""
    return _rest(runs, FIRST_LOST_REST_SECONDS)


def _rest(runs: int, first_seconds: float) -> float:
    """How long to rest after so many runs in a row, in seconds."""
    return min(first_seconds * 2.0 ** min(runs - 1, 10), LONGEST_REST_SECONDS)
