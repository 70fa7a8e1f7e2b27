"""The body of a create: from a shard's manifest and rows to the bytes that are sent.

Belongs here: how requests are put together to a body. What a single request says is decided in
`dataset.requests`, when the body leaves in `submission`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from batch_pipeline.flow.dataset import snapshot as snapshot_files
from batch_pipeline.flow.dataset.documents.reference import Opener
from batch_pipeline.flow.dataset.requests.declaration import (
    BODY_END,
    BODY_START,
    Declaration,
    body_length,
    custom_id,
)
from batch_pipeline.flow.dataset.requests.further import Further
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.dataset.snapshot import Input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import further_turns, manifests, variants
from batch_pipeline.ledger import snapshots
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.pricing.tokens import Lifetime

# Large enough that the cost of each chunk does not show, small enough for a processor's cache.
UPLOAD_CHUNK_BYTES = 512 << 10
# The columns of a manifest that a body is made from.
_COLUMNS = ("ordinal", "variant", "request_bytes", "turns", "container")


@dataclass(frozen=True)
class Body:
    """The body of one create: its chunks, their total length in bytes, and the betas it needs."""

    chunks: Iterator[bytes]
    length: int
    betas: Sequence[str]


def body_of(
    pipeline: Pipeline,
    shard: Shard,
    token: str,
    caching: Lifetime | None = None,
    marked: Collection[str] | None = None,
    opener: Opener | None = None,
) -> Body:
    """The body for a shard, read from its snapshot while it is sent; the last chunk is `BODY_END`.

    `token`, `caching` and `marked` are the submission's: each custom id begins with the token, and
    with `caching` each request of the `marked` models, None: of all, carries a cache mark of that
    lifetime. Documents are read from the `opener` meanwhile, which raises DocumentChangedError
    before the last chunk where one is not what the snapshot knows.
    """
    with pipeline.ledger.read() as connection:
        snapshot = snapshots.get_snapshot(connection, shard.snapshot_id)
    declaration = Declaration.from_json(snapshot.declaration)
    manifest = manifests.read(pipeline.files, shard.manifest, _COLUMNS)
    declared = variants.declarations_of(manifest, declaration)
    ordinals, names, sizes, *_ = (column.to_pylist() for column in manifest.columns)
    further = further_turns.of_requests(manifest)
    of_variant = variants.builders_of(declared, caching, marked)
    builders = [of_variant[name] for name in names]
    if caching is not None:
        marks = variants.marks_of(declared, of_variant)
        sizes = [size + marks[name] for name, size in zip(names, sizes, strict=True)]
    rows = snapshot_files.read_inputs(pipeline.files, snapshot, ordinals)
    chunks = body_chunks(token, builders, rows, UPLOAD_CHUNK_BYTES, further, opener)
    return Body(chunks, body_length(sizes), declaration.betas)


def body_chunks(
    token: str,
    builders: Sequence[RequestBuilder],
    rows: Iterable[Input],
    chunk_bytes: int,
    further: Mapping[int, Further] | None = None,
    opener: Opener | None = None,
) -> Iterator[bytes]:
    """The body in chunks of about `chunk_bytes`, of 256 KiB more where rows have documents; the
    last chunk is `BODY_END` alone.

    `builders` make the request of each row, in the order of the rows, and `further` are turns after
    the row's own by the request's number. Raises ValueError, before the last chunk, if there are
    fewer rows than builders.
    """
    further = further or {}
    pieces: list[bytes] = [BODY_START]
    size = count = 0
    for number, row in enumerate(rows):
        head = b',{"custom_id":"%s","params":' % custom_id(token, number).encode()
        pieces.append(head if number else head[1:])
        size += len(head) + 1
        count += 1
        more = further.get(number)
        for piece in builders[number].rebuild_pieces(row.text, row.places, more, opener):
            if size >= chunk_bytes:
                yield b"".join(pieces)
                pieces, size = [], 0
            pieces.append(piece)
            size += len(piece)
        pieces.append(b"}")
    if count < len(builders):
        raise ValueError("the snapshot has fewer rows than the manifest")
    if pieces:
        yield b"".join(pieces)
    yield BODY_END
