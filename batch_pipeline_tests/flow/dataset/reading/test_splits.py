"""Pieces of the input: nothing is lost between them, and who reads them changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset import input_dataset
from batch_pipeline.flow.dataset.reading import splits
from batch_pipeline.flow.dataset.reading.columns import LinesSeen, Wanted
from batch_pipeline.flow.dataset.reading.files import Sources
from batch_pipeline.flow.dataset.reading.listing import find_sources
from batch_pipeline.flow.dataset.reading.rows import Row, read_rows, read_section
from batch_pipeline.flow.dataset.reading.splits import (
    NAMES_DOCUMENTS,
    pieces_of,
    with_lines_counted,
)
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline_tests import support
from batch_pipeline_tests.support import documents, job, write_rows

WANTED = Wanted("id", ("text",))


def sources_of(path: Path) -> Sources:
    return find_sources(str(path), "all", {})


def read_in_pieces(sources: Sources) -> list[Row]:
    return [
        row
        for piece in pieces_of(sources)
        for section in map(with_lines_counted, piece)
        for row in read_section(
            section, WANTED, LinesSeen({"text"}) if section.end is not None else None
        )
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    lines=st.lists(
        st.one_of(
            st.just(""),
            st.just("  \t"),
            st.text("ab\u2028\u0085ü", max_size=30).map(
                lambda text: '{"id":"1","text":"' + text + '"}'
            ),
        ),
        max_size=25,
    ),
    ending=st.sampled_from(["\n", "\r\n"]),
    last=st.sampled_from(["", "\n", "\n\n"]),
    size=st.integers(1, 120),
)
def test_lines_are_the_same_in_pieces_of_any_size(
    tmp_path: Path, lines: list[str], ending: str, last: str, size: int
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes((ending.join(lines) + last).encode())
    whole = list(read_rows(sources_of(path), "id", ["text"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "PIECE_BYTES", size)
        patch.setattr(splits, "_BLOCK_BYTES", 7)
        patch.setattr(splits, "_COUNTED_BYTES", 5)
        assert read_in_pieces(sources_of(path)) == whole


def test_row_groups_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "PIECE_BYTES", 2_000)
    monkeypatch.setattr(splits, "_WORTH_A_LOOK", 0)
    rows = documents(100)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=7)
    sources = sources_of(tmp_path / "in.parquet")
    read = read_in_pieces(sources)
    assert len(list(pieces_of(sources))) > 2
    assert [(row.id, row.number) for row in read] == [
        (row["id"], number) for number, row in enumerate(rows, 1)
    ]


def test_pieces_of_a_table_that_names_documents_are_smaller(tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": "scans/a.pdf" * 20} for number in range(20_000)]
    write_rows(tmp_path / "in.jsonl", rows)
    sources = sources_of(tmp_path / "in.jsonl")
    assert len(list(pieces_of(sources))) == 2
    assert len(list(pieces_of(sources, NAMES_DOCUMENTS))) > 10
    (tmp_path / "in.txt").write_bytes(bytes(6 << 20))
    assert len(list(pieces_of(sources_of(tmp_path / "in.txt"), NAMES_DOCUMENTS))) == 1


def test_small_files_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "PIECE_BYTES", 4_100)
    monkeypatch.setattr(splits, "_FILE_BYTES", 1_000)
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("a text")
    assert [len(piece) for piece in pieces_of(sources_of(tmp_path / "*.txt"))] == [4, 4, 2]


def test_the_last_pieces_are_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(splits, "_LEAST_BYTES", 1_000)
    monkeypatch.setattr(splits, "_FILE_BYTES", 0)
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_bytes(b"123456789\n" * 10_000)
    cut = list(pieces_of(sources_of(tmp_path / "*.jsonl")))
    sizes = [(section.end or 0) - section.start for [section] in cut]
    assert sum(sizes) == 200_000
    assert sizes[:10] == [10_000] * 10  # all of the first file
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-2] == 1_000 >= sizes[-1]


@pytest.fixture
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of a few kB are cut into pieces and read by several processes."""
    monkeypatch.setattr(splits, "PIECE_BYTES", 1_000)
    monkeypatch.setattr(splits, "_FILE_BYTES", 0)
    monkeypatch.setattr(input_dataset, "PROCESSES_FROM_BYTES", 0)


