"""Opening documents for sending: the last piece is given out only of what the snapshot knows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from batch_pipeline.flow.dataset.documents.opening import PIECE_BYTES, DocumentOpener
from batch_pipeline.flow.dataset.documents.reference import Document, DocumentChangedError
from batch_pipeline.flow.dataset.documents.store import DocumentStore
from batch_pipeline.storage.files import Files

DATA = bytes(range(256)) * 2_000


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The files of an empty local home."""
    return Files(str(tmp_path / "home"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file whose content the snapshot knows."""
    path = tmp_path / "a.pdf"
    path.write_bytes(DATA)
    return path


def of(path: Path, data: bytes = DATA, **more: object) -> Document:
    facts = {
        "path": path.name,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "media_type": "application/pdf",
        "name": str(path),
    }
    return Document(**{**facts, **more})  # type: ignore[arg-type]


def test_pieces_are_those_whose_base64_is_put_together(files: Files, source: Path) -> None:
    pieces = list(DocumentOpener(files, "review").open(of(source)))
    assert b"".join(pieces) == DATA
    assert [len(piece) for piece in pieces] == [PIECE_BYTES, PIECE_BYTES, len(DATA) % PIECE_BYTES]
    assert PIECE_BYTES % 3 == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.write_bytes(DATA[:-1] + b"x"), "has changed since"),
        (lambda path: path.write_bytes(DATA[:-1]), "has changed since"),
        (lambda path: path.write_bytes(DATA + b"x"), "has more"),
        (lambda path: path.unlink(), "cannot be read since the input was taken: No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read since"),
    ],
    ids=["other bytes", "shorter", "longer", "gone", "a folder"],
)
def test_another_document_is_never_whole(
    files: Files, source: Path, change: Callable[[Path], object], why: str
) -> None:
    document = of(source)
    change(source)
    got: list[bytes] = []
    with pytest.raises(DocumentChangedError, match=why) as changed:
        got.extend(DocumentOpener(files, "review").open(document))
    assert changed.value.document is document
    assert sum(map(len, got)) < len(DATA)
    assert "a.pdf" in str(changed.value)


def test_what_the_home_keeps_is_read_there_and_a_part_in_place_of_the_whole(
    files: Files, source: Path, tmp_path: Path
) -> None:
    part = b"%PDF-part"
    store, opener = DocumentStore(files, "review"), DocumentOpener(files, "review")
    for data in (DATA, part):
        staged = tmp_path / "staged"
        staged.write_bytes(data)
        store.add(staged, hashlib.sha256(data).hexdigest())
    source.unlink()
    stored = of(source, stored=True, name=None)
    assert b"".join(opener.open(stored)) == DATA
    sent = of(source, sent_sha256=hashlib.sha256(part).hexdigest(), sent_size=len(part))
    assert b"".join(opener.open(sent)) == part
    store.remove(stored.sha256)
    with pytest.raises(DocumentChangedError, match=r"the home's copy of a\.pdf"):
        list(opener.open(stored))
