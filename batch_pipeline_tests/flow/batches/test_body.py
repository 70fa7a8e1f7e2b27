"""Bodies to the byte: of the announced length, and each request what its row makes by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.flow.batches.body import body_chunks
from batch_pipeline.flow.dataset.requests import Declaration, RequestBuilder, body_length
from batch_pipeline.flow.dataset.row_json import JsonRow, places_of
from batch_pipeline.flow.dataset.snapshot import InputBlock
from batch_pipeline.ledger.submissions import new_token
from batch_pipeline_tests.support import job

TEXTS = st.text(st.characters(codec="utf-8")).filter(lambda text: text.strip())
TEMPLATES = ["{text}", "Of {kind}:\n\n{text}\n\nAgain, {kind}: sum up.", "Say something."]


def rows_of(texts: Sequence[str]) -> list[bytes]:
    return [orjson.dumps({"id": "x", "kind": text[::-1], "text": text}) for text in texts]


def blocks_of(
    rows: Sequence[bytes], columns: Sequence[str], together: int, *, known: bool
) -> Iterator[InputBlock]:
    """So many rows in a block, each followed by a line end."""
    for first in range(0, len(rows), together):
        group = rows[first : first + together]
        starts = [sum(map(len, group[:count])) + count for count in range(len(group) + 1)]
        ends = [after - 1 for _, after in pairwise(starts)]
        texts: list[list[int] | None] = []
        for row, start in zip(group, starts, strict=False):
            places = places_of(JsonRow.of_json(row), columns) if known else None
            texts.append(None if places is None else [start + place for place in places])
        yield InputBlock(
            memoryview(b"\n".join(group) + b"\n"), list(zip(starts, ends, strict=False)), texts
        )


@settings(max_examples=60)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=25),
    template=st.sampled_from(TEMPLATES),
    together=st.integers(min_value=1, max_value=9),
    known=st.booleans(),
    chunk=st.integers(min_value=1, max_value=2_000),
)
def test_a_body_is_its_requests_put_together(
    texts: list[str], template: str, together: int, known: bool, chunk: int
) -> None:
    builder = RequestBuilder(Declaration.of(job("in.jsonl", prompt={"user": template})))
    rows = rows_of(texts)
    # Every third request asks with more room than is declared.
    rooms = [None if number % 3 else 123_456 for number in range(len(rows))]
    params = [builder.rebuild(row, room) for row, room in zip(rows, rooms, strict=True)]
    token, sizes = new_token(), [len(data) for data in params]
    asked = zip(rooms, sizes, strict=True)
    blocks = blocks_of(rows, builder.columns, together, known=known)
    chunks = list(body_chunks(token, builder, blocks, asked, chunk))

    assert chunks[-1] == b"]}"  # what is held back until the submission is sealed
    assert all(chunks)
    assert all(len(part) < chunk + max(sizes) + 100 for part in chunks)
    body = b"".join(chunks)
    assert len(body) == body_length(sizes)
    requests: list[dict[str, Any]] = orjson.loads(body)["requests"]
    assert [request["custom_id"] for request in requests] == [
        f"{token}_{number}" for number in range(len(rows))
    ]
    assert [orjson.dumps(request["params"]) for request in requests] == [
        orjson.dumps(orjson.loads(data)) for data in params
    ]
    for data in params:
        assert data in body


def test_a_body_does_not_end_before_all_rows_are_in_it() -> None:
    builder = RequestBuilder(Declaration.of(job("in.jsonl", prompt={"user": "{text}"})))
    blocks = blocks_of(rows_of(["one", "two"]), builder.columns, 2, known=True)
    chunks = body_chunks(new_token(), builder, blocks, [(None, 100)] * 3, 1)
    with pytest.raises(ValueError, match="fewer rows"):
        assert b"]}" not in list(chunks)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 100, 101, 1_234, 100_000])
def test_the_announced_length_counts_the_digits_of_each_number(count: int) -> None:
    numbers = "".join(f'{{"custom_id":"{"t" * 16}_{n}","params":}},' for n in range(count))
    assert body_length([7] * count) == len('{"requests":[') + len(numbers[:-1]) + 7 * count + 2
