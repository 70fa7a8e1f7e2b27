"""Bodies to the byte: of the announced length, and each request what its row makes by itself."""

from __future__ import annotations

import base64
import hashlib
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.flow.batches.body import UPLOAD_CHUNK_BYTES, body_chunks
from batch_pipeline.flow.dataset.documents.opening import DocumentOpener
from batch_pipeline.flow.dataset.documents.reference import Document, DocumentChangedError
from batch_pipeline.flow.dataset.reading.row_json import places_of, row_of_json
from batch_pipeline.flow.dataset.requests.declaration import Declaration, body_length
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.dataset.snapshot import Input
from batch_pipeline.flow.planning.new_shards import ShardLimits, cut
from batch_pipeline.flow.planning.variants import Variant
from batch_pipeline.ledger.submissions.transitions import new_token
from batch_pipeline.pricing.documents import base64_bytes
from batch_pipeline.storage.files import Files
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


def with_document(path: Path, data: bytes) -> bytes:
    """A row as a snapshot has it, with a PDF of one page."""
    document = Document(
        path=path.name,
        name=str(path),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        media_type="application/pdf",
        pages=1,
    )
    return orjson.dumps({"id": "x", "file": document.as_cell()})


def test_the_body_of_documents_has_its_announced_length_and_is_what_the_rows_say(
    tmp_path: Path,
) -> None:
    declaration = Declaration.of(job("in.jsonl", prompt={"user": "Of {file:pdf}: sum up."}))
    builder = RequestBuilder(declaration)
    contents = [b"%PDF" + bytes(size) for size in (0, 1, 200_000, 1_000_001)]
    rows = []
    for number, data in enumerate(contents):
        path = tmp_path / f"{number}.pdf"
        path.write_bytes(data)
        rows.append(with_document(path, data))
    measured = [builder.measure(*builder.parts_of(row_of_json(row))[:2]) for row in rows]
    opener = DocumentOpener(Files(str(tmp_path)), "review")
    inputs = [Input(row, None) for row in rows]
    token = new_token()
    chunks = list(body_chunks(token, [builder] * 4, inputs, UPLOAD_CHUNK_BYTES, None, opener))
    body = b"".join(chunks)
    assert len(body) == body_length([size.request_bytes for size in measured])
    assert max(map(len, chunks)) <= UPLOAD_CHUNK_BYTES + (256 << 10)
    for request, data in zip(orjson.loads(body)["requests"], contents, strict=True):
        [before, block, after] = request["params"]["messages"][0]["content"]
        assert base64.b64decode(block["source"]["data"]) == data
        assert (before["text"], after["text"]) == ("Of ", ": sum up.")


def test_memory_of_a_body_does_not_grow_with_its_documents(tmp_path: Path) -> None:
    path = tmp_path / "large.pdf"
    with path.open("wb") as file:
        file.truncate(20_000_000)
    row = with_document(path, bytes(20_000_000))
    builder = RequestBuilder(Declaration.of(job("in.jsonl", prompt={"user": "{file:pdf}"})))
    opener = DocumentOpener(Files(str(tmp_path)), "review")
    rows = (Input(row, None) for _ in range(2))
    tracemalloc.start()
    try:
        chunks = body_chunks(new_token(), [builder] * 2, rows, UPLOAD_CHUNK_BYTES, None, opener)
        sent = sum(map(len, chunks))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sent > 2 * 26_666_668
    assert peak < 8 << 20


def test_a_body_with_a_changed_document_does_not_end(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF of before")
    row = with_document(path, b"%PDF of before")
    builder = RequestBuilder(Declaration.of(job("in.jsonl", prompt={"user": "{file:pdf}"})))
    path.write_bytes(b"%PDF of later!")
    opener = DocumentOpener(Files(str(tmp_path)), "review")
    rows = [Input(row, None)]
    sent: list[bytes] = []
    with pytest.raises(DocumentChangedError, match=r"a\.pdf has changed since the input was taken"):
        sent += body_chunks(new_token(), [builder], rows, 1, None, opener)
    assert b"]}" not in sent


def test_shards_of_large_documents_are_cut_by_their_bytes_on_the_wire() -> None:
    """100,000 PDFs of 1 MB, which are 1,333,336 bytes in base64, with prompts of 400 bytes."""
    sizes = pa.array([base64_bytes(1_000_000) + 400] * 100_000, pa.int64())
    # 20 pages each: by their tokens all would fit into one batch.
    table = pa.table({"request_bytes": sizes, "prompt_size": pa.array([32_400] * 100_000)})
    limits = ShardLimits.of(job("in.jsonl"), 200_000)
    shards = [part.num_rows for part in cut(iter([table]), limits)]
    assert (len(shards), shards[0], sum(shards)) == (524, 191, 100_000)
    assert body_length([sizes[0].as_py()] * 191) <= 256_000_000
