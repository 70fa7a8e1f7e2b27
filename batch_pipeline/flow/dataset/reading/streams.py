"""Opening an input file, local or remote, compressed or not, as a stream of plain bytes.

What the bytes mean is in `formats`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa

from batch_pipeline.flow.dataset.reading.files import SourceFile
from batch_pipeline.flow.dataset.reading.listing import filesystem_of

_CODECS: dict[str, Literal["gzip", "zstd"]] = {".gz": "gzip", ".zst": "zstd"}
_BUFFER_BYTES = 1_000_000


@contextmanager
def open_stream(file: SourceFile) -> Iterator[BinaryIO]:
    """The decompressed content of a file, in bounded memory.

    Raises OSError where the file cannot be opened or read; a compressed file that was cut off
    raises it on reading, at its end (the reader of the zstandard package would end there without an
    error).
    """
    with ExitStack() as stack:
        stream: io.BufferedReader[Any] = stack.enter_context(open_named(file.name, file.store))
        codec = next((_CODECS[end] for end in _CODECS if file.path.lower().endswith(end)), None)
        if codec:
            if not stream.peek(1):
                raise OSError(f"empty, which no {codec} file is")
            inflated = pa.CompressedInputStream(stream, codec)
            stream = stack.enter_context(
                io.BufferedReader(cast("io.RawIOBase", inflated), _BUFFER_BYTES)
            )
        yield stream


# What says that a file is gone or closed. Other errors of reading are not its fault.
GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


@contextmanager
def open_named(name: str, store: str | None) -> Iterator[io.BufferedReader[Any]]:
    """The bytes of a file as they are, by what opens it: see `SourceFile`."""
    if store is None:
        # Python's default buffer is smaller than a document: a line would be joined from many.
        with Path(name).open("rb", buffering=_BUFFER_BYTES) as local:
            yield cast("io.BufferedReader[Any]", local)
        return
    filesystem, _ = filesystem_of(store)
    remote: io.RawIOBase = filesystem.open(name, "rb")
    with io.BufferedReader(remote, _BUFFER_BYTES) as stream:  # which closes `remote` with itself
        yield stream
