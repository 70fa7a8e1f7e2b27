"""What is taken out of documents, and the process that does it: its death concerns one file."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from batch_pipeline.flow.dataset.documents.inspection import inspect_process, inspection
from batch_pipeline.flow.dataset.documents.inspection.inspect_types import Facts, Refused, Want
from batch_pipeline.flow.dataset.documents.inspection.inspection import inspect, thumbnail
from batch_pipeline.flow.dataset.documents.reference import EXTRACTION
from batch_pipeline_tests.document_files import (
    docx,
    eml,
    image,
    paragraph,
    pdf,
    pdf_bomb,
    table,
)

Inspected = Callable[..., Facts]


@pytest.fixture
def inspected(tmp_path: Path) -> Inspected:
    """What is found of a file with this content."""

    def find(data: bytes, kind: str, name: str = "a", **want: object) -> Facts:
        path = tmp_path / name
        path.write_bytes(data)
        return inspect(Want(str(path), kind, name, **want))  # type: ignore[arg-type]

    return find


# --- the process ---------------------------------------------------------------------------------


def test_a_file_that_takes_too_long_ends_its_process_and_no_other_file_notices(
    inspected: Inspected, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inspected(pdf(), "pdf").pages == 1
    monkeypatch.setattr(inspect_process, "MOST_SECONDS", 0)
    with pytest.raises(Refused) as refused:
        inspected(pdf_bomb(80), "pdf")
    assert refused.value.reason == "cannot be read within the limits"
    assert "the file is at fault" in refused.value.detail
    assert inspected(pdf(["a", "b"]), "pdf").pages == 2


def test_a_process_that_does_not_answer_is_given_up(
    inspected: Inspected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "MOST_WAIT_SECONDS", 0)
    with pytest.raises(Refused, match="had not answered after 0 s"):
        inspected(pdf_bomb(20), "pdf")
    monkeypatch.undo()
    assert inspected(pdf(), "pdf").pages == 1


def test_a_file_that_takes_too_much_memory_ends_its_process(
    inspected: Inspected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_process, "MOST_BYTES", 150 << 20)
    inspection._stop()
    assert inspected(pdf(), "pdf").pages == 1
    with pytest.raises(Refused, match="ended at 150 MiB of memory or 30 s"):
        inspected(pdf_bomb(160), "pdf")
    monkeypatch.undo()
    inspection._stop()


def test_the_process_sees_no_keys(inspected: Inspected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret")
    inspection._stop()
    assert inspected(pdf(), "pdf").pages == 1
    assert inspection._running is not None
    pid = inspection._running._process.pid
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"PYTHONPATH" in environment
    assert b"secret" not in environment


# --- PDFs ----------------------------------------------------------------------------------------


def test_text_is_that_of_the_pages_that_are_asked_for(inspected: Inspected) -> None:
    pages = pdf(["one", "two", "", "four"])
    whole = inspected(pages, "pdf", as_text=True)
    assert (whole.text, whole.pages, whole.sent_pages) == ("one\n\ntwo\n\nfour", 4, None)
    assert whole.pages_without_text == 1
    some = inspected(pages, "pdf", as_text=True, pages=((2, 2), (4, None)))
    assert (some.text, some.sent_pages) == ("two\n\nfour", 2)


def test_text_of_a_pdf_that_is_sent_as_it_is_is_reckoned_from_three_pages(
    inspected: Inspected,
) -> None:
    found = inspected(pdf(["x" * 10] * 50), "pdf")
    assert (found.text, found.text_bytes) == (None, 500)


def test_a_part_is_the_same_bytes_in_each_process(tmp_path: Path, inspected: Inspected) -> None:
    pages = pdf(["one", "two", "three"])
    first = tmp_path / "first.pdf"
    assert inspected(pages, "pdf", pages=((1, 2),), cut_to=str(first)).cut
    other = tmp_path / "other.pdf"
    program = (
        "import sys;"
        "from batch_pipeline.flow.dataset.documents.inspection import extract_pdf, inspect_types;"
        "print(extract_pdf.facts_of(inspect_types.Want(sys.argv[1], 'pdf', 'a', pages=((1, 2),),"
        "cut_to=sys.argv[2])).sent_pages)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a"), str(other)]
    subprocess.run(command, check=True, capture_output=True)
    assert first.read_bytes() == other.read_bytes()
    assert inspected(first.read_bytes(), "pdf", as_text=True).text == "one\n\ntwo"


def test_a_range_that_is_the_whole_file_is_no_part(tmp_path: Path, inspected: Inspected) -> None:
    cut = tmp_path / "cut.pdf"
    found = inspected(pdf(["one", "two"]), "pdf", pages=((1, 20),), cut_to=str(cut))
    assert (found.sent_pages, found.cut, cut.exists()) == (None, False, False)


# --- Word files, web pages, e-mails --------------------------------------------------------------


def test_a_word_file_has_its_header_tables_and_insertions_but_no_deletions(
    inspected: Inspected,
) -> None:
    body = (
        paragraph("Between A and B.")
        + table(("Fee", "100"), ("Term", "12 months"))
        + paragraph("sixty", "ins")
        + paragraph("thirty", "del")
        + paragraph("moved away", "moveFrom")
        + f"<w:sdt><w:sdtContent>{paragraph('Signed')}</w:sdtContent></w:sdt>"
    )
    found = inspected(docx(body, paragraph("CONFIDENTIAL")), "zip", "a.docx").text
    assert found is not None
    lines = [line for line in found.splitlines() if line]
    assert lines == [
        "CONFIDENTIAL",
        "Between A and B.",
        "Fee | 100",
        "Term | 12 months",
        "sixty",
        "Signed",
    ]


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (b"<table><tr><td>Fee</td><td>100</td></tr></table>", "Fee  100"),
        (b"<p>a</p><script>b</script><style>c</style><!-- d --><p style='display:none'>e", "a"),
        ('<meta charset="iso-8859-15"><p>10 €'.encode("iso-8859-15"), "10 €"),
        (b"<p>caf\xe9 \x80", "café €"),
        ("<p>né".encode(), "né"),
        ("<p>né".encode("utf-16"), "né"),
        (b'<?xml version="1.0" encoding="utf-8"?><html><body><p>a</p></body></html>', "a"),
    ],
    ids=["table", "hidden", "declared", "cp1252", "utf-8", "utf-16", "xhtml"],
)
def test_a_web_page_is_what_it_shows(inspected: Inspected, page: bytes, text: str) -> None:
    assert inspected(page, "html", "a.html").text == text


def test_an_email_has_its_headers_its_body_and_the_names_of_attachments(
    inspected: Inspected,
) -> None:
    found = inspected(eml("<p>We <b>terminate</b>.</p>", "html", "contract.pdf"), "eml", "a.eml")
    assert found.text == (
        "From: a@b.example\nTo: c@d.example\nSubject: Kündigung\n\nWe terminate.\n\n"
        "Attachments (not read): contract.pdf"
    )


def test_our_version_of_what_is_taken_out_is_pinned() -> None:
    """Raising it buys open documents again (CONTRIBUTING.md): what is taken out of these has not
    changed as long as these hashes are the same."""
    assert EXTRACTION == "1"


# --- small pictures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "media_type", "size"),
    [
        (pdf(), "application/pdf", (420, 595)),
        (image("PNG", 2_000, 1_000), "image/png", (420, 210)),
        (image("JPEG", 2_000, 1_000), "image/jpeg", (420, 210)),
        (image("WEBP", 100, 50), "image/webp", (100, 50)),
    ],
    ids=["pdf", "png", "jpeg", "webp"],
)
def test_a_small_picture_is_made_of_pages_and_images(
    tmp_path: Path, data: bytes, media_type: str, size: tuple[int, int]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    small = thumbnail(str(path), media_type)
    assert small is not None
    with Image.open(io.BytesIO(small)) as picture:
        assert (picture.format, picture.size) == ("JPEG", size)
    path.write_bytes(b"none")
    assert thumbnail(str(path), media_type) is None


def test_for_images_alone_no_reader_of_pdfs_is_loaded() -> None:
    module = "batch_pipeline.flow.dataset.documents.inspection.extract_image"
    code = f"import sys, {module}; sys.exit('pypdfium2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
