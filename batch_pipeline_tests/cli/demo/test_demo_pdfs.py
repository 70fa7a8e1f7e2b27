"""The demo's PDFs: the same texts make the same bytes, some of them without any text."""

from __future__ import annotations

from pathlib import Path

import pypdfium2 as pdfium
import pytest

from batch_pipeline.cli.demo import demo_pdfs
from batch_pipeline.cli.demo.demo_corpus import Document
from batch_pipeline.cli.demo.demo_pdfs import make_pdfs


@pytest.fixture(autouse=True)
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of texts, which are all that this machine has."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, content in {
        "short": "Do as you like.",
        "one page": f"Licence (of café “Kosmos”) \\ 1.\n{'word ' * 300}",
        "the same": f"Licence (of café “Kosmos”) \\ 1.\n{'word ' * 300}",
        "five pages": "A clause of this licence.\n" * 300,
        "a book": "A clause.\n" * 900,
    }.items():
        (folder / name).write_text(content)
    (folder / "latin").write_bytes(b"caf\xe9 " * 500)

    def found(_: object) -> list[Document]:
        documents = [Document(f"python/x-1/{f.name}", "python", "x", f) for f in folder.iterdir()]
        return [*documents, Document("python/gone", "python", "x", folder / "gone")]

    monkeypatch.setattr(demo_pdfs, "find_documents", found)
    return folder


def text_of(path: Path) -> list[str]:
    with pdfium.PdfDocument(path) as document:
        return [page.get_textpage().get_text_bounded() for page in document]


def test_texts_of_a_page_or_some_become_pdfs(tmp_path: Path) -> None:
    assert make_pdfs(tmp_path / "pdfs", scans=0) == 2
    [several, one] = sorted((tmp_path / "pdfs").iterdir())
    assert several.name == "python_x-1_five_pages.pdf"
    assert [page.count("A clause of this licence.") for page in text_of(several)] == [61] * 4 + [56]
    [page] = text_of(one)
    assert page.split("\n")[0].strip() == "Licence (of café “Kosmos”) \\ 1."
    assert page.split().count("word") == 300


def test_a_scan_has_pages_and_no_text(tmp_path: Path) -> None:
    assert make_pdfs(tmp_path / "pdfs") == 2
    several, one = sorted((tmp_path / "pdfs").iterdir())
    assert text_of(one) == [""]
    assert len(text_of(several)) == 5
    assert all(text_of(several)), "only short ones are scanned"


def test_unchanged_texts_do_not_touch_the_files(tmp_path: Path, texts: Path) -> None:
    make_pdfs(tmp_path / "pdfs")
    before = {file.name: file.stat() for file in (tmp_path / "pdfs").iterdir()}
    (tmp_path / "pdfs" / "mine.pdf").write_bytes(b"a file of the user's")
    make_pdfs(tmp_path / "pdfs")
    after = {file.name: file.stat() for file in (tmp_path / "pdfs").iterdir()}
    assert {"mine.pdf", *before} == set(after)
    assert all(after[name].st_ino == found.st_ino for name, found in before.items())
    (texts / "five pages").write_text("Another clause of this licence.\n" * 100)
    make_pdfs(tmp_path / "pdfs")
    assert len(text_of(tmp_path / "pdfs" / "python_x-1_five_pages.pdf")) == 2
