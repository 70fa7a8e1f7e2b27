"""How fast a night goes, from the times in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batch_pipeline.state.submissions import LIVE, State, Submission

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Pace:
    """Requests an hour since the first batch was taken in, and what that leaves to wait."""

    requests_per_hour: float
    seconds_to_go: float


def of(submissions: Sequence[Submission], waiting: int) -> Pace | None:
    """The pace of a night's batches; None until the first has ended.

    Batches run side by side and show nothing before their end: this is coarse, and by nature.
    """
    batches = [s for s in submissions if s.accepted_at is not None]
    ended = [s for s in batches if s.ended_at is not None]
    if not ended:
        return None
    begun = min(s.accepted_at for s in batches if s.accepted_at is not None)
    last = max(s.ended_at for s in ended if s.ended_at is not None)
    done = sum(s.requests for s in ended)
    left = waiting + sum(
        s.requests for s in submissions if s.state in LIVE and s.state is not State.ENDED
    )
    seconds = max(last - begun, 1.0)
    return Pace(done / seconds * _SECONDS_PER_HOUR, left * seconds / done)
