"""Reads what the API says of batches: one batch, the answer to a create, a page of the list.

Each raises ApiFailure for an answer that cannot be read. The SDK's own types are not used: a field
that is missing or odd must not cost a batch, whose id alone is needed to find what was paid for.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import httpx2

from batch_pipeline.api.failures import json_of, unreadable
from batch_pipeline.api.protocol import BatchInfo, BatchPage

BATCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:~-]{0,99}")
COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")


def batch_of(response: httpx2.Response) -> BatchInfo:
    """The batch that an answer describes."""
    batch = _parse_batch(json_of(response))
    if batch is None:
        raise unreadable(response)
    return batch


def created_of(response: httpx2.Response) -> BatchInfo:
    """The batch of a create's answer. An id is enough: without it the batch is hard to find."""
    data = json_of(response)
    batch = _parse_batch(data)
    # An object that does not call itself a batch may come from a gateway.
    if batch is None or not (data.get("type") == "message_batch" or _is_described(batch)):
        raise unreadable(response)
    return batch


def page_of(response: httpx2.Response) -> BatchPage:
    """A page of the list, its entries judged one by one."""
    page = json_of(response)
    if not isinstance(page.get("data"), list):
        raise unreadable(response)
    batches: list[BatchInfo] = []
    odd: list[int] = []
    last: BatchInfo | None = None
    for entry in page["data"]:
        last = _parse_batch(entry)
        if last is None:
            odd.append(len(batches))
        else:
            batches.append(last)
    # The cursor is the last entry's own id: a `last_id` may be missing, or stand still.
    after = last.id if last is not None else _batch_id(page.get("last_id"))
    if after is None and batches:
        after = batches[-1].id
    has_more = page.get("has_more")
    return BatchPage(batches, has_more if isinstance(has_more, bool) else None, after, odd)


def _is_described(batch: BatchInfo) -> bool:
    known = batch.processing_status in ("in_progress", "canceling", "ended")
    return known and batch.created_at is not None


def _parse_batch(data: Any) -> BatchInfo | None:
    """The batch that the API describes; None only where its id cannot be read."""
    batch_id = _batch_id(data.get("id")) if isinstance(data, dict) else None
    if batch_id is None:
        return None
    counts = data.get("request_counts")
    read = {name: counts.get(name) for name in COUNTS} if isinstance(counts, dict) else {}
    return BatchInfo(
        id=batch_id,
        processing_status=str(data.get("processing_status")),
        counts={name: count for name, count in read.items() if type(count) is int and count >= 0},
        created_at=_timestamp(data.get("created_at")),
        expires_at=_timestamp(data.get("expires_at")),
        ended_at=_timestamp(data.get("ended_at")),
        archived=data.get("archived_at") is not None,
    )


def _batch_id(value: Any) -> str | None:
    """An id as text, if it is one that a path may hold."""
    if type(value) is int:
        value = str(value)
    return value if isinstance(value, str) and BATCH_ID.fullmatch(value) else None


def _timestamp(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None
