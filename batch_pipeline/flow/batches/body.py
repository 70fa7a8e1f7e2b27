"""The body of a create, in chunks: from rows of the snapshot to the bytes that go up.

Belongs here: how requests are put together to a body, with as little as can be done for each of
them: both cores are busy with little else while a night goes up. What one request says is
`requests`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from batch_pipeline.flow.dataset.requests import BODY_END, BODY_START, RequestBuilder, wire_overhead
from batch_pipeline.flow.dataset.snapshot import InputBlock


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
    head = b'{"custom_id":"%s_' % token.encode()
    # As few pieces as can be: what closes a request stands with what comes before it.
    after_texts = _closed(builder.after_texts)

    @cache
    def beginning(max_tokens: int | None) -> bytes:
        end = b"" if after_texts else b"}"
        return b'","params":%s%s' % (builder.beginning(max_tokens), end)

    for data, rows, texts in blocks:
        # The blocks' ends come before those of what is asked.
        for row, places, (max_tokens, params_bytes) in zip(rows, texts, asked, strict=False):
            if places is None:
                params = builder.rebuild(bytes(data[slice(*row)]), max_tokens)
                pieces += (b'%s%d","params":' % (head, number), params, b"}")
            else:
                pieces.append(b"%s%d%s" % (head, number, beginning(max_tokens)))
                for at, after in after_texts:
                    pieces += (data[places[at] : places[at + 1]], after)
            if not number:
                head = b"," + head
            number += 1
            size += params_bytes + around
            if size >= chunk_bytes:
                yield b"".join(pieces)
                pieces, size = [], 0
    if next(asked, None) is not None:
        # Before the end, so that nothing is sealed.
        raise ValueError("the snapshot has fewer rows than the manifest")
    if pieces:
        yield b"".join(pieces)
    yield BODY_END


def _closed(after_texts: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return [
        (at, after + b"}" if number == len(after_texts) else after)
        for number, (at, after) in enumerate(after_texts, 1)
    ]
