"""The documents that the home keeps: each content once, under its SHA-256, for all nights of a job.

Kept are copies of sources (`input.keep: copy`), what was fetched from URLs, bytes that tables hold,
and parts of PDFs. A file is published before a row of a snapshot names it, and `prune` leaves alone
what is younger than a snapshot takes to be made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from batch_pipeline.flow import paths
from batch_pipeline.storage.files import STAGING_MAX_AGE_SECONDS, Files

# Half of what `prune` grants.
_RENEWED_AFTER_SECONDS = STAGING_MAX_AGE_SECONDS / 2


class DocumentStore:
    """The kept documents of one job."""

    def __init__(self, files: Files, job: str) -> None:
        self.files, self.job = files, job

    def path(self, sha256: str) -> str:
        """Where in the home a content is."""
        return f"{paths.documents(self.job)}/{sha256}"

    def add(self, staged: Path, sha256: str) -> None:
        """Publish a staged file under its hash, unless it is there; that one counts as new then."""
        path = self.path(sha256)
        if not self.files.renew(path, _RENEWED_AFTER_SECONDS):
            self.files.make_durable(staged)
            self.files.publish(staged, path)

    def has(self, sha256: str) -> bool:
        """Whether a content is kept; it is not pruned from now on for two days."""
        return self.files.renew(self.path(sha256), float("inf"))

    def open(self, sha256: str) -> BinaryIO:
        """A kept content; FileNotFoundError where it is gone."""
        return self.files.open(self.path(sha256))

    # What was fetched from a URL is fetched once a night.

    def url_record(self, partition: str, url: str) -> dict[str, Any] | None:
        """What a URL had when it was fetched for a night: `sha256`, `size`, `fetched_at`, `name`
        and `content_type`; None where it has not been, or its content is gone."""
        found = self.files.read(self._url_path(partition, url))
        record: dict[str, Any] | None = None if found is None else orjson.loads(found)
        return record if record is not None and self.has(record["sha256"]) else None

    def put_url_record(self, partition: str, url: str, record: dict[str, Any]) -> None:
        self.files.write(self._url_path(partition, url), orjson.dumps(record))

    def _url_path(self, partition: str, url: str) -> str:
        name = hashlib.sha256(url.encode()).hexdigest()
        return f"{paths.document_urls(self.job, partition)}/{name}.json"

    def unneeded(self, needed: Collection[str], before: float) -> Iterator[tuple[str, int]]:
        """Hash and bytes of each content that is not needed and was written before a time."""
        for name, size, written in self.files.entries(paths.documents(self.job)):
            if name not in needed and written < before:
                yield name, size

    def remove(self, sha256: str) -> None:
        self.files.remove(self.path(sha256))