@pytest.mark.usefixtures("many_pieces")
def test_the_snapshot_is_the_same_whoever_reads_it(tmp_path: Path) -> None:
    twice = {**documents(1)[0], "id": "asks the same"}
    write_rows(tmp_path / "a.jsonl", [*documents(60), {"id": "no text"}, twice])
    write_rows(tmp_path / "b.jsonl", [b"", *documents(30, start=60)])
    spec = job(tmp_path / "*.jsonl")
    taken = []
    for workers in (1, 2):
        pipeline = Pipeline(support.settings(tmp_path / f"home{workers}", workers=workers))
        sources = find_input(pipeline, spec, "all")
        snapshot = input_dataset.read_snapshot(pipeline, spec, "all", sources)
        folder = Path(pipeline.files.uri(snapshot.folder))
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        taken.append((snapshot, files))
    assert taken[0] == taken[1]
    snapshot = taken[0][0]
    assert (snapshot.items, snapshot.duplicates) == (92, 1)
    assert snapshot.set_aside == {"invalid_input": {"null in column 'text'": 1}}
    assert snapshot.parts > 4


@pytest.mark.usefixtures("many_pieces")
@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_mistake_of_the_input_is_the_one_that_is_told(
    tmp_path: Path, workers: int
) -> None:
    rows: list[Any] = [*documents(40), b"{broken", *documents(40, start=40), b"{broken as well"]
    spec = job(write_rows(tmp_path / "in.jsonl", rows))
    pipeline = Pipeline(support.settings(tmp_path / "home", workers=workers))
    sources = find_input(pipeline, spec, "all")
    with pytest.raises(InputDataError, match=r"line 41: not JSON"):
        input_dataset.read_snapshot(pipeline, spec, "all", sources)


@pytest.mark.usefixtures("many_pieces")
@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [*documents(50), documents(1)[0], *documents(9, start=50)],
            r"'Akte 0/ä' in .*:1, .*:51\.",
        ),
        ([*documents(50), *({"id": str(number)} for number in range(30))], r"'0' \(.*:51\)"),
    ],
    ids=["an id twice", "rows without a text"],
)
def test_a_line_is_named_by_its_number_in_the_file(
    tmp_path: Path, rows: list[Any], told: str
) -> None:
    spec = job(write_rows(tmp_path / "in.jsonl", rows), pilot={"max_error_rate": 0.1})
    pipeline = Pipeline(support.settings(tmp_path / "home", workers=1))
    sources = find_input(pipeline, spec, "all")
    with pytest.raises(InputDataError, match=told):
        input_dataset.read_snapshot(pipeline, spec, "all", sources)


@pytest.mark.usefixtures("many_pieces")
@pytest.mark.parametrize(("has_it", "refused"), [(None, True), (0, False), (70, False)])
def test_a_column_that_no_line_of_a_file_has_is_missing_whatever_the_pieces(
    tmp_path: Path, has_it: int | None, refused: bool
) -> None:
    rows = [
        {**row, **({"note": "x"} if number == has_it else {})}
        for number, row in enumerate(documents(80))
    ]
    write_rows(tmp_path / "a.jsonl", rows)
    spec = job(tmp_path / "a.jsonl", prompt={"user": "{text} {note}"})
    pipeline = Pipeline(support.settings(tmp_path / "home", workers=1))
    sources = find_input(pipeline, spec, "all")
    if refused:
        with pytest.raises(InputDataError, match=r"line 1 and every other row.*'note'"):
            input_dataset.read_snapshot(pipeline, spec, "all", sources)
    else:
        snapshot = input_dataset.read_snapshot(pipeline, spec, "all", sources)
        assert snapshot.set_aside == {"invalid_input": {"null in column 'note'": 79}}
