"""Bodies to the byte: of the announced length, and each request what its row makes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.flow.batches.body import body_chunks
from batch_pipeline.flow.dataset.reading.row_json import places_of, row_of_json
from batch_pipeline.flow.dataset.request_builder import RequestBuilder
from batch_pipeline.flow.dataset.requests import Declaration, body_length
from batch_pipeline.flow.dataset.snapshot import Input
from batch_pipeline.flow.planning.variants import Variant
from batch_pipeline.ledger.transitions import new_token
from batch_pipeline_tests.support import job

TEXTS = st.text(st.characters(codec="utf-8")).filter(lambda text: text.strip())
TEMPLATES = ["{text}", "Of {kind}:\n\n{text}\n\nAgain, {kind}: sum up.", "Say something."]


def rows_of(texts: Sequence[str]) -> list[bytes]:
    return [orjson.dumps({"id": "x", "kind": text[::-1], "text": text}) for text in texts]


def inputs_of(rows: Sequence[bytes], columns: Sequence[str], *, known: bool) -> list[Input]:
    return [Input(row, places_of(row_of_json(row), columns) if known else None) for row in rows]


@settings(max_examples=60)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=25),
    template=st.sampled_from(TEMPLATES),
    known=st.booleans(),
    chunk=st.integers(min_value=1, max_value=2_000),
)
def test_a_body_is_its_requests_put_together(
    texts: list[str], template: str, known: bool, chunk: int
) -> None:
    declaration = Declaration.of(job("in.jsonl", prompt={"user": template}, deduplicate=False))
    builder = RequestBuilder(declaration)
    larger = RequestBuilder(Variant("more_room", 123_456).declared_as(declaration))
    rows = rows_of(texts)
    # Every third request asks with more room than is declared.
    builders = [builder if number % 3 else larger for number in range(len(rows))]
    params = [builders[number].rebuild(row) for number, row in enumerate(rows)]
    token, sizes = new_token(), [len(data) for data in params]
    inputs = inputs_of(rows, builder.columns, known=known)
    chunks = list(body_chunks(token, builders, inputs, chunk))

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
    inputs = inputs_of(rows_of(["one", "two"]), builder.columns, known=True)
    chunks = body_chunks(new_token(), [builder] * 3, inputs, 1)
    with pytest.raises(ValueError, match="fewer rows"):
        assert b"]}" not in list(chunks)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 100, 101, 1_234, 100_000])
def test_the_announced_length_counts_the_digits_of_each_number(count: int) -> None:
    numbers = "".join(f'{{"custom_id":"{"t" * 16}_{n}","params":}},' for n in range(count))
    assert body_length([7] * count) == len('{"requests":[') + len(numbers[:-1]) + 7 * count + 2
