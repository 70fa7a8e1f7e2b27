"""What is known of a PDF: its pages, their text, a part of its pages as a PDF, a small picture.

Runs in the process of `inspect_process` alone: PDFium reads what strangers made, and two threads
must not use it at once. Scripts, links and embedded files are neither run nor followed: PDFium
comes without a script engine here, and forms are not filled in.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pypdfium2
from pypdfium2 import raw

from batch_pipeline.flow.dataset.documents.inspection import small_pictures
from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Facts, Refused, Want

# Larger texts fit in no request.
MOST_TEXT_BYTES = 32_000_000
# What PDFium writes anew into each file: cuts of the same pages are to be the same bytes.
_ID = re.compile(rb"(/ID\s*\[\s*<)[0-9A-Fa-f]{32}(>\s*<)[0-9A-Fa-f]{32}(>)")
_CREATED = re.compile(rb"(/CreationDate\s*\(D:)([0-9+\-'Z]*)")
_NO_ID = rb"\g<1>" + b"0" * 32 + rb"\g<2>" + b"0" * 32 + rb"\g<3>"
# PDFium's sign for a hyphen at the end of a line, where a word goes on in the next one.
_HYPHENS = str.maketrans({"\ufffe": "-", "\x02": "-", "\r": None, "\x00": None})


def facts_of(want: Want) -> Facts:
    """Raises Refused for a PDF that cannot be sent."""
    with closing(_opened(want.path)) as document:
        pages = len(document)
        if not pages:
            raise Refused("damaged PDF", "it has no pages")
        chosen = _chosen(want.pages, pages)
        sent = None if len(chosen) == pages else len(chosen)
        if want.as_text:
            return _text_of(document, chosen, pages, sent)
        sampled = _sampled(chosen, want.sample_pages)
        size = sum(len(_page_text(document, number).encode()) for number in sampled)
        text_bytes = size * len(chosen) // len(sampled)
        cut = sent is not None and want.cut_to is not None
        if cut:
            _cut(document, chosen, Path(str(want.cut_to)))
        return Facts(
            "application/pdf", pages=pages, text_bytes=text_bytes, sent_pages=sent, cut=cut
        )


def thumbnail(path: str) -> bytes:
    """The first page as a small JPEG."""
    with closing(_opened(path)) as document, closing(document[0]) as page:
        # A page may be a hundred times as high as it is wide.
        shape = small_pictures.HEIGHT / small_pictures.WIDTH
        scale = small_pictures.WIDTH / max(page.get_width(), page.get_height() / shape, 1)
        picture = page.render(scale=scale).to_pil().convert("RGB")
    return small_pictures.as_jpeg(picture)


def _opened(path: str) -> Any:
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError:
        raise _why_closed(path) from None
    # An owner's password lets everyone read, and the API refuses the file all the same.
    if raw.FPDF_GetSecurityHandlerRevision(document) != -1:
        document.close()
        raise _encrypted()
    return document


def _why_closed(path: str) -> Refused:
    """Why PDFium opens no document. It is asked once more, because pypdfium2 calls a document
    without pages by the error of another file."""
    opened = raw.FPDF_LoadDocument(os.fsencode(path) + b"\0", None)
    if opened:
        raw.FPDF_CloseDocument(opened)
        return Refused("damaged PDF", "it has no pages")
    error = raw.FPDF_GetLastError()
    if error == raw.FPDF_ERR_PASSWORD:
        return _encrypted()
    words = pypdfium2.internal.ErrorToStr.get(error, f"error {error}")
    return Refused("damaged PDF", f"PDFium cannot open it: {words}")


def _encrypted() -> Refused:
    return Refused("encrypted PDF", "remove the password, the API takes no encrypted PDFs")


def _words(error: Exception) -> str:
    """`Failed to load document (PDFium: Data format error).` → `Data format error`."""
    return str(error).partition("PDFium: ")[2].rstrip(").") or str(error)


def _chosen(ranges: Sequence[Sequence[int | None]] | None, pages: int) -> Sequence[int]:
    """The pages to send, counted from 0."""
    if ranges is None:
        return range(pages)
    found: list[int] = []
    for first, last in ranges:
        assert first is not None
        found += range(first - 1, pages if last is None else min(last, pages))
    if not found:
        asked = ",".join(_range_text(first, last) for first, last in ranges)
        raise Refused("no such pages", f"has {pages:,} pages, none of {asked}")
    return found


def _range_text(first: int | None, last: int | None) -> str:
    return f"{first}" if first == last else f"{first}-{'' if last is None else last}"


def _sampled(chosen: Sequence[int], most: int) -> list[int]:
    """First, middle and last page, or as many as are wanted, at equal distances."""
    last = len(chosen) - 1
    places = {last * part // max(most - 1, 1) for part in range(max(most, 1))}
    return [chosen[place] for place in sorted(places)]


def _text_of(document: Any, chosen: Iterable[int], pages: int, sent: int | None) -> Facts:
    texts: list[str] = []
    size = 0
    for number in chosen:
        texts.append(_page_text(document, number))
        size += len(texts[-1].encode())
        if size > MOST_TEXT_BYTES:
            raise Refused(
                "larger than a request may be",
                f"its text has more than {MOST_TEXT_BYTES:,} bytes; input.pdf: {{pages: …}} sends "
                "a part",
                too_large=True,
            )
    empty = sum(not text for text in texts)
    if empty == len(texts):
        raise Refused(
            "a PDF without text",
            f"{len(texts):,} {'page' if len(texts) == 1 else 'pages'}, none has text: a scan; send "
            "it with input.pdf: {as: native}",
        )
    text = "\n\n".join(filter(None, texts))
    return Facts(
        "application/pdf", pages=pages, text_bytes=len(text.encode()), sent_pages=sent, text=text,
        extractor="pdf", pages_without_text=empty,
    )  # fmt: skip


def _page_text(document: Any, number: int) -> str:
    """The text of a page; empty for one that is damaged in a document that is not."""
    try:
        with closing(document[number]) as page, closing(page.get_textpage()) as textpage:
            text: str = textpage.get_text_range()
    except pypdfium2.PdfiumError:
        return ""
    return text.translate(_HYPHENS).strip()


def _cut(document: Any, chosen: Sequence[int], path: Path) -> None:
    made = io.BytesIO()
    with closing(pypdfium2.PdfDocument.new()) as cut:
        try:
            cut.import_pages(document, list(chosen))
        except pypdfium2.PdfiumError as error:
            detail = f"PDFium cannot copy its pages: {_words(error)}"
            raise Refused("damaged PDF", detail) from None
        cut.save(made)
    path.write_bytes(normalised(made.getvalue()))


def normalised(data: bytes) -> bytes:
    """A file that PDFium wrote, without what differs each time; of the same length, so that the
    places in it stay true."""
    end = max(data.rfind(b"trailer"), 0)
    head = _CREATED.sub(lambda found: found[1] + b"0" * len(found[2]), data[:end], count=1)
    return head + _ID.sub(_NO_ID, data[end:], count=1)
