"""How fast a night goes, from the times in the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from batch_pipeline.flow.progress import Progress
from batch_pipeline.state.submissions import State

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Pace:
    """Requests an hour since the first batch was taken in, and what that leaves to wait."""

    requests_per_hour: float
    seconds_to_go: float


def of(state: Progress) -> Pace | None:
    """The pace of a night's batches; None until the first has ended.

    Batches run side by side and show nothing before their end: this is coarse, and by nature.
    """
    batches = [s for s in state.live if s.accepted_at is not None]
    ended = [s for s in batches if s.ended_at is not None]
    collected = [part for part in state.collected if part.batches]
    begun = _times(
        *(s.accepted_at for s in batches), *(part.first_accepted_at for part in collected)
    )
    ends = _times(*(s.ended_at for s in ended), *(part.last_ended_at for part in collected))
    if not ends:
        return None
    done = sum(s.requests for s in ended) + sum(part.requests for part in collected)
    left = state.waiting + sum(s.requests for s in state.live if s.state is not State.ENDED)
    seconds = max(max(ends) - min(begun), 1.0)
    return Pace(done / seconds * _SECONDS_PER_HOUR, left * seconds / done)


def _times(*found: float | None) -> list[float]:
    return [at for at in found if at is not None]
