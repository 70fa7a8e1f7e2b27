"""`bucket://` as the URL of a home: a folder that processes reach as they reach an object store."""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Bucket(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A folder as an object store: reached by URL alone, and names need no folders made first."""

    protocol = "bucket"

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("bucket://"))


fsspec.register_implementation(Bucket.protocol, Bucket, clobber=True)
