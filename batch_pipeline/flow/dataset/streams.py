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
from fsspec.core import url_to_fs

from batch_pipeline.flow.dataset.files import SourceFile, is_remote

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
        stream: io.BufferedReader[Any] = stack.enter_context(_open_raw(file))
        codec = next((_CODECS[end] for end in _CODECS if file.path.lower().endswith(end)), None)
        if codec:
            if not stream.peek(1):
                raise OSError(f"empty, which no {codec} file is")
            inflated = pa.CompressedInputStream(stream, codec)
            stream = stack.enter_context(
                io.BufferedReader(cast("io.RawIOBase", inflated), _BUFFER_BYTES)
            )
        yield stream


@contextmanager
def _open_raw(file: SourceFile) -> Iterator[io.BufferedReader[Any]]:
    if not is_remote(file.path):
        # Python's default buffer is smaller than a document: a line would be joined from many.
        with Path(file.path).open("rb", buffering=_BUFFER_BYTES) as local:
            yield cast("io.BufferedReader[Any]", local)
        return
    filesystem, path = url_to_fs(file.path)
    remote: io.RawIOBase = filesystem.open(path, "rb")
    with io.BufferedReader(remote, _BUFFER_BYTES) as stream:  # which closes `remote` with itself
        yield stream
