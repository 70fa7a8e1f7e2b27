"""Which files a declared path means, and what is said where it means none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from batch_pipeline.errors import InputDataError, UsageError
from batch_pipeline.flow.dataset.reading.files import Kind, SourceFile, file_kind
from batch_pipeline.flow.dataset.reading.listing import expand_path, find_sources
from batch_pipeline.flow.dataset.reading.rows import read_rows
from batch_pipeline.jobs.input.inputs import CsvSpec

TREE = [
    "a.csv",
    "b.CSV",
    "night/1.parquet",
    "night/2.parquet",
    "night/_SUCCESS.parquet",
    "night/.tmp.parquet",
    "night/_delta/old.parquet",
    "night/deep/er/3.parquet",
    "texts/one.txt",
    "texts/sub/two.md",
    "texts/.git/three.md",
    "texts/sub/_draft.md",
    "texts/_posts/four.md",
    "texts/.notes.md",
    "names/Foo::Bar.md",
    "names/[x]/a.md",
    "names/report[1].md",
    "names/report1.md",
    "names/line\nbreak.md",
    "names/#1 100%.md",
]


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder with the files of TREE, once local and once behind fsspec."""
    if request.param == "local":
        for name in TREE:
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        yield f"{tmp_path}/data"
        return
    memory = fsspec.filesystem("memory")
    for name in TREE:
        memory.pipe(f"/data/{name}", b"x")
    yield "memory://data"
    memory.rm("/data", recursive=True)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.csv", ["a.csv"]),
        ("night/*.parquet", ["1.parquet", "2.parquet"]),
        ("night/1.parquet", ["1.parquet"]),
        ("night/[2-9].parquet", ["2.parquet"]),
        ("night/?.parquet", ["1.parquet", "2.parquet"]),
        ("night/**/*.parquet", ["1.parquet", "2.parquet", "deep/er/3.parquet"]),
        ("**/*.parquet", ["night/1.parquet", "night/2.parquet", "night/deep/er/3.parquet"]),
        ("*/deep/**/*.parquet", ["night/deep/er/3.parquet"]),
        ("night/_delta/*.parquet", ["old.parquet"]),
        ("*/_delta/*.parquet", ["night/_delta/old.parquet"]),
        ("night/_*.parquet", ["_SUCCESS.parquet"]),
        ("night/_SUCCESS.parquet", ["_SUCCESS.parquet"]),
        ("texts/**", ["_posts/four.md", "one.txt", "sub/_draft.md", "sub/two.md"]),
        ("texts/*/*.md", ["_posts/four.md", "sub/_draft.md", "sub/two.md"]),
        ("texts/**/*.md", ["_posts/four.md", "sub/_draft.md", "sub/two.md"]),
        ("texts/.git/*", ["three.md"]),
        ("names/Foo::Bar.md", ["Foo::Bar.md"]),
        ("names/F*.md", ["Foo::Bar.md"]),
        ("names/[x]/a.md", ["a.md"]),
        ("names/[x]/*.md", ["a.md"]),
        ("names/report[1].md", ["report[1].md"]),
        ("names/report[0-9].md", ["report1.md"]),
        ("names/l*.md", ["line\nbreak.md"]),
        ("names/#1 100%.md", ["#1 100%.md"]),
    ],
)
def test_glob(root: str, pattern: str, expected: list[str]) -> None:
    files = find_sources(f"{root}/{pattern}", "all", {}).files
    assert [file.relative_path for file in files] == expected
    assert [file.path for file in files] == sorted(file.path for file in files)
    assert all(file.path.endswith(file.relative_path) and file.size == 1 for file in files)


@pytest.mark.parametrize(
    "pattern",
    ["nothing.csv", "no/*.parquet", "*/none.parquet", "texts/sub/_d*.txt", "texts/s*/_none/*.md"],
)
def test_no_match_names_the_expanded_pattern(root: str, pattern: str) -> None:
    with pytest.raises(InputDataError, match="no file for this night") as caught:
        find_sources(f"{root}/{pattern}", "all", {})
    assert pattern in str(caught.value)


def test_only_hidden_files_is_no_match(root: str) -> None:
    with pytest.raises(InputDataError, match=r"no file for this night.*/texts/\.notes\.md"):
        find_sources(f"{root}/texts/*notes.md", "all", {})


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [
        (
            "night/*",
            ["night/.tmp.parquet", "night/_SUCCESS.parquet", "night/_delta/", "night/deep/"],
        ),
        ("*/*.parquet", ["night/.tmp.parquet", "night/_SUCCESS.parquet"]),
        ("texts/*", ["texts/.git/", "texts/.notes.md", "texts/_posts/", "texts/sub/"]),
        ("names/[x]/*", []),
    ],
)
def test_what_a_pattern_matches_and_is_not_read_is_named(
    root: str, pattern: str, left_out: list[str]
) -> None:
    sources = find_sources(f"{root}/{pattern}", "all", {})
    assert [path.partition("data/")[2] for path in sources.left_out] == left_out
    assert (sources.notice is None) == (not left_out)
    for path in left_out:
        assert path in str(sources.notice)


def test_an_empty_marker_is_not_worth_a_word(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "a.csv").write_text("id\n")
    assert find_sources(f"{tmp_path}/*", "all", {}).notice is None


