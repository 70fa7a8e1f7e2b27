"""What a file is by its first bytes; its name decides only between texts.

Belongs here: signatures, and how a file is called that is not what was asked for. A file's name may
say anything, and the API refuses an image whose media type is another than its content's.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Refused

HEAD_BYTES = 1_024
PDF, IMAGE, ZIP, HTML, EML, TEXT = "pdf", "image", "zip", "html", "eml", "text"
NOT_TAKEN = "of a kind that the API does not take"
NOT_A_PDF, NOT_AN_IMAGE = "not a PDF", "not an image"

_CONVERT = "convert it to PNG, JPEG, WebP or GIF"
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")
_OTHERS = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word or Outlook file; save it as .docx or .eml"),
    (b"II*\x00", f"image/tiff; {_CONVERT}"),
    (b"MM\x00*", f"image/tiff; {_CONVERT}"),
    (b"BM", f"image/bmp; {_CONVERT}"),
    (b"{\\rtf", "a rich text file; save it as .docx"),
    (b"%!PS", "PostScript; convert it to PDF"),
    (b"\x1f\x8b", "compressed with gzip; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
)
_HEIC = re.compile(rb"....ftyp(heic|heix|hevc|mif1|msf1|heif|avif|avis)", re.DOTALL)
_SVG = re.compile(rb"(<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg[^>]*>|\s)*<svg[\s>]", re.DOTALL)
_WEB_PAGE = re.compile(
    rb"(<\?xml[^>]*>|<!--.*?-->|\s)*<(!doctype\s+html|html|head|body)[\s>]",
    re.DOTALL | re.IGNORECASE,
)
_MAIL = re.compile(
    rb"(From |(Received|Return-Path|Delivered-To|Message-ID|MIME-Version|From|Date|Subject"
    rb"|X-[\w-]+):[ \t])",
    re.IGNORECASE,
)
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_BY_NAME = {
    ".html": HTML, ".htm": HTML, ".xhtml": HTML, ".eml": EML, ".txt": TEXT, ".md": TEXT,
    ".csv": TEXT, ".json": TEXT, ".xml": TEXT,
}  # fmt: skip
_OF_PAGES_OR_PIXELS = {
    ".pdf": NOT_A_PDF, ".png": NOT_AN_IMAGE, ".jpg": NOT_AN_IMAGE, ".jpeg": NOT_AN_IMAGE,
    ".gif": NOT_AN_IMAGE, ".webp": NOT_AN_IMAGE,
}  # fmt: skip
_SHOWN = {
    PDF: "a PDF", IMAGE: "an image", ZIP: "a ZIP archive by its content", HTML: "a web page",
    EML: "an e-mail", TEXT: "text by its content",
}  # fmt: skip


# As `extract_office` calls a ZIP archive that is no Word file.
ARCHIVE = "a ZIP archive"


class Name(NamedTuple):
    """A file's name as messages have it, and its ending in small letters, or ''."""

    shown: str
    ending: str

    @classmethod
    def of(cls, path: str) -> Name:
        last = re.split(r"[/\\]", path.rstrip("/"))[-1]
        _, dot, ending = last.rpartition(".")
        return cls(last or path, f"{dot}{ending}".lower())


def begins_like_a_document(data: bytes) -> bool:
    """Whether bytes of a table are a PDF, an image or a Word file by their beginning."""
    head = data[:HEAD_BYTES]
    return head.startswith((b"PK\x03\x04", *_IMAGES)) or b"%PDF-" in head or _is_webp(head)


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def kind_of_content(head: bytes, name: Name) -> str:
    """What a file is by its first `HEAD_BYTES`; raises Refused for what cannot be sent."""
    if head.startswith(b"PK\x03\x04"):
        return ZIP
    if b"%PDF-" in head:
        return PDF
    if head.startswith(_IMAGES) or _is_webp(head):
        return IMAGE
    for start, words in _OTHERS:
        if head.startswith(start):
            raise Refused(NOT_TAKEN, f"{name.shown} is {words}")
    found = _HEIC.match(head)
    if found is not None:
        raise Refused(NOT_TAKEN, f"{name.shown} is image/{found[1].decode()}; {_CONVERT}")
    if _SVG.match(head):
        raise Refused(NOT_TAKEN, f"{name.shown} is image/svg+xml; {_CONVERT}")
    kind = _kind_of_text(head, name)
    # What was a document when it was named is not to be asked about as the text of an error page.
    if name.ending in _OF_PAGES_OR_PIXELS:
        what = "neither that nor an image" if kind is None else _SHOWN[kind]
        raise Refused(_OF_PAGES_OR_PIXELS[name.ending], f"{name.shown} is {what}")
    if kind is None:
        raise Refused(NOT_TAKEN, f"the first bytes of {name.shown} are those of no kind known here")
    return kind


def _kind_of_text(head: bytes, name: Name) -> str | None:
    by_name = _BY_NAME.get(name.ending)
    if head.startswith(_BOMS[1:]):
        return by_name if by_name in (HTML, TEXT) else None
    if b"\x00" in head:
        return None
    text = head.removeprefix(_BOMS[0])
    by_content = HTML if _WEB_PAGE.match(text) else EML if _MAIL.match(text) else None
    if by_name or by_content:
        return by_name or by_content
    try:
        # At the end a character may be cut off.
        codecs.getincrementaldecoder("utf-8")().decode(text, final=len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return None
    return TEXT


def refuse_other(kind: str, wanted: frozenset[str], name: Name, column: str) -> None:
    """Raise Refused where a placeholder wants a PDF or an image and this is none.

    `wanted` has the kinds of the placeholders of the column.
    """
    for each, is_so, reason in (
        ("pdf", kind == PDF, NOT_A_PDF),
        ("image", kind == IMAGE, NOT_AN_IMAGE),
    ):
        if each in wanted and not is_so:
            other = "" if kind == ZIP else f"; use {{{column}:document}}"
            raise Refused(reason, f"{name.shown} is {_SHOWN[kind]}{other}")


def refused_as(name: Name, refused: Refused) -> Refused:
    """What a file is refused for, by what its name claims: a ZIP archive named .pdf is no PDF."""
    if refused.reason != ARCHIVE:
        return refused
    return Refused(_OF_PAGES_OR_PIXELS.get(name.ending, NOT_TAKEN), refused.detail)
