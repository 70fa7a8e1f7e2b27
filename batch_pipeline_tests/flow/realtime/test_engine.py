"""The engine by itself: how much of the requests is in memory at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from batch_pipeline.api.protocol import Answer
from batch_pipeline.api.rate_limit import Limiter
from batch_pipeline.flow.dataset.documents.reference import Document, DocumentChangedError
from batch_pipeline.flow.realtime import engine
from batch_pipeline.flow.realtime.engine import Engine
from batch_pipeline.flow.realtime.shard import Call
from batch_pipeline.ledger.admission.admission import Waiting

ROOM = 100


class Requests:
    """A shard of requests that are made when they leave, and the endpoint that takes them."""

    probe = False
    lease = SimpleNamespace(held=lambda: True)
    declaration = SimpleNamespace(betas=())
    shard = SimpleNamespace(id=1)

    def __init__(self, sizes: Sequence[int], changed: Sequence[int] = ()) -> None:
        self._changed = changed
        self._calls = [self._call(number, size) for number, size in enumerate(sizes)]
        self.left = len(sizes)
        self.in_memory = self.most = 0
        self.order: list[int] = []
        self.set_aside: list[dict[str, Any]] = []

    def _call(self, number: int, size: int) -> Call:
        def load() -> bytes:
            if number in self._changed:
                document = Document(path="a.pdf", size=1, sha256="", media_type="application/pdf")
                raise DocumentChangedError(document, "a.pdf has changed")
            self.in_memory += size
            self.most = max(self.most, self.in_memory)
            return b"%d" % number + bytes(size)

        shard: Any = self
        return Call(shard, number, "model", float(size), size, 10, None, load)

    async def create(self, params: bytes, betas: Sequence[str]) -> Answer:
        self.order.append(int(params.partition(b"\0")[0]))
        for _ in range(50):
            # Long enough for all that may leave to do so.
            await asyncio.sleep(0)
        self.in_memory -= len(params.lstrip(b"0123456789"))
        return Answer({"usage": {}}, b"{}", {})

    def take(self, most: int, most_bytes: int) -> list[Call]:
        found, self._calls = self._calls[:most], self._calls[most:]
        return found

    def succeeded(self, *_: object) -> None:
        self.left -= 1

    def failed(self, call: Call, result: dict[str, Any], *_: object, attempted: bool) -> None:
        self.left -= 1
        self.set_aside.append(result["error"]["error"])

    def write_answers(self) -> int:
        return 0

    def checkpoint(self) -> None:
        pass

    def send(self, concurrency: int = 8) -> None:
        """Let an engine make all calls."""
        shards: list[Any] = [self]
        limiter = Limiter()
        worker = Engine(
            concurrency=concurrency,
            checkpoint_every=100,
            limiter_of=lambda _: limiter,
            claim=lambda: shards.pop() if shards else Waiting(None),
            report=lambda _: False,
            settle=lambda *_: None,
        )
        asyncio.run(worker.run(self))


@pytest.mark.parametrize(
    ("sizes", "most"),
    [
        ([40] * 12, 80),
        ([1] * 30, 8),
        ([ROOM * 3] * 3, ROOM * 3),
        ([10, ROOM * 3, 10, 10], ROOM * 3),
    ],
)
def test_requests_under_way_take_no_more_memory_than_there_is_room_or_one_of_them_is_large(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], most: int
) -> None:
    monkeypatch.setattr(engine, "IN_FLIGHT_BYTES", ROOM)
    requests = Requests(sizes)
    requests.send()
    assert sorted(requests.order) == list(range(len(sizes)))
    assert 0 < requests.most <= most


def test_a_changed_document_is_set_aside_without_a_call_and_the_others_go_on() -> None:
    requests = Requests([5] * 6, changed=[0, 3])
    requests.send(concurrency=2)
    assert sorted(requests.order) == [1, 2, 4, 5]
    told = {"type": "document_changed", "message": "a.pdf has changed"}
    assert requests.set_aside == [told, told]
