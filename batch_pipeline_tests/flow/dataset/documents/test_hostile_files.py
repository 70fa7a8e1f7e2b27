"""A folder of files that are not what they seem: each has its own end, and the others are read."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline_tests import document_files as made
from batch_pipeline_tests.flow.dataset.documents.snapshots import (
    Rows,
    document_job,
    mark_of,
    rows_of,
    taken,
)
from batch_pipeline_tests.support import settings

PDF = made.pdf(["The fee is 100.", "", "Notice is three months."])
SCRIPT = "/OpenAction << /S /JavaScript /JS (app.alert(1)) >> /URI << /Base (http://x.example) >>"
XXE = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
BILLION = f'<!DOCTYPE x [<!ENTITY a0 "lol">{LAUGHS}]>'


def text_chunk_bomb() -> bytes:
    """A PNG whose comment unpacks to 80 MB."""
    data = b"k\0\0" + zlib.compress(bytes(80_000_000), 9)
    start, rest = made.png(10, 10)[:33], made.png(10, 10)[33:]
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data
    return start + chunk + struct.pack(">I", zlib.crc32(b"zTXt" + data)) + rest


FILES = {
    "good.pdf": PDF,
    "scripts.pdf": made.pdf(["x"], SCRIPT),
    "pages.pdf": made.blank_pdf(4_000),
    "zip.pdf": made.zip_of({"a.txt": b"a"}),
    "page.pdf": b"<!DOCTYPE html><html><form>log in</form></html>",
    "text.pdf": b"Not found",
    "empty.pdf": b"",
    "cut.pdf": PDF[:200],
    "none.pdf": made.pdf(()),
    "locked.pdf": made.LOCKED_PDF,
    "owned.pdf": made.OWNED_PDF,
    "long.pdf": b"%PDF-1.4\n" + bytes(24_000_001),
    "good.png": made.image("PNG", 300, 200),
    "good.jpeg": made.image("JPEG"),
    "good.webp": made.image("WEBP"),
    "good.gif": made.image("GIF"),
    "pdf.png": PDF,
    "png.pdf": made.image("PNG"),
    "wide.png": made.png(30_000, 30_000),
    "bomb.png": text_chunk_bomb(),
    "cut.png": made.png(10, 10)[:20],
    "tiff.png": b"II*\0" + bytes(50),
    "heic.jpg": b"\0\0\0\x18ftypheic" + bytes(50),
    "svg.png": b'<?xml version="1.0"?>\n<svg onload="alert(1)">',
    "good.docx": made.docx(made.paragraph("A contract.")),
    "old.docx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(50),
    "zip.docx": made.zip_of({"a.txt": b"a"}),
    "xxe.docx": made.docx(made.paragraph("a &e; b"), doctype=XXE),
    "laughs.docx": made.docx(made.paragraph("&a9;"), doctype=BILLION),
    "bomb.docx": made.docx("", more={"word/media/a": bytes(201_000_000)}),
    "blank.docx": made.docx(made.paragraph(" ")),
    "good.html": b"<p>Hello</p>",
    "script.htm": b"<script>alert(1)</script><p hidden style='display:none'>x</p>",
    "deep.html": b"<div>" * 50_000 + b"x",
    "good.eml": made.eml("Hello"),
    "nested.eml": b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(3_000)
    ),
    "blank.eml": b"Subject: nothing\n\n",
    "good.txt": b"Plain text.",
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    """All of them as one night's input."""
    folder = tmp_path_factory.mktemp("documents")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    with Pipeline(settings(tmp_path_factory.mktemp("home"))) as pipeline:
        yield rows_of(pipeline, taken(pipeline, document_job(folder / "*")))


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("good.pdf", "application/pdf"),
        ("scripts.pdf", "application/pdf"),
        ("good.png", "image/png"),
        ("good.jpeg", "image/jpeg"),
        ("good.webp", "image/webp"),
        ("good.gif", "image/gif"),
        # Told by content: the API refuses an image that is another than its media type says.
        ("pdf.png", "application/pdf"),
        ("png.pdf", "image/png"),
        ("good.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("good.html", "text/html"),
        ("good.eml", "message/rfc822"),
        ("good.txt", "text/plain"),
    ],
)
def test_what_can_be_sent_is_named_by_its_content(rows: Rows, name: str, media_type: str) -> None:
    assert rows[name]["status"] is None
    assert rows[name]["fingerprint"] is not None
    assert mark_of(rows[name])["media_type"] == media_type


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("zip.pdf", "not a PDF", "zip.pdf is a ZIP archive by its content"),
        ("page.pdf", "not a PDF", "page.pdf is a web page"),
        ("text.pdf", "not a PDF", "text.pdf is text by its content"),
        ("empty.pdf", "empty file", "empty.pdf"),
        ("cut.pdf", "damaged PDF", "PDFium cannot open it: Data format error"),
        ("none.pdf", "damaged PDF", "it has no pages"),
        ("locked.pdf", "encrypted PDF", "remove the password"),
        ("owned.pdf", "encrypted PDF", "remove the password"),
        ("bomb.png", "damaged image", ""),
        ("cut.png", "damaged image", ""),
        ("tiff.png", "of a kind that the API does not take", "image/tiff; convert it to PNG"),
        ("heic.jpg", "of a kind that the API does not take", "image/heic; convert it to PNG"),
        ("svg.png", "of a kind that the API does not take", "image/svg+xml; convert it to PNG"),
        ("old.docx", "of a kind that the API does not take", "an old Word or Outlook file"),
        ("zip.docx", "damaged .docx", "it has no document"),
        ("xxe.docx", "damaged .docx", ""),
        ("laughs.docx", "damaged .docx", ""),
        ("bomb.docx", "damaged .docx", "200 MB"),
        ("blank.docx", "no text", "blank.docx"),
        ("script.htm", "no text", "script.htm"),
        ("deep.html", "no text", "deep.html"),
        ("nested.eml", "damaged .eml", ""),
        ("blank.eml", "no text", "blank.eml"),
    ],
)
def test_what_cannot_be_sent_is_invalid_input(
    rows: Rows, name: str, reason: str, detail: str
) -> None:
    row = rows[name]
    assert (row["status"], row["reason"]) == ("invalid_input", reason)
    assert detail in row["detail"]
    assert row["unit"] is None


