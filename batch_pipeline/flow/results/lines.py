"""Result lines of a submission as they come, in blocks of whole lines; a batch's are kept raw.

Belongs here: the download, and reading on while the lines that came before are looked at. What a
line means stands in `line_judge`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import zstandard

from batch_pipeline.flow import paths
from batch_pipeline.flow.dataset.requests import custom_id, parse_custom_id
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.realtime.journal import read_lines
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import Submission

BLOCK_BYTES = 2 << 20
# Blocks that are read ahead: a bound of memory, and enough to keep both sides busy.
AHEAD = 2
# The fastest level that still keeps a line in a quarter of its size.
RAW_LEVEL = 1
# How long a download that nobody waits for any more may hold up the end of its block.
STOP_SECONDS = 1.0


@contextmanager
def of_submission(
    pipeline: Pipeline, night: Night, submission: Submission, raw: Path
) -> Iterator[Iterator[bytes]]:
    """Blocks of whole lines, split on `\\n` bytes alone; those of a batch come while it downloads.

    Its bytes are in `raw`, compressed, once the last block has come.
    """
    if submission.batch_id is None:
        yield whole_lines(line + b"\n" for line in _of_calls(pipeline, night, submission))
        return
    with ahead(whole_lines(_downloaded(pipeline, submission.batch_id, raw))) as blocks:
        yield blocks


def _of_calls(pipeline: Pipeline, night: Night, submission: Submission) -> Iterator[bytes]:
    """The lines of real-time calls; a submission that was closed early gets one for each request
    that nobody has asked, as a batch that is cancelled does."""
    folder = paths.raw_realtime(night.job, night.partition)
    lines = read_lines(pipeline.files, folder, submission.token)
    if submission.cancel_requested_at is None:
        yield from lines
        return
    answered = bytearray(submission.requests)
    for line in lines:
        known = parse_custom_id(orjson.loads(line)["custom_id"])
        assert known is not None
        answered[known[1]] = 1
        yield line
    for number in (number for number, there in enumerate(answered) if not there):
        name = custom_id(submission.token, number)
        yield orjson.dumps({"custom_id": name, "result": {"type": "canceled"}})


def whole_lines(chunks: Iterable[bytes], size: int = BLOCK_BYTES) -> Generator[bytes]:
    """Chunks put together to blocks of at least `size` bytes that end with a line's end."""
    parts: list[bytes] = []
    held = 0
    for chunk in chunks:
        parts.append(chunk)
        held += len(chunk)
        if held < size or b"\n" not in chunk:
            continue
        head, _, rest = b"".join(parts).rpartition(b"\n")
        yield head + b"\n"
        parts, held = [rest], len(rest)
    last = b"".join(parts)
    if last:
        yield last


@contextmanager
def ahead(blocks: Generator[bytes]) -> Iterator[Iterator[bytes]]:
    """The same blocks, made by a thread of its own up to `AHEAD` before they are wanted."""
    reader = _Ahead(blocks)
    reader.start()
    try:
        yield reader.taken()
    finally:
        reader.stop()


class _Ahead(threading.Thread):
    """The thread that makes them; a daemon, for a read from the network may take long to end."""

    def __init__(self, blocks: Generator[bytes]) -> None:
        super().__init__(name="download", daemon=True)
        self._blocks = blocks
        self._made: queue.Queue[bytes | BaseException | None] = queue.Queue(AHEAD)
        self._stopped = threading.Event()

    def taken(self) -> Iterator[bytes]:
        while (item := self._made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> None:
        self._stopped.set()
        self.join(STOP_SECONDS)

    def run(self) -> None:
        try:
            for block in self._blocks:
                self._put(block)
                if self._stopped.is_set():
                    break
            self._blocks.close()
        except BaseException as error:  # noqa: BLE001  # raised again where the blocks are wanted
            self._put(error)
        self._put(None)

    def _put(self, item: bytes | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._made.put(item, timeout=STOP_SECONDS / 4)
            except queue.Full:
                continue
            else:
                return


def _downloaded(pipeline: Pipeline, batch_id: str, raw: Path) -> Generator[bytes]:
    with (
        pipeline.api.stream_results(batch_id) as chunks,
        raw.open("wb") as file,
        zstandard.ZstdCompressor(level=RAW_LEVEL).stream_writer(file, closefd=False) as compressed,
    ):
        for chunk in chunks:
            compressed.write(chunk)
            yield chunk
