"""Reads the documents and images in a request: pages, text, pixels.

Belongs here: what a block holds, found out with PDFium and Pillow. What the API refuses of it is in
`document_checks`, what it costs in `answers.tokens`. Content may be hostile: images are never
decoded, and a PDF that unpacks to too much is not opened.
"""

from __future__ import annotations

import base64
import io
import re
import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

MEDIA = ("document", "image")
IMAGE_TYPES = {
    "JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp",
}  # fmt: skip
# The text of the first, the middle and the last page stands for all pages.
PAGES_READ = 3
# All streams of a PDF but images, unpacked; a larger file is not opened.
MOST_UNPACKED_BYTES = 256 << 20
# The largest of them; PDFium takes 15 times as much memory to read a page.
MOST_READ_BYTES = 32 << 20
MOST_STREAMS = 100_000
# Characters of a text that are kept: answers quote its head and its tail.
KEPT_HEAD, KEPT_TAIL = 5_000, 3_000
KNOWN_AT_MOST = 2_048

# Pillow raises these for the header of a file that is no image.
_PILLOWS_ERRORS = (
    OSError, ValueError, SyntaxError, LookupError, ArithmeticError, EOFError, TypeError,
    AttributeError, struct.error, zlib.error,
)  # fmt: skip
_STREAM = re.compile(rb"(?<!end)stream\r?\n")
_OBJECT = re.compile(rb"\bobj\b")
_STREAM_DICTIONARY_BYTES = 2_048
_FLATE = re.compile(rb"/Fl(?:ateDecode)?\b")
_pdfium = threading.Lock()  # PDFium is not safe for threads


class UnreadableError(Exception):
    """A document or image that cannot be read; the message is the API's."""


@dataclass(frozen=True)
class Pdf:
    """A PDF: its pages, and the text of some of them.

    `text_bytes` is reckoned for all pages from those that were read. `quoted` is the first of these
    with text, and its number from 1.
    """

    pages: int
    text: str = ""
    text_bytes: int = 0
    quoted: tuple[int, str] | None = None


@dataclass(frozen=True)
class Picture:
    media_type: str
    width: int
    height: int


Found = TypeVar("Found", bound=Pdf | Picture)


class _Known(Generic[Found]):
    """A cache of what `read` found in base64 texts; safe for many threads.

    The checks, the token count and the answer of a request each look at its documents. The key is
    Python's hash of the text, which a string keeps once it was computed.
    """

    def __init__(self, read: Callable[[bytes], Found]) -> None:
        self._read: Callable[[bytes], Found] = read
        self._known: OrderedDict[tuple[int, int], Found | str] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, data: str) -> Found:
        key = len(data), hash(data)
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
        if found is None:
            try:
                found = self._read(_decoded(data))
            except UnreadableError as error:
                found = str(error)
            with self._lock:
                self._known[key] = found
                if len(self._known) > KNOWN_AT_MOST:
                    self._known.popitem(last=False)
        if isinstance(found, str):
            raise UnreadableError(found)
        return found


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise UnreadableError("Invalid base64 data") from None


