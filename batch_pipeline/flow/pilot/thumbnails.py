"""Small pictures of documents for the pilot's page: of an image, or of a PDF's first page.

They are made by the process that reads documents, with its limits; bytes of a document are opened
nowhere else. A document that has changed since, or that takes too long, has no picture.
"""

from __future__ import annotations

import base64
import time

from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.flow.dataset.documents.inspection import inspection
from batch_pipeline.flow.dataset.documents.opening import DocumentOpener
from batch_pipeline.flow.dataset.documents.reference import Document, DocumentChangedError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# Larger pictures, or more than this of all, are left out: the page is to stay below 8 MB.
MOST_BYTES = 40_000
MOST_BYTES_OF_ALL = 4_000_000
MOST_SOURCE_BYTES = 32_000_000
# A pilot waits for its page.
MOST_SECONDS = 20.0


class Thumbnails:
    """Makes pictures until there are enough of them."""

    def __init__(self, pipeline: Pipeline, job: str) -> None:
        self._files, self._opener = pipeline.files, DocumentOpener(pipeline.files, job)
        self._left = MOST_BYTES_OF_ALL
        self._until = time.monotonic() + MOST_SECONDS

    def of(self, document: Document) -> str | None:
        """A picture as a `data:` URI; None where there is none to be had."""
        pictured = document.media_type == "application/pdf" or document.media_type.startswith(
            "image/"
        )
        enough = self._left < MOST_BYTES or time.monotonic() > self._until
        if not pictured or enough or document.size > MOST_SOURCE_BYTES:
            return None
        try:
            picture = self._made(document)
        except (DocumentChangedError, OSError, BatchPipelineError) as error:
            log.debug("no picture of %s: %r", document.path, error)
            return None
        if picture is None or len(picture) > MOST_BYTES:
            return None
        self._left -= len(picture)
        return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"

    def _made(self, document: Document) -> bytes | None:
        with self._files.staged() as copy:
            with copy.open("wb") as file:
                for piece in self._opener.open(document):
                    file.write(piece)
            return inspection.thumbnail(str(copy), document.media_type)
