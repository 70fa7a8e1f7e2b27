"""A night whose rows name documents: PDFs and images, some of which change before they are sent.

As `REFERENCE` the files are sent as they are, and what has changed is taken out of its batch before
this is made. As `KEPT` the home has a copy of each, and of PDFs with more pages than wanted a cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pypdfium2 as pdfium

from batch_pipeline_tests.document_files import image, image_block, pdf, pdf_block
from batch_pipeline_tests.support import MODEL

# Folders of the documents: as they are, and as they were when the input was taken.
NOW, THEN = "documents", "originals"
REFERENCE, KEPT = "reference", "kept"
PROMPT = "Sum up: {text}\n\n{file:document}"
MAX_TOKENS = 4_000
# Where documents are kept, the third page of a PDF is not sent.
PAGES = 2
# Rows in the pilot and in each batch: their files are other ones, or gone, when they are to be
# sent.
CHANGED, GONE = (3, 16, 27), (12, 22)
_SPOILED = b"spoiled\n"

Document = Mapping[str, Any]


def declared(source: Path, folder: Path, kept: str) -> dict[str, Any]:
    """The keys of the job that are not those of a plain one."""
    copies = {"keep": "copy", "pdf": {"pages": f"1-{PAGES}"}} if kept == KEPT else {}
    return {
        "input": {"path": str(source), "root": str(folder), **copies},
        "prompt": {"user": PROMPT},
    }


def write_documents(folder: Path, originals: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a document for each row, which gets its name: every fourth one is an image."""
    for place in (folder, originals):
        place.mkdir()
    for number, row in enumerate(rows):
        row["file"] = _name(number)
        if row["file"].endswith(".png"):
            content = image("PNG", 20 + number, 30)
        else:
            content = pdf([f"{row['text']}, page {page}" for page in range(1 + number % 3)])
        for place in (folder, originals):
            (place / row["file"]).write_bytes(content)


def spoil(folder: Path) -> None:
    """Change some documents and remove some others, unless it is done already."""
    for number in CHANGED:
        with (folder / _name(number)).open("ab+") as file:
            file.seek(-len(_SPOILED), 2)
            if file.read() != _SPOILED:
                file.write(_SPOILED)
    for number in GONE:
        (folder / _name(number)).unlink(missing_ok=True)


def asking(originals: Path, home: Path, kept: str) -> Callable[[Document], list[dict[str, Any]]]:
    """What gives the parameters of the one request for a document; of a spoiled one there is none.

    `originals` has the documents as they were when the input was taken.
    """
    spoiled = {_name(number) for number in (*CHANGED, *GONE)} if kept == REFERENCE else set()

    def asked_as(document: Document) -> list[dict[str, Any]]:
        if document["file"] in spoiled:
            return []
        content = (originals / document["file"]).read_bytes()
        if document["file"].endswith(".png"):
            block = image_block(content)
        elif kept == KEPT and len(_texts(content)) > PAGES:
            block = pdf_block(_cut_of(document["text"], home))
        else:
            block = pdf_block(content)
        text = {"type": "text", "text": f"Sum up: {document['text']}\n\n"}
        messages = [{"role": "user", "content": [text, block]}]
        return [{"model": MODEL, "max_tokens": MAX_TOKENS, "messages": messages}]

    return asked_as


def _name(number: int) -> str:
    return f"Bild {number}.png" if number % 4 == 3 else f"Akte {number}.pdf"


def _cut_of(text: str, home: Path) -> bytes:
    """The first pages of a PDF, which the home has once: a new cut would have other bytes."""
    wanted = [f"{text}, page {page}" for page in range(PAGES)]
    contents = (file.read_bytes() for file in home.glob("review/documents/*") if file.is_file())
    [cut] = [each for each in contents if each.startswith(b"%PDF") and _texts(each) == wanted]
    return cut


def _texts(content: bytes) -> list[str]:
    with pdfium.PdfDocument(content) as document:
        return [page.get_textpage().get_text_bounded().strip() for page in document]
