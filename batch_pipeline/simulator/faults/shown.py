"""Describes batches in answers: as the API does, or with the declared faults.

`app` decides which batches are described.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from batch_pipeline.simulator.batches.batch import Batch
from batch_pipeline.simulator.faults.declaration import ShownFaults
from batch_pipeline.simulator.wire import timestamp


def shown(batch: Batch, base_url: str, faults: ShownFaults) -> dict[str, Any]:
    """The batch as an answer shows it: while it runs, all of its requests are `processing`."""
    running = {"processing": batch.total, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
    ended = batch.counts is not None
    ahead = timedelta(seconds=faults.clock)

    def by_its_clock(moment: datetime | None) -> str | None:
        return None if moment is None else timestamp(moment + ahead)

    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": batch.status,
        "request_counts": _counted(batch.counts or running, faults),
        "ended_at": by_its_clock(batch.ended_at) if ended else None,
        "created_at": by_its_clock(batch.created_at),
        "expires_at": by_its_clock(batch.expires_at),
        "archived_at": None,
        "cancel_initiated_at": by_its_clock(batch.cancel_initiated_at),
        "results_url": f"{base_url}v1/messages/batches/{batch.id}/results" if ended else None,
    }


def page(
    batches: Sequence[Batch], base_url: str, faults: ShownFaults, *, has_more: bool
) -> dict[str, Any]:
    """A page of the list."""
    more = {"told": {"has_more": has_more}, "missing": {}, "always": {"has_more": True}}
    return {
        "data": [_entry(batch, base_url, faults) for batch in batches],
        **more[faults.has_more],
        "first_id": batches[0].id if batches else None,
        "last_id": batches[-1].id if batches else None,
    }


def _entry(batch: Batch, base_url: str, faults: ShownFaults) -> dict[str, Any] | None:
    whole = shown(batch, base_url, faults)
    if not batch.foreign or not faults.foreign_entries:
        return whole
    # The same batch is odd in the same way in each answer.
    number = zlib.crc32(batch.id.encode())
    oddity = faults.foreign_entries[number % len(faults.foreign_entries)]
    if oddity == "null":
        return None
    if oddity == "no_id":
        return {name: value for name, value in whole.items() if name != "id"}
    changes: dict[str, dict[str, Any]] = {
        "number_id": {"id": number},
        "no_times": {"created_at": None, "expires_at": None},
        "no_counts": {"request_counts": None},
        "no_status": {"processing_status": None},
    }
    return whole | changes[oddity]


def _counted(counts: dict[str, int], faults: ShownFaults) -> Any:
    if faults.counts == "wrong":
        return {name: count + 1 for name, count in counts.items()}
    odd: dict[str, Any] = {"zero": dict.fromkeys(counts, 0), "null": None, "text": "many"}
    return odd.get(faults.counts, counts)
