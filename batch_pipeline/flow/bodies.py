"""The body of a create, in chunks: from rows of the snapshot to the bytes that go up.

Belongs here: how requests are put together to a body, with as little as can be done for each of
them: both cores are busy with little else while a night goes up. What one request says is
`requests`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batch_pipeline.flow.requests import BODY_END, BODY_START, RequestBuilder, wire_overhead
from batch_pipeline.flow.snapshots import InputBlock


def body_chunks(
    token: str,
    builder: RequestBuilder,
    blocks: Iterable[InputBlock],
    requests: Iterable[tuple[int | None, int]],
    chunk_bytes: int,
) -> Iterator[bytes]:
    """The body in chunks of about `chunk_bytes`; the last chunk is `BODY_END` alone.

    `requests` are the `max_tokens` (None: as declared) and the size of each row's parameters, in
    the same order as the rows.
    """
    asked = iter(requests)
    pieces: list[bytes | memoryview] = [BODY_START]
    size = number = 0
    around = wire_overhead(number)
    before = b'{"custom_id":"%s_' % token.encode()
    for data, rows, texts in blocks:
        # The blocks' ends come before those of what is asked.
        for row, places, (max_tokens, params_bytes) in zip(rows, texts, asked, strict=False):
            text = data[slice(*row)] if places is None else data
            params = builder.pieces(text, max_tokens, places)
            pieces += (b'%s%d","params":' % (before, number), *params, b"}")
            if not number:
                before = b"," + before
            number += 1
            size += params_bytes + around
            if size >= chunk_bytes:
                yield b"".join(pieces)
                pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)
    yield BODY_END
