"""The body of a create, in chunks: from rows of the snapshot to the bytes that go up.

Belongs here: how requests are put together to a body. What one request says is in
`dataset.requests`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from batch_pipeline.flow.dataset.requests import BODY_END, BODY_START, RequestBuilder, custom_id
from batch_pipeline.flow.dataset.snapshot import Input


def body_chunks(
    token: str,
    builders: Sequence[RequestBuilder],
    rows: Iterable[Input],
    chunk_bytes: int,
) -> Iterator[bytes]:
    """The body in chunks of about `chunk_bytes`; the last chunk is `BODY_END` alone.

    `builders` make the request of each row, in the order of the rows. Raises ValueError, before the
    end, where there are fewer rows.
    """
    pieces: list[bytes] = [BODY_START]
    size = count = 0
    for number, row in enumerate(rows):
        params = builders[number].rebuild(row.text, row.places)
        head = b',{"custom_id":"%s","params":' % custom_id(token, number).encode()
        pieces += (head if number else head[1:], params, b"}")
        size += len(head) + len(params) + 1
        count += 1
        if size >= chunk_bytes:
            yield b"".join(pieces)
            pieces, size = [], 0
    if count < len(builders):
        raise ValueError("the snapshot has fewer rows than the manifest")
    if pieces:
        yield b"".join(pieces)
    yield BODY_END
