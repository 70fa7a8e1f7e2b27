"""A batch as the store keeps it (`Batch`), and how fast batches end (`Pace`)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import orjson

from batch_pipeline.simulator.wire import BATCH_LIFETIME_SECONDS
from batch_pipeline.simulator.workspaces import Workspace


@dataclass(frozen=True)
class Batch:
    """One batch as stored; a change makes a new object.

    The batch takes `pace` times the simulator's turnaround. The first `done` of its requests are
    answered (None: all), the others end as `rest`. `counts` is None until the batch is settled.
    `foreign`: the batch belongs to another tenant of its workspace.
    """

    id: str
    total: int
    version: str
    pace: float
    created_at: datetime
    workspace: Workspace
    cancel_initiated_at: datetime | None = None
    ended_at: datetime | None = None
    done: int | None = None
    rest: Literal["canceled", "expired"] = "canceled"
    counts: dict[str, int] | None = None
    deleted: bool = False
    foreign: bool = False

    @property
    def expires_at(self) -> datetime:
        return self.created_at + timedelta(seconds=BATCH_LIFETIME_SECONDS)

    @property
    def status(self) -> str:
        if self.counts is not None:
            return "ended"
        return "in_progress" if self.cancel_initiated_at is None else "canceling"

    @classmethod
    def from_json(cls, body: str) -> Batch:
        values: dict[str, Any] = orjson.loads(body)
        for name in ("created_at", "cancel_initiated_at", "ended_at"):
            if values[name] is not None:
                values[name] = datetime.fromisoformat(values[name])
        # Older simulators had one organisation, and stored the workspace's name alone.
        stored = values.pop("workspace", {})
        workspace = Workspace(stored) if isinstance(stored, str) else Workspace(**stored)
        return cls(**values, workspace=workspace)


class Pace:
    """How fast batches end; tests change it while the simulator runs.

    `done_at_cancel`: the share of a canceled batch that is answered. None: the share of its
    turnaround that has passed.
    """

    def __init__(self, turnaround: float) -> None:
        self.turnaround = turnaround
        self.held = False
        self.released_at = -math.inf  # on the monotonic clock
        self.done_at_cancel: float | None = None

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False
        self.released_at = time.monotonic()