def test_a_name_that_is_not_utf_8_is_read_and_escaped(tmp_path: Path) -> None:
    for name in (b"caf\xe9.md", b"d\xff.csv"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"id,text\n1,a\n")
    sources = find_sources(f"{tmp_path}/*", "all", {})
    assert [file.relative_path for file in sources.files] == ["caf\\xe9.md", "d\\xff.csv"]
    rows = list(read_rows(sources, "id", ("text",)))
    assert [(row.id, row.source) for row in rows] == [
        ("caf\\xe9.md", f"{tmp_path}/caf\\xe9.md"),
        ("1", f"{tmp_path}/d\\xff.csv"),
    ]
    assert sources.signature


def test_strange_names_are_opened_remotely_too(root: str) -> None:
    rows = list(read_rows(find_sources(f"{root}/names/**", "all", {}), "id", ("text",)))
    assert {row.values["text"] for row in rows} == {"x"}
    assert len(rows) == 6


def test_too_long_a_path_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputDataError, match="no file for this night"):
        find_sources(f"{tmp_path}/{'x' * 300}.md", "all", {})


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    (tmp_path / "Foo::Bar.md").write_text("x")
    (file,) = find_sources(f"file://{tmp_path}/*.md", "all", {}).files
    assert (file.path, file.is_remote) == (f"{tmp_path}/Foo::Bar.md", False)


def test_how_csv_is_written_is_part_of_the_signature(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\n")
    declared = [CsvSpec(), CsvSpec(delimiter=";"), CsvSpec(encoding="cp1252")]
    found = [find_sources(f"{tmp_path}/a.csv", "all", {}, csv) for csv in declared]
    assert len({sources.signature for sources in found}) == 3


def test_a_folder_is_refused_with_the_pattern_to_write(root: str) -> None:
    with pytest.raises(InputDataError, match=r"night/\*\.parquet"):
        find_sources(f"{root}/night", "all", {})


def test_a_variable_that_makes_the_path_relative_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'data/x\.csv', which is relative"):
        find_sources("${ROOT}/x.csv", "all", {"ROOT": "data"})


def test_expansion() -> None:
    environ = {"ROOT": "/data", "EMPTY": ""}
    assert expand_path("${ROOT}/{partition}/x", "2026-01-01", environ) == "/data/2026-01-01/x"
    for path, name in [("${NOPE}/x", "NOPE"), ("${EMPTY}/x", "EMPTY")]:
        with pytest.raises(UsageError, match=f"environment variable {name}"):
            expand_path(path, "all", environ)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.parquet", Kind.PARQUET),
        ("x.PARQUET", Kind.PARQUET),
        ("/a.csv/x.jsonl.zst", Kind.JSONL),
        ("x.csv.gz", Kind.CSV),
        ("x.Txt.GZ", Kind.TXT),
        ("s3://bucket/x.md.zst", Kind.MD),
        (".txt", Kind.TXT),
        ("x.PDF", Kind.PDF),
        ("x.jpeg", Kind.JPG),
        ("x.htm", Kind.HTML),
    ],
)
def test_kind(name: str, kind: Kind) -> None:
    assert file_kind(name) is kind


@pytest.mark.parametrize(
    "name", ["x.xml", "x", "x.parquet.gz", "x.pdf.gz", "x.doc", "x.gz", "x.csv.bz2", "xcsv"]
)
def test_other_kinds_are_refused(name: str) -> None:
    with pytest.raises(InputDataError, match=r"Supported endings: .*jsonl") as caught:
        file_kind(f"/data/{name}")
    assert f"/data/{name}" in str(caught.value)


def test_the_signature_follows_content_names_and_number(tmp_path: Path) -> None:
    def signature() -> str:
        return find_sources(f"{tmp_path}/*.txt", "all", {}).signature

    (tmp_path / "a.txt").write_text("one")
    first = signature()
    assert first == signature()
    (tmp_path / "b.txt").write_text("two")
    second = signature()
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    third = signature()
    (tmp_path / "c.txt").write_text("TWO!")
    assert len({first, second, third, signature()}) == 4


def test_a_replaced_remote_file_changes_the_signature(root: str) -> None:
    if root.startswith("memory"):
        before = find_sources(f"{root}/night/*.parquet", "all", {}).signature
        fsspec.filesystem("memory").pipe("/data/night/1.parquet", b"longer")
        assert find_sources(f"{root}/night/*.parquet", "all", {}).signature != before


def test_symbolic_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.txt").write_text("x")
    (tmp_path / "file.txt").symlink_to(tmp_path / "real" / "x.txt")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    files = find_sources(f"{tmp_path}/**/*.txt", "all", {}).files
    names = [file.relative_path for file in files]
    assert {"file.txt", "linked/x.txt", "real/x.txt"} <= set(names)
    assert len(names) == len(set(names)) < 20


def test_a_dangling_link_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputDataError, match=r"gone\.txt"):
        find_sources(f"{tmp_path}/*.txt", "all", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_closed_folder_is_an_error_and_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "open.txt").write_text("x")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    with pytest.raises(InputDataError, match="closed"):
        find_sources(f"{tmp_path}/**/*.txt", "all", {})


def test_a_closed_folder_surfaces_whoever_runs_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputDataError, match=r"cannot list the folder .*Permission denied"):
        find_sources(f"{tmp_path}/*.txt", "all", {})


def test_home_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.txt").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    for pattern in ("~/x.txt", "~/*.txt"):
        (file,) = find_sources(pattern, "all", {}).files
        assert isinstance(file, SourceFile)
        assert (file.path, file.relative_path) == (f"{tmp_path}/x.txt", "x.txt")


def test_an_unknown_protocol_is_an_error() -> None:
    with pytest.raises(InputDataError, match="cannot list nosuch://x"):
        find_sources("nosuch://x/*.csv", "all", {})
