"""An input that several workers read: the same snapshot as by one, whoever dies meanwhile."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow.dataset import input_dataset, shared_reading
from batch_pipeline.flow.dataset.reading import splits
from batch_pipeline.flow.dataset.shared_reading import Worker, workers_wanted
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import accounts, nights, readings
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.readings import Reading
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline_tests.support import PARTITION, documents, job, settings, together, write_rows

Open = Callable[..., Pipeline]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "PIECE_BYTES", 1_000)
    monkeypatch.setattr(splits, "_LEAST_BYTES", 500)
    monkeypatch.setattr(splits, "_FILE_BYTES", 0)
    monkeypatch.setattr(shared_reading, "LOOK_SECONDS", 0.01)


@pytest.fixture(params=["local", "remote"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "home") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def open_home(home: str, tmp_path: Path) -> Iterator[Open]:
    """Opens the home and its ledger, each time as another process would."""
    made: list[Pipeline] = []

    def make(**changes: Any) -> Pipeline:
        url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
        made.append(Pipeline(settings(home, **{"ledger_url": url, "workers": 1, **changes})))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.close()


def night_of(pipeline: Pipeline) -> Night:
    with pipeline.ledger.write() as connection:
        accounts.register_account(connection, "a", simulated=False)
        return nights.open_night(connection, "review", PARTITION, "a")


def begun(pipeline: Pipeline, spec: JobSpec) -> Reading:
    night = night_of(pipeline)
    sources = find_input(pipeline, spec, PARTITION)
    shared_reading.begin(pipeline, spec, night, sources, None, alone=False)
    with pipeline.ledger.read() as connection:
        reading = readings.of_night(connection, night.id)
    assert reading is not None
    assert reading.pieces
    return reading


def a_worker(pipeline: Pipeline, spec: JobSpec, reading: Reading) -> Worker:
    return Worker(pipeline, spec, night_of(pipeline), reading)


def put_together(pipeline: Pipeline, spec: JobSpec, reading: Reading) -> NewSnapshot:
    with a_worker(pipeline, spec, reading).put_together(None) as whole:
        assert whole is not None
        return whole.snapshot


def files_of(pipeline: Pipeline, snapshot: NewSnapshot) -> dict[str, bytes | None]:
    found = pipeline.files.list(snapshot.folder, "")
    return {path.rpartition("/")[2]: pipeline.files.read(path) for path in found}


def read_by_one(pipeline: Pipeline, spec: JobSpec) -> tuple[NewSnapshot, dict[str, bytes | None]]:
    """What one worker makes of the input; removed again."""
    sources = find_input(pipeline, spec, PARTITION)
    snapshot = input_dataset.read_snapshot(pipeline, spec, PARTITION, sources)
    found = files_of(pipeline, snapshot)
    pipeline.files.remove(snapshot.folder)
    return snapshot, found


def an_input(folder: Path) -> Path:
    """Two files with what happens to rows: duplicates, near ones, filtered ones, some without a
    text."""
    long = " ".join(f"clause {n} of the contract holds in all countries" for n in range(30))
    near = [{"id": f"near {n}", "text": f"{long}, signed {n}"} for n in range(4)]
    twice = [{**row, "id": f"again {row['id']}"} for row in documents(8)]
    write_rows(folder / "a.jsonl", [*documents(60), *near, {"id": "no text"}, *twice])
    write_rows(folder / "b.jsonl", [b"", *documents(30, start=60), {"id": "few", "text": "few"}])
    return folder / "*.jsonl"


ALL = {
    "filters": {"min_words": 2},
    "near_duplicates": {"threshold": 0.9, "action": "filter"},
    "spread": 2,
}


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("declared", [{"spread": 2}, ALL], ids=["plain", "all that selects"])
def test_two_workers_make_the_same_snapshot_as_one(
    open_home: Open, tmp_path: Path, declared: dict[str, Any]
) -> None:
    spec = job(an_input(tmp_path), **declared)
    one = read_by_one(open_home(), spec)
    reading = begun(open_home(), spec)
    workers = [a_worker(open_home(), spec, reading) for _ in range(2)]
    counts: list[int] = []
    together(*(lambda worker=worker: counts.append(worker.work()) for worker in workers))
    assert sum(counts) == reading.pieces
    pipeline = open_home()
    snapshot = put_together(pipeline, spec, reading)
    assert (snapshot, files_of(pipeline, snapshot)) == one
    assert snapshot.items == 104
    assert snapshot.parts > 6
    assert not pipeline.files.list(f".readings/{reading.token}", "")
    with pipeline.ledger.read() as connection:
        assert readings.of_night(connection, reading.night_id) is None


@pytest.mark.parametrize(
    ("size", "pieces", "spread", "workers"),
    [
        (1 << 20, 1, 8, 0),
        (64 << 20, 2, 8, 2),
        (1 << 30, 40, 8, 8),
        (1 << 30, 3, 8, 3),
        (40 << 20, 9, 8, 2),
        (1 << 30, 40, 1, 0),
        (0, 0, 4, 0),
    ],
)
def test_as_many_workers_are_wanted_as_find_work(
    size: int, pieces: int, spread: int, workers: int
) -> None:
    assert workers_wanted(size, pieces, spread) == workers
