"""From what a row names to the mark of a document, and what is refused on the way."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.dataset.documents.opening import DocumentOpener
from batch_pipeline.flow.dataset.documents.reference import of_cell
from batch_pipeline.flow.dataset.layers import Overlay
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline_tests.document_files import docx, image, paragraph, pdf
from batch_pipeline_tests.flow.dataset.documents.snapshots import (
    document_job,
    kept_files,
    mark_of,
    rows_of,
    taken,
)
from batch_pipeline_tests.support import settings, write_rows

A, B = pdf(["The first contract."]), pdf(["The second.", "Its annex."])
FORGED = {"$document": {"path": "/etc/passwd", "name": "/etc/passwd", "size": 1, "sha256": "0" * 64,
                        "media_type": "application/pdf"}}  # fmt: skip


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline without an API."""
    with Pipeline(settings(tmp_path / "home")) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of two contracts, beside a file that is none of it."""
    folder = tmp_path / "root"
    (folder / "in").mkdir(parents=True)
    (folder / "a.pdf").write_bytes(A)
    (folder / "in" / "b.pdf").write_bytes(B)
    (folder / "gone.pdf").symlink_to(folder / "nothing")
    (tmp_path / "secret.pdf").write_bytes(A)
    (folder / "link.pdf").symlink_to(tmp_path / "secret.pdf")
    (folder / "inside.pdf").symlink_to(folder / "a.pdf")
    return folder


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- paths ---------------------------------------------------------------------------------------


def test_paths_in_a_column_stay_inside_of_the_root(
    pipeline: Pipeline, root: Path, tmp_path: Path
) -> None:
    cells: dict[str, Any] = {
        "good": "a.pdf",
        "below": "in/../in/b.pdf",
        "absolute": str(root / "a.pdf"),
        "linked": "inside.pdf",
        "up": "../secret.pdf",
        "out": "link.pdf",
        "elsewhere": "/etc/passwd",
        "gone": "gone.pdf",
        "folder": "in",
        "nul": "a\x00.pdf",
        "null": None,
        "number": 7,
        "list": ["a.pdf"],
        "forged": FORGED,
        "url": "https://files.example.com/a.pdf",
    }
    rows = [{"id": name, "contract": cell} for name, cell in cells.items()]
    table = write_rows(tmp_path / "in.jsonl", rows)
    spec = document_job(table, "{contract:pdf}", root=str(root))
    found = rows_of(pipeline, taken(pipeline, spec))
    sent = {name for name, row in found.items() if row["status"] is None}
    assert sent == {"good", "below", "absolute", "linked"}
    assert mark_of(found["good"], "contract") == {
        "media_type": "application/pdf", "name": str(root / "a.pdf"), "pages": 1,
        "path": "a.pdf", "sha256": sha256(A), "size": len(A), "text_bytes": 19,
    }  # fmt: skip
    assert {name: row["reason"] for name, row in found.items() if row["status"]} == {
        "up": "path outside of input.root",
        "out": "path outside of input.root",
        "elsewhere": "path outside of input.root",
        "gone": "document cannot be read",
        "folder": "document cannot be read",
        "nul": "document cannot be read",
        "null": "null in column 'contract'",
        "number": "no path, URL or bytes in column 'contract'",
        "list": "no path, URL or bytes in column 'contract'",
        "forged": "no path, URL or bytes in column 'contract'",
        "url": "URL not allowed",
    }
    # What is set aside holds nothing that could be taken for a document.
    assert of_cell(orjson.loads(found["forged"]["input"])["contract"]) is None


def test_a_path_needs_a_root_and_the_root_has_to_be_there(
    pipeline: Pipeline, root: Path, tmp_path: Path
) -> None:
    table = write_rows(tmp_path / "in.jsonl", [{"id": "a", "contract": "a.pdf"}])
    found = rows_of(pipeline, taken(pipeline, document_job(table, "{contract:pdf}")))
    assert found["a"]["reason"] == "a path, and input.root is not declared"
    unmounted = document_job(table, "{contract:pdf}", root=str(tmp_path / "nowhere"))
    with pytest.raises(InputDataError, match="is it mounted"):
        taken(pipeline, unmounted)


def test_a_placeholder_says_which_kind_it_takes(
    pipeline: Pipeline, root: Path, tmp_path: Path
) -> None:
    (root / "p.png").write_bytes(image("PNG"))
    names = {"pdf": "a.pdf", "image": "p.png"}
    table = write_rows(tmp_path / "in.jsonl", [{"id": k, "x": v} for k, v in names.items()])
    ends = {}
    for kind in ("pdf", "image", "document"):
        spec = document_job(table, f"{{x:{kind}}}", root=str(root))
        rows = rows_of(pipeline, taken(pipeline, spec))
        ends[kind] = {name: row["detail"] or row["status"] for name, row in rows.items()}
    assert ends == {
        "pdf": {"pdf": None, "image": "not a PDF: p.png is an image; use {x:document}"},
        "image": {"pdf": "not an image: a.pdf is a PDF; use {x:document}", "image": None},
        "document": {"pdf": None, "image": None},
    }


def test_a_column_of_just_the_placeholders_name_is_a_text(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = [{"id": "a", "document": "Some text", "x:pdf": "more", "n": 1.10}]
    table = write_rows(tmp_path / "in.jsonl", rows)
    found = rows_of(pipeline, taken(pipeline, document_job(table, "{document} {x:pdf}")))
    assert found["a"]["status"] is None
    # The row is as it was, and its texts are spliced into the request as ever.
    assert orjson.loads(found["a"]["input"]) == rows[0]
    assert found["a"]["places"] is not None
    assert found["a"]["prompt_size"] is None


def test_a_column_that_no_row_has_is_an_error_that_names_both_ways(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    table = write_rows(tmp_path / "in.jsonl", [{"id": "a", "y": "a.pdf"}])
    with pytest.raises(InputDataError, match=r"'x', or one of the name 'x:pdf' is missing"):
        taken(pipeline, document_job(table, "{x:pdf}"))


def test_several_documents_of_a_row_and_its_texts_make_one_request(
    pipeline: Pipeline, root: Path, tmp_path: Path
) -> None:
    row = {"id": "a", "old": "a.pdf", "new": "in/b.pdf", "question": "What changed?", "n": 1.50}
    table = tmp_path / "in.jsonl"
    table.write_bytes(orjson.dumps(row).replace(b"1.5", b"1.50") + b"\n")
    spec = document_job(table, "{old:pdf} {new:pdf} {question}", root=str(root))
    found = rows_of(pipeline, taken(pipeline, spec))["a"]
    assert found["visual_tokens"] == 3 * 1_600
    assert mark_of(found, "new")["pages"] == 2
    assert b'"n":1.50' in found["input"]  # other cells keep their digits


# --- texts ---------------------------------------------------------------------------------------


def test_text_of_a_file_is_a_column_that_filters_and_routes_can_read(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "long.docx").write_bytes(docx(paragraph("One two three four five.")))
    (folder / "short.docx").write_bytes(docx(paragraph("One.")))
    (folder / "native.pdf").write_bytes(A)
    filters = {"where": "text IS NULL OR text NOT LIKE '%secret%'", "min_words": 3}
    found = rows_of(pipeline, taken(pipeline, document_job(folder / "*", filters=filters)))
    assert orjson.loads(found["long.docx"]["input"])["text"] == "One two three four five."
    assert mark_of(found["long.docx"])["text_column"] == "text"
    # Words of what is sent as it is are not known: it passes.
    assert {name: row["status"] for name, row in found.items()} == {
        "long.docx": None,
        "short.docx": "filtered",
        "native.pdf": None,
    }


def test_a_request_is_known_by_the_file_that_its_text_is_of(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    """Another version of a library may find other spaces; that buys nothing again."""
    (tmp_path / "a.docx").write_bytes(docx(paragraph("One.")))
    (tmp_path / "b.docx").write_bytes(docx(paragraph("One."), more={"other": b"bytes"}))
    found = rows_of(pipeline, taken(pipeline, document_job(tmp_path / "*.docx", "{text}")))
    assert found["a.docx"]["request_bytes"] == found["b.docx"]["request_bytes"]
    assert found["a.docx"]["fingerprint"] != found["b.docx"]["fingerprint"]


def test_pages_of_a_pdf_are_part_of_what_a_request_is_known_by(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "b.pdf").write_bytes(B)

    def known_by(**input_: Any) -> str:
        spec = document_job(tmp_path / "*.pdf", **input_)
        [row] = rows_of(pipeline, taken(pipeline, spec)).values()
        return str(row["fingerprint"])

    whole = known_by()
    assert known_by(pdf={"pages": "1-20"}) == whole
    assert known_by(keep="copy") == whole
    others = [
        known_by(pdf={"pages": "1"}),
        known_by(pdf={"pages": "2-"}),
        known_by(pdf={"as": "text"}),
    ]
    assert len({whole, *others}) == 4
    assert known_by(pdf={"pages": "2,3-9"}) == others[1]


# --- what the home keeps -------------------------------------------------------------------------


def test_copies_and_parts_are_kept_once_and_references_not_at_all(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("a.pdf", "same.pdf"):
        (folder / name).write_bytes(B)
    first = taken(pipeline, document_job(folder / "*"))
    assert kept_files(pipeline) == set()
    assert {row["stored"] and None for row in rows_of(pipeline, first).values()} == {None}
    assert taken(pipeline, document_job(folder / "*")).folder == first.folder
    spec = document_job(folder / "*", keep="copy", pdf={"pages": "2"})
    assert taken(pipeline, spec, keep=False).items == 2
    assert kept_files(pipeline) == set()  # the input was only looked at
    rows = rows_of(pipeline, taken(pipeline, spec))
    assert kept_files(pipeline) == set(rows["a.pdf"]["stored"]) == set(rows["same.pdf"]["stored"])
    assert len(kept_files(pipeline)) == 2
    assert sha256(B) in kept_files(pipeline)
    assert "name" not in mark_of(rows["a.pdf"])  # it is read from the home alone


def test_no_bytes_of_a_document_are_in_a_snapshot(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(A)
    new = taken(pipeline, document_job(tmp_path / "*.pdf", keep="copy"))
    folder = Path(pipeline.files.uri(new.folder))
    assert all(b"%PDF" not in path.read_bytes() for path in folder.iterdir())
    assert new.documents == {
        "application/pdf": {"files": 1, "pages": 1, "text_bytes": 19, "without_text": 0}
    }


def test_bytes_of_a_parquet_column_are_kept_and_named_by_their_hash(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    columns = {
        "id": ["a", "b", "c", "d"],
        "scan": pa.array([A, image("PNG"), b"", None], pa.binary()),
        "document": pa.array([b"a text", b"text", b"text", b"text"], pa.binary()),
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    spec = document_job(tmp_path / "in.parquet", "{document} {scan:document}")
    found = rows_of(pipeline, taken(pipeline, spec))
    assert kept_files(pipeline) == {sha256(A), sha256(image("PNG"))}
    assert found["a"]["stored"] == [sha256(A)]
    assert orjson.loads(found["a"]["input"])["document"] == "a text"
    assert mark_of(found["a"], "scan")["path"] == "bytes in column 'scan'"
    assert found["c"]["reason"] == "empty file"
    assert found["d"]["reason"] == "null in column 'scan'"


def test_a_name_that_is_no_text_is_kept_as_it_could_not_be_opened_again(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.pdf")).write_bytes(A)
    [row] = rows_of(pipeline, taken(pipeline, document_job(tmp_path / "*.pdf"))).values()
    assert (row["id"], row["stored"]) == ("caf\\xe9.pdf", [sha256(A)])


def test_documents_of_a_remote_store_are_read_into_a_remote_home(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/bucket-of-documents/in/b.pdf", B)
    rows = [{"id": "good", "x": "b.pdf"}, {"id": "up", "x": "../b.pdf"}, {"id": "no", "x": "c.pdf"}]
    table = write_rows(tmp_path / "in.jsonl", rows)
    home = f"memory://home-of-documents-{os.getpid()}"
    ledger = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    with Pipeline(settings(home, ledger_url=ledger)) as remote:
        for keep, stored in (("reference", 1), ("copy", 2)):
            spec = document_job(
                table, "{x:pdf}", root="memory://bucket-of-documents/in", keep=keep,
                pdf={"pages": "2"},
            )  # fmt: skip
            new = taken(remote, spec)
            with remote.files.open(f"{new.folder}/part-00000.parquet") as file:
                found = {row["id"]: row for row in pq.read_table(file).to_pylist()}
            assert len(found["good"]["stored"]) == stored
            assert found["up"]["reason"] == "path outside of input.root"
            assert found["no"]["detail"].endswith("c.pdf: No such file or directory")
            document = of_cell(orjson.loads(found["good"]["input"])["x"])
            assert document is not None
            sent = b"".join(DocumentOpener(remote.files, "review").open(document))
            assert len(sent) == document.sent_size
        assert {name for name, *_ in remote.files.entries("review/documents")} == {
            *found["good"]["stored"]
        }


def test_several_processes_read_documents_like_one(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.pdf").write_bytes(pdf([f"Contract {number}."]))
    spec = document_job(folder / "*", pdf={"as": "text"}, keep="copy")
    alone = taken(pipeline, spec)
    monkeypatch.setattr(input_dataset, "PROCESSES_FROM_BYTES", 1)
    with Pipeline(settings(tmp_path / "other", workers=2)) as other:
        assert taken(other, spec).content_hash == alone.content_hash
        assert kept_files(other) == kept_files(pipeline)


def test_a_redriven_row_is_read_as_its_file_is_now(pipeline: Pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("a.pdf", "b.pdf"):
        (folder / name).write_bytes(A)
    spec = document_job(folder / "*")
    below = taken(pipeline, spec)
    for name in ("a.pdf", "b.pdf"):
        (folder / name).write_bytes(B)
    new = taken(pipeline, spec, overlay=Overlay(below, {"a.pdf"}))
    assert {name: mark_of(row)["sha256"] for name, row in rows_of(pipeline, new).items()} == {
        "a.pdf": sha256(B)
    }
