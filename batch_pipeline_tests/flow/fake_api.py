"""A list of batches behind the `Api` protocol: counts calls where HTTP would only slow down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from batch_pipeline.api.protocol import ApiFailure, BatchInfo, BatchPage, Messages, ModelInfo


def a_batch(
    batch_id: str, *, created_at: float = 1_000.0, requests: int = 5, ended: bool = True
) -> BatchInfo:
    counts = {"processing": 0 if ended else requests, "succeeded": requests if ended else 0}
    return BatchInfo(
        id=batch_id,
        processing_status="ended" if ended else "in_progress",
        counts=counts,
        created_at=created_at,
        expires_at=created_at + 86_400,
        ended_at=created_at + 60 if ended else None,
        archived=False,
    )


class FakeApi:
    """Batches newest first, as the list shows them; `hidden` ones are answered with 404."""

    simulated = False
    organisation = None
    workspace = None

    def __init__(self, batches: Sequence[BatchInfo], hidden: Sequence[str] = ()) -> None:
        self.batches = sorted(batches, key=lambda batch: batch.created_at or 0.0, reverse=True)
        self.hidden = set(hidden)
        self.pages = 0
        self.retrieves = 0

    def list_batches(self, after_id: str | None, limit: int) -> BatchPage:
        self.pages += 1
        start = 0
        if after_id is not None:
            start = [batch.id for batch in self.batches].index(after_id) + 1
        shown = [batch for batch in self.batches[start:] if batch.id not in self.hidden]
        page = shown[:limit]
        return BatchPage(page, len(shown) > limit, page[-1].id if page else None)

    def retrieve_batch(self, batch_id: str) -> BatchInfo:
        self.retrieves += 1
        for batch in self.batches:
            if batch.id == batch_id and batch_id not in self.hidden:
                return batch
        raise ApiFailure(404, "not_found_error", None, batch_id)

    def create_batch(self, body: Iterator[bytes], length: int, betas: Sequence[str]) -> BatchInfo:
        raise NotImplementedError

    def cancel_batch(self, batch_id: str) -> BatchInfo:
        raise NotImplementedError

    @contextmanager
    def stream_results(self, batch_id: str) -> Iterator[Iterator[bytes]]:
        raise NotImplementedError

    def count_tokens(self, params: bytes, betas: Sequence[str]) -> int:
        raise NotImplementedError

    def models(self) -> Mapping[str, ModelInfo]:
        raise NotImplementedError

    def model(self, model_id: str) -> ModelInfo | None:
        raise NotImplementedError

    @asynccontextmanager
    async def open_messages(self, concurrency: int) -> AsyncIterator[Messages]:
        raise NotImplementedError
        yield