@pytest.mark.parametrize(
    ("name", "reason", "detail"),
    [
        ("pages.pdf", "more PDF pages than a request takes", "4,000 PDF pages, 100 at most"),
        ("long.pdf", "larger than a request may be", "24.0 MB are 32.0 MB in base64"),
        ("wide.png", "image sides over 8,000 pixels", "30,000"),
    ],
)
def test_what_is_too_large_says_how_large_it_is(
    rows: Rows, name: str, reason: str, detail: str
) -> None:
    assert (rows[name]["status"], rows[name]["reason"]) == ("too_large", reason)
    assert detail in rows[name]["detail"]


def test_every_file_is_a_row_and_no_secret_of_the_machine_is_in_any(rows: Rows) -> None:
    assert rows.keys() == FILES.keys()
    hostname = Path("/etc/hostname").read_text().strip() or "none"
    assert all(hostname.encode() not in row["input"] for row in rows.values())


def test_pages_and_pixels_are_what_tokens_follow_from(rows: Rows) -> None:
    # Three pages, and an image of 11 times 8 squares of 28 pixels.
    assert rows["good.pdf"]["visual_tokens"] == 3 * 1_600
    assert rows["good.png"]["visual_tokens"] == 11 * 8
    # In base64 the PDF has some 1,600 bytes, which stand for no tokens; its text has 38.
    row = rows["good.pdf"]
    base64_bytes = -(-len(PDF) // 3) * 4
    assert row["prompt_size"] == row["request_bytes"] - base64_bytes + 38 + 3 * 1_600
    assert not rows["good.docx"]["visual_tokens"]


def test_scans_and_missing_pages_are_set_aside_where_text_or_pages_are_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "scan.pdf").write_bytes(made.blank_pdf(12))
    (folder / "good.pdf").write_bytes(PDF)
    with Pipeline(settings(tmp_path / "home")) as pipeline:
        as_text = document_job(folder / "*", "{text}", pdf={"as": "text"})
        found = rows_of(pipeline, taken(pipeline, as_text))
        assert found["scan.pdf"]["reason"] == "a PDF without text"
        assert found["scan.pdf"]["detail"].startswith(
            "a PDF without text: 12 pages, none has text: a scan"
        )
        assert b"Notice is three months." in found["good.pdf"]["input"]
        assert "1 pages of PDFs have no text" in caplog.text
        late = document_job(folder / "*", pdf={"pages": "10-12"})
        found = rows_of(pipeline, taken(pipeline, late))
        assert found["good.pdf"]["reason"] == "no such pages"
        assert found["good.pdf"]["detail"] == "no such pages: has 3 pages, none of 10-12"
        assert mark_of(found["scan.pdf"])["sent_count"] == 3


def test_a_prompt_that_wants_the_text_of_what_has_none_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(PDF)
    with Pipeline(settings(tmp_path / "home")) as pipeline:
        found = rows_of(pipeline, taken(pipeline, document_job(tmp_path / "*.pdf", "{text}")))
        assert found["a.pdf"]["reason"] == "no text"
        assert "input.pdf: {as: text}" in found["a.pdf"]["detail"]
        with pytest.raises(InputDataError, match="'body' is missing"):
            taken(pipeline, document_job(tmp_path / "*.pdf", "{document} {body}"))
