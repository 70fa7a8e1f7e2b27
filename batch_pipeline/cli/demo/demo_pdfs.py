"""PDFs for the demo: licence texts of this machine, set in pages, and two of them as scans.

Belongs here: which texts become PDFs, and how they are made. PDFium sets them in Helvetica, which
every reader of PDFs brings with it; a scan is the picture of such pages, without any text.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import distributions
from itertools import islice
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from batch_pipeline.cli.demo.demo_corpus import Document, find_documents, id_hash
from batch_pipeline.flow.dataset.documents.inspection.extract_pdf import normalised

PDFS = 60
SCANS = 2
MOST_PAGES, MOST_PAGES_OF_SCAN = 6, 2
# A stub of a few words asks nothing of anybody, and the licences of a whole distribution would be
# a book.
FEWEST_CHARACTERS, MOST_CHARACTERS = 1_000, 30_000

_WIDTH, _HEIGHT, _MARGIN = 595, 842, 50
_FONT, _FONT_SIZE, _LINE_HEIGHT = b"Helvetica", 9.0, 12
_LINES_PER_PAGE = (_HEIGHT - 2 * _MARGIN) // _LINE_HEIGHT
_CHARACTERS_PER_LINE = 95
# A picture of 100 dots an inch: well to be read, and some 100 kB a page.
_SCAN_SCALE, _JPEG_QUALITY = 100 / 72, 50


def make_pdfs(folder: Path, most: int = PDFS, scans: int = SCANS) -> int:
    """Write at most `most` PDFs into `folder`; returns their number.

    The same texts give the same bytes; a file that has them is not touched. Other files in the
    folder are left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = sorted(find_documents(distributions()), key=id_hash)
    count = 0
    for name, pages in islice(_pages_of_texts(texts), most):
        as_scan = scans > 0 and len(pages) <= MOST_PAGES_OF_SCAN
        scans -= as_scan
        made = pdf_of(pages)
        _write(folder / name, scan_of(made) if as_scan else made)
        count += 1
    return count


def _pages_of_texts(documents: Iterable[Document]) -> Iterator[tuple[str, list[list[str]]]]:
    """File names and lines by page of the texts that fit; of equal texts the first alone."""
    seen: set[bytes] = set()
    for document in documents:
        try:
            text = document.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        digest = hashlib.sha256(text.encode()).digest()
        if digest in seen or not FEWEST_CHARACTERS <= len(text) <= MOST_CHARACTERS:
            continue
        seen.add(digest)
        pages = _pages(text)
        if len(pages) <= MOST_PAGES:
            yield f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', document.id)}.pdf", pages


def _pages(text: str) -> list[list[str]]:
    lines: list[str] = []
    for line in text.expandtabs().splitlines():
        lines += textwrap.wrap(line, _CHARACTERS_PER_LINE, drop_whitespace=False) or [""]
    return [lines[n : n + _LINES_PER_PAGE] for n in range(0, len(lines), _LINES_PER_PAGE)]


def pdf_of(pages: Iterable[Sequence[str]]) -> bytes:
    """A PDF with these lines on its pages."""
    document = pdfium.PdfDocument.new()
    for lines in pages:
        page = document.new_page(_WIDTH, _HEIGHT)
        for number, line in enumerate(lines):
            if line.strip():
                _add_line(document, page, line, _HEIGHT - _MARGIN - number * _LINE_HEIGHT)
        page.gen_content()
        page.close()
    return _saved(document)


def _add_line(document: pdfium.PdfDocument, page: pdfium.PdfPage, line: str, height: int) -> None:
    shown = pdfium_c.FPDFPageObj_NewTextObj(document, _FONT, _FONT_SIZE)
    # The font has the characters of Windows' western code page.
    known = line.encode("cp1252", "replace").decode("cp1252")
    encoded = ctypes.create_string_buffer(f"{known}\0".encode("utf-16-le"))
    pdfium_c.FPDFText_SetText(shown, ctypes.cast(encoded, pdfium_c.FPDF_WIDESTRING))
    pdfium_c.FPDFPageObj_Transform(shown, 1, 0, 0, 1, _MARGIN, height)
    pdfium_c.FPDFPage_InsertObject(page, shown)


def scan_of(pdf: bytes) -> bytes:
    """The pages of a PDF as pictures."""
    source, document = pdfium.PdfDocument(pdf), pdfium.PdfDocument.new()
    for shown in source:
        picture = io.BytesIO()
        bitmap = shown.render(scale=_SCAN_SCALE, grayscale=True)
        bitmap.to_pil().save(picture, "JPEG", quality=_JPEG_QUALITY)
        page = document.new_page(_WIDTH, _HEIGHT)
        image = pdfium.PdfImage.new(document)
        image.load_jpeg(picture)
        image.set_matrix(pdfium.PdfMatrix().scale(_WIDTH, _HEIGHT))
        page.insert_obj(image)
        page.gen_content()
        page.close()
    made = _saved(document)
    source.close()
    return made


def _saved(document: pdfium.PdfDocument) -> bytes:
    """The bytes of a document, with zeros for the time and the id that PDFium puts there."""
    made = io.BytesIO()
    document.save(made)
    document.close()
    return normalised(made.getvalue())


def _write(path: Path, content: bytes) -> None:
    """Put a file into place, whole or not at all; one that has this content is not touched."""
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
