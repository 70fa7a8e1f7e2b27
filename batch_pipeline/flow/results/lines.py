"""Result lines of a submission in blocks of whole lines: a batch's download, or a journal's lines.

A batch's lines are kept as they came, in the raw file, while they are read. What a line means
stands in `judge`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import orjson
import zstandard

from batch_pipeline.api.protocol import ApiFailure, read_json
from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset.requests.declaration import custom_id, parse_custom_id
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.realtime.journal import read_lines
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import refusals
from batch_pipeline.ledger.submissions.submissions import Submission

# A block of this size is held in memory, with its rows, by each thread that collects.
BLOCK_BYTES = 2 << 20
# The fastest level: it brings a line to a quarter of its size.
RAW_LEVEL = 1
# Statuses by which the API says that it has no results. Others pass, or are about the account.
ABSENT = (400, 404, 410)


@contextmanager
def of_submission(
    pipeline: Pipeline, night: Night, submission: Submission, raw: Path
) -> Iterator[Iterator[bytes]]:
    """Blocks of whole lines of a submission; those of a batch come while it is downloaded.

    The downloaded bytes are in the file `raw`, compressed, after the last block. Lines end with
    `\\n` bytes alone: texts may hold other line separators.
    """
    if submission.refusal is not None and submission.batch_id is None:
        yield iter([_of_refusal(submission)])
        return
    if submission.batch_id is None:
        yield whole_lines(line + b"\n" for line in _of_calls(pipeline, night, submission))
        return
    # Closed with the block, also after an error: the connection does not wait for the collector.
    with closing(_of_batch(pipeline, night, submission, raw)) as chunks:
        yield whole_lines(chunks)


def whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Chunks put together to blocks of at least `BLOCK_BYTES` that end with a line's end."""
    parts: list[bytes] = []
    held = 0
    for chunk in chunks:
        parts.append(chunk)
        held += len(chunk)
        if held < BLOCK_BYTES or b"\n" not in chunk:
            continue
        head, _, rest = b"".join(parts).rpartition(b"\n")
        yield head + b"\n"
        parts, held = [rest], len(rest)
    last = b"".join(parts)
    if last:
        yield last


def _of_batch(
    pipeline: Pipeline, night: Night, submission: Submission, raw: Path
) -> Generator[bytes]:
    """A batch's lines from the API; from the home, where the API has deleted them.

    The home has the lines of a batch that is not collected where the ledger was rebuilt.
    """
    try:
        yield from _downloaded(pipeline, submission, raw)
    except ApiFailure as failure:
        kept = f"{paths.raw(night.job, night.partition)}/{submission.batch_id}.jsonl.zst"
        if failure.status not in ABSENT or not pipeline.files.glob(kept):
            raise
        yield from pipeline.files.decompressed(kept)


def _downloaded(pipeline: Pipeline, submission: Submission, raw: Path) -> Generator[bytes]:
    assert submission.batch_id is not None
    with (
        pipeline.api_of(submission.account).stream_results(submission.batch_id) as chunks,
        raw.open("wb") as file,
        zstandard.ZstdCompressor(level=RAW_LEVEL).stream_writer(file, closefd=False) as compressed,
    ):
        for chunk in chunks:
            compressed.write(chunk)
            yield chunk


def _of_refusal(submission: Submission) -> bytes:
    """The lines of requests that were set aside unsent, or for which the API refused a body."""
    refusal = refusals.of(submission)
    assert refusal is not None
    lines = []
    for number, message in enumerate(refusal.messages or (refusal.message,)):
        error = {"type": refusal.error_type, "message": message}
        result = {"type": "errored", "error": {"type": "error", "error": error}}
        lines.append(
            orjson.dumps({"custom_id": custom_id(submission.token, number), "result": result})
        )
    return b"".join(b"%b\n" % line for line in lines)


def _of_calls(pipeline: Pipeline, night: Night, submission: Submission) -> Iterator[bytes]:
    """The journal's lines of real-time calls.

    A submission that was closed early has a line `canceled` for each request that was not asked,
    as a batch that was cancelled has.
    """
    folder = paths.raw_realtime(night.job, night.partition)
    lines = read_lines(pipeline.files, folder, submission.token)
    if submission.cancel_requested_at is None:
        yield from lines
        return
    answered = bytearray(submission.requests)
    for line in lines:
        known = parse_custom_id(read_json(line)["custom_id"])
        assert known is not None
        answered[known[1]] = 1
        yield line
    for number in (number for number, there in enumerate(answered) if not there):
        name = custom_id(submission.token, number)
        yield orjson.dumps({"custom_id": name, "result": {"type": "canceled"}})