def _read_pdf(data: bytes) -> Pdf:
    import pypdfium2  # noqa: PLC0415 (most simulators never see a document)
    from pypdfium2 import raw  # noqa: PLC0415

    invalid = UnreadableError("The PDF specified was not valid.")
    unpacked, largest = _unpacked(data)
    if b"%PDF-" not in data[:1_024] or unpacked > MOST_UNPACKED_BYTES:
        raise invalid
    with _pdfium:
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError:
            # A document without pages opens, and pypdfium2 tells the error of an earlier one.
            if opened := raw.FPDF_LoadMemDocument64(data, len(data), None):
                raw.FPDF_CloseDocument(opened)
            elif raw.FPDF_GetLastError() == raw.FPDF_ERR_PASSWORD:
                raise UnreadableError("The PDF specified is password protected.") from None
            raise invalid from None
        try:
            if raw.FPDF_GetSecurityHandlerRevision(document) != -1:
                raise UnreadableError("The PDF specified is password protected.")
            if not (pages := len(document)):
                raise invalid
            if largest > MOST_READ_BYTES:
                return Pdf(pages)
            read = sorted({0, pages // 2, pages - 1})
            texts = [(number + 1, _text_of_page(document, number)) for number in read]
        finally:
            document.close()
    size = sum(len(text.encode("utf-8", "replace")) for _, text in texts)
    text = "\n".join(text for _, text in texts)
    if len(text) > KEPT_HEAD + KEPT_TAIL:
        text = f"{text[:KEPT_HEAD]} {text[-KEPT_TAIL:]}"
    quoted = next(((number, text[:KEPT_HEAD]) for number, text in texts if text.strip()), None)
    return Pdf(pages, text, size * pages // len(read), quoted)


def _text_of_page(document: Any, number: int) -> str:
    from pypdfium2 import PdfiumError  # noqa: PLC0415

    try:
        page = document[number]
        text: str = page.get_textpage().get_text_range()
        page.close()
    except PdfiumError:  # a page that is damaged; the document is not
        return ""
    return text


def _unpacked(data: bytes) -> tuple[int, int]:
    """Bytes of all streams but images when unpacked, and of the largest; stops at the limit.

    PDFium unpacks a stream whole, and would need gigabytes for a file of a megabyte.
    """
    total = largest = 0
    for number, found in enumerate(_STREAM.finditer(data)):
        head = data[max(0, found.start() - _STREAM_DICTIONARY_BYTES) : found.start()]
        head = _OBJECT.split(head)[-1]
        packed = len(_FLATE.findall(head))
        if number < MOST_STREAMS and (b"/Image" in head or not packed):
            continue
        # Packed twice, a few bytes become gigabytes.
        too_much = packed > 1 or number >= MOST_STREAMS
        size = MOST_UNPACKED_BYTES + 1 if too_much else _unpacked_at(data, found.end())
        total, largest = total + size, max(largest, size)
        if total > MOST_UNPACKED_BYTES:
            break
    return total, largest


def _unpacked_at(data: bytes, position: int) -> int:
    unpacker = zlib.decompressobj()
    size = 0
    try:
        while position < len(data) and not unpacker.eof and size <= MOST_UNPACKED_BYTES:
            rest = data[position : position + (1 << 16)]
            position += len(rest)
            # At the end `unconsumed_tail` may hold what comes after it.
            while rest and not unpacker.eof and size <= MOST_UNPACKED_BYTES:
                size += len(unpacker.decompress(rest, 1 << 20))
                rest = unpacker.unconsumed_tail
    except zlib.error:
        pass  # it ends here for PDFium as well
    return size


def _read_image(data: bytes) -> Picture:
    from PIL import Image  # noqa: PLC0415

    try:
        # The header alone: nothing is decoded.
        with Image.open(io.BytesIO(data), formats=tuple(IMAGE_TYPES)) as image:
            # Cameras put several pictures into one JPEG, which Pillow has a name of its own for.
            kind = "JPEG" if image.format == "MPO" else image.format
            return Picture(IMAGE_TYPES[kind or ""], *image.size)
    except Image.DecompressionBombError:
        # More than 179 million pixels: above the limit of any side.
        return Picture(_told_by_content(data), 1 << 20, 1 << 20)
    except _PILLOWS_ERRORS:
        raise UnreadableError("Could not process image") from None


def _told_by_content(data: bytes) -> str:
    starts = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"GIF8": "GIF"}
    kinds = (kind for start, kind in starts.items() if data.startswith(start))
    return IMAGE_TYPES[next(kinds, "WEBP")]


pdf_of = _Known(_read_pdf)
"""The PDF of a base64 text. Errors: `UnreadableError`."""

picture_of = _Known(_read_image)
"""The image of a base64 text. Errors: `UnreadableError`."""


def media_blocks(params: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(where it stands, role of its turn, block) of each document and image of the messages.

    Also those within a tool's result, and the images within a document of blocks.
    """
    for number, turn in enumerate(params["messages"]):
        if isinstance(blocks := turn["content"], list):
            yield from _media_in(blocks, f"messages.{number}.content", turn["role"])


def _media_in(
    blocks: list[Any], where: str, role: str
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for number, block in enumerate(blocks):
        if not isinstance(block, dict):
            continue
        kind = block.get("type")
        at = f"{where}.{number}.{kind}"
        inner = block.get("content") if kind == "tool_result" else None
        if kind in MEDIA:
            yield at, role, block
            source = block.get("source")
            inner = source.get("content") if isinstance(source, dict) else None
            at += ".source"
        if isinstance(inner, list):
            yield from _media_in(inner, f"{at}.content", role)


def content_of(source: dict[str, Any]) -> Any:
    """What the checked source of a document holds that is no PDF: a text, or blocks."""
    return source["data" if source["type"] == "text" else "content"]


def text_of(block: Any) -> str:
    """The text in a checked block of the messages; empty where there is none."""
    if isinstance(block, str):
        return block
    if not isinstance(block, dict):
        return ""
    if isinstance(text := block.get("text"), str):
        return text
    inner = block.get("content") if block.get("type") == "tool_result" else None
    if block.get("type") == "document":
        source = block["source"]
        if source["type"] == "base64":
            return pdf_of(source["data"]).text
        inner = content_of(source)
    if isinstance(inner, str):
        return inner
    return "\n".join(filter(None, map(text_of, inner or ())))
