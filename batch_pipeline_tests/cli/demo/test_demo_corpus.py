"""The demo's documents: real, unaltered, spread over the nights the same way every time."""

from __future__ import annotations

from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batch_pipeline.cli.demo.demo_corpus import (
    Document,
    collect_documents,
    find_documents,
    spread,
    write_documents,
)

NIGHTS = ["2026-01-01", "2026-01-02", "2026-01-03"]


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A /usr/share with a licence, a link to it, and files that are no licence texts."""
    share = tmp_path / "share"
    put(share / "common-licenses" / "GPL-3", b"GPL")
    (share / "common-licenses" / "GPL").symlink_to("GPL-3")
    put(share / "doc" / "bash" / "copyright", b"caf\xe9")
    put(share / "doc" / "empty" / "copyright", b"")
    put(share / "doc" / "bash" / "README", b"not legal")
    return share


@pytest.fixture
def distribution(tmp_path: Path) -> Distribution:
    """An installed package with licence files in the places where they are found."""
    info = tmp_path / "site" / "thing-1.0.dist-info"
    files = {
        "METADATA": b"Metadata-Version: 2.1\nName: Thing\nVersion: 1.0\n",
        "LICENSE": b"one",
        "licenses/LICENSE": b"two",
        "licenses/vendor/COPYING.txt": b"three",
        "licenses/BSD": b"four",
        "AUTHORS.md": b"five",
        "top_level.txt": b"thing",
    }
    for name, data in files.items():
        put(info / name, data)
    put(tmp_path / "site" / "thing" / "LICENSE", b"inside the package")
    record = [f"{info.name}/{name},," for name in files] + ["thing/LICENSE,,"]
    put(info / "RECORD", "\n".join(record).encode())
    return PathDistribution(info)


def test_what_is_found(distribution: Distribution, share: Path) -> None:
    documents = find_documents([distribution, distribution], share)
    assert {(document.id, document.path.read_bytes()) for document in documents} == {
        ("python/Thing-1.0/LICENSE", b"one"),
        ("python/Thing-1.0/licenses/LICENSE", b"two"),
        ("python/Thing-1.0/vendor/COPYING.txt", b"three"),
        ("python/Thing-1.0/BSD", b"four"),
        ("python/Thing-1.0/AUTHORS.md", b"five"),
        ("debian/common-licenses/GPL-3", b"GPL"),
        ("debian/common-licenses/GPL", b"GPL"),
        ("debian/bash/copyright", b"caf\xe9"),
        ("debian/empty/copyright", b""),
    }
    assert [document.id for document in documents] == sorted(document.id for document in documents)
    assert {document.package for document in documents if document.origin == "python"} == {"Thing"}


def test_a_machine_without_system_texts(distribution: Distribution, tmp_path: Path) -> None:
    documents = find_documents([distribution], tmp_path / "nowhere")
    assert {document.origin for document in documents} == {"python"}


def test_every_document_falls_in_one_night_whatever_the_others() -> None:
    documents = [Document(f"d/{n}", "python", "p", Path("x")) for n in range(300)]
    dealt = spread(documents, NIGHTS, None)
    assert sorted(d.id for chosen in dealt.values() for d in chosen) == sorted(
        document.id for document in documents
    )
    assert all(len(chosen) > 50 for chosen in dealt.values())
    fewer = spread(reversed(documents[:100]), NIGHTS, None)
    for night in NIGHTS:
        assert {d.id for d in fewer[night]} <= {d.id for d in dealt[night]}


def test_a_limit_keeps_the_same_documents() -> None:
    documents = [Document(f"d/{n}", "python", "p", Path("x")) for n in range(300)]
    limited = spread(documents, NIGHTS, 10)
    assert [len(chosen) for chosen in limited.values()] == [10, 10, 10]
    assert limited == spread(reversed(documents), NIGHTS, 10)


def test_texts_are_written_as_they_are(share: Path, tmp_path: Path) -> None:
    documents = find_documents([], share)
    gone = Document("debian/gone/copyright", "debian", "gone", tmp_path / "gone")
    path = tmp_path / "out" / "documents.parquet"
    assert write_documents(path, [*documents, gone]) == 4
    table = pq.read_table(path)
    assert table.column_names == ["id", "origin", "package", "text"]
    assert dict(zip(*table.select(["id", "text"]).to_pydict().values(), strict=True)) == {
        "debian/bash/copyright": b"caf\xe9",
        "debian/common-licenses/GPL": b"GPL",
        "debian/common-licenses/GPL-3": b"GPL",
        "debian/empty/copyright": b"",
    }
    assert [file.name for file in path.parent.iterdir()] == ["documents.parquet"]


def test_an_unchanged_machine_does_not_touch_the_file(share: Path, tmp_path: Path) -> None:
    path = tmp_path / "documents.parquet"
    write_documents(path, find_documents([], share))
    before = path.stat()
    write_documents(path, find_documents([], share))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    (share / "doc" / "bash" / "copyright").write_bytes(b"changed")
    write_documents(path, find_documents([], share))
    assert path.stat().st_ino != before.st_ino
    assert b"changed" in pq.read_table(path)["text"].to_pylist()


def test_a_failure_leaves_the_old_file(
    share: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "out" / "documents.parquet", b"old")

    def fail(self: Path) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(MemoryError):
        write_documents(path, find_documents([], share))
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [file.name for file in path.parent.iterdir()] == ["documents.parquet"]


def test_this_machine_has_documents(tmp_path: Path) -> None:
    counts = collect_documents(tmp_path, NIGHTS, per_night_limit=20)
    assert list(counts) == NIGHTS
    assert all(0 < count <= 20 for count in counts.values())
    for night, count in counts.items():
        ids = pq.read_table(tmp_path / night / "documents.parquet")["id"].to_pylist()
        assert len(set(ids)) == len(ids) == count
