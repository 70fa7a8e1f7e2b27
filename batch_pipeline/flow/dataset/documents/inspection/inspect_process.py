"""The process that reads documents: a file that breaks it is set aside, and nothing else.

Belongs here: its limits, and which module reads which kind. It sees no keys: its environment has
nothing but the way to its modules, and what it answers is JSON.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Facts, Refused, Want
from batch_pipeline.flow.dataset.limited_process import allow_seconds, run_as_process

# For one file.
MOST_SECONDS = 30
MOST_BYTES = 1 << 30
MOST_FILE_BYTES = 128 << 20


def _reader(kind: str) -> Callable[[Want], Facts]:
    """What reads a kind. A process that sees images alone need not load PDFium."""
    match kind:
        case "pdf":
            from batch_pipeline.flow.dataset.documents.inspection import extract_pdf  # noqa: PLC0415

            return extract_pdf.facts_of
        case "image":
            from batch_pipeline.flow.dataset.documents.inspection import extract_image  # noqa: PLC0415

            return extract_image.facts_of
    from batch_pipeline.flow.dataset.documents.inspection import extract_office  # noqa: PLC0415

    readers = {
        "zip": extract_office.facts_of_zip,
        "html": extract_office.facts_of_html,
        "eml": extract_office.facts_of_email,
    }
    return readers[kind]


def _thumbnail(want: Want) -> bytes:
    if want.kind == "pdf":
        from batch_pipeline.flow.dataset.documents.inspection import extract_pdf  # noqa: PLC0415

        return extract_pdf.thumbnail(want.path)
    from batch_pipeline.flow.dataset.documents.inspection import extract_image  # noqa: PLC0415

    return extract_image.thumbnail(want.path)


def answer(request: bytes) -> bytes:
    """What a request comes to, as JSON: facts, or why the file is refused."""
    asked: dict[str, Any] = json.loads(request)
    allow_seconds(asked.pop("seconds", MOST_SECONDS))
    want = Want(**asked)
    found: dict[str, Any]
    try:
        if want.thumbnail:
            found = {"thumbnail": base64.b64encode(_thumbnail(want)).decode()}
        else:
            found = {"facts": asdict(_reader(want.kind)(want))}
    except Refused as refused:
        found = {"refused": [refused.reason, refused.detail, refused.too_large]}
    except ImportError:
        words = "reading it needs: pip install 'batch-pipeline[documents]'"
        found = {"refused": ["an extra is not installed", words, False]}
    except MemoryError:
        raise  # what has filled the memory would stay in it
    except Exception as error:  # noqa: BLE001  # a file that no library has thought of
        words = " ".join(str(error).split())[:200]
        found = {"refused": ["cannot be read", f"{type(error).__name__}: {words}", False]}
    return json.dumps(found).encode()


if __name__ == "__main__":
    run_as_process(answer, RLIMIT_FSIZE=MOST_FILE_BYTES)
