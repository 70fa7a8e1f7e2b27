"""An input that several workers read: the same snapshot as by one.

That one of them may be killed at any point is in `end_to_end/test_crash.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import InputDataError, UsageError
from batch_pipeline.flow import night_input, publishing, steps
from batch_pipeline.flow.dataset import input_dataset, shared_beginning, shared_reading
from batch_pipeline.flow.dataset.process_pool import WorkerDiedError
from batch_pipeline.flow.dataset.reading import splits
from batch_pipeline.flow.dataset.reading.splits import Piece
from batch_pipeline.flow.dataset.shared_beginning import workers_wanted
from batch_pipeline.flow.dataset.shared_reading import Worker
from batch_pipeline.flow.dataset.sources.find import find_input
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights, readings
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.readings import MOST_TRIES, Reading
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.support import PARTITION, documents, job, settings, together, write_rows

Open = Callable[..., Pipeline]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs of a few kB are cut into pieces, which are read in this process."""
    monkeypatch.setattr(splits, "PIECE_BYTES", 1_000)
    monkeypatch.setattr(splits, "_LEAST_BYTES", 500)
    monkeypatch.setattr(splits, "_FILE_BYTES", 0)
    monkeypatch.setattr(shared_reading, "LOOK_SECONDS", 0.01)
    # fsspec's memory is that of one process.
    monkeypatch.setattr(shared_reading, "map_in_processes", in_this_process)


def in_this_process(function: Any, tasks: Any, _count: int, **_: Any) -> Any:
    return (function(*task) for task in tasks)


@pytest.fixture(params=["local", "remote"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A local and a remote home, one after the other."""
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
    shared_beginning.begin(pipeline, spec, night, sources, None, alone=False)
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


@pytest.mark.usefixtures("small_pieces")
def test_a_worker_that_wakes_up_changes_nothing(
    open_home: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(an_input(tmp_path), spread=2)
    one = read_by_one(open_home(), spec)
    stale, other = open_home(), open_home()
    reading = begun(stale, spec)
    monkeypatch.setattr(shared_reading, "is_gone", lambda holder: holder.startswith(stale.holder))
    prepare = shared_reading.prepare_claimed
    taken: list[NewSnapshot] = []

    def freeze(*arguments: Any) -> dict[str, Any]:
        monkeypatch.setattr(shared_reading, "prepare_claimed", prepare)
        taken.append(put_together(other, spec, reading))
        return prepare(*arguments)

    monkeypatch.setattr(shared_reading, "prepare_claimed", freeze)
    assert a_worker(stale, spec, reading).work() == 0
    assert (taken[0], files_of(other, taken[0])) == one
    publishing.sweep(other)
    assert not other.files.glob(".readings/*/*")


@pytest.mark.usefixtures("small_pieces")
def test_a_piece_that_ends_three_workers_is_named_and_the_others_are_read(
    open_home: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(an_input(tmp_path), spread=2)
    pipeline = open_home()
    reading = begun(pipeline, spec)
    prepare = shared_reading.prepare_claimed
    ended: list[int] = []

    def kill(piece: Piece, number: int, *about: Any) -> dict[str, Any]:
        if number == 2:
            ended.append(number)
            raise WorkerDiedError("killed")
        return prepare(piece, number, *about)

    monkeypatch.setattr(shared_reading, "prepare_claimed", kill)
    with pytest.raises(InputDataError, match=r"read bytes 2,0.* of .*a\.jsonl has ended 3 workers"):
        a_worker(pipeline, spec, reading).work()
    assert len(ended) == MOST_TRIES
    with pytest.raises(InputDataError, match="has ended 3 workers"):
        put_together(pipeline, spec, reading)
    with pipeline.ledger.read() as connection:
        assert readings.left(connection, reading) == 1

    # With more memory it is tried again, and what was read is not read again.
    monkeypatch.setattr(shared_reading, "prepare_claimed", prepare)
    assert begun(pipeline, spec).token == reading.token
    assert a_worker(pipeline, spec, reading).work() == 1
    assert put_together(pipeline, spec, reading).items == 104


@pytest.mark.usefixtures("small_pieces")
def test_what_stops_the_night_is_told_to_all_workers(open_home: Open, tmp_path: Path) -> None:
    rows: list[Any] = [*documents(40), b"{broken", *documents(40, start=40)]
    spec = job(write_rows(tmp_path / "in.jsonl", rows), spread=2)
    first, second = open_home(), open_home()
    reading = begun(first, spec)
    with pytest.raises(InputDataError, match="line 41: not JSON"):
        a_worker(first, spec, reading).work()
    assert a_worker(second, spec, reading).work() == 0
    with pytest.raises(InputDataError, match="line 41: not JSON"):
        put_together(second, spec, reading)


@pytest.mark.usefixtures("small_pieces")
def test_a_worker_with_another_declaration_is_refused(open_home: Open, tmp_path: Path) -> None:
    spec = job(an_input(tmp_path), spread=2)
    reading = begun(open_home(), spec)
    with pytest.raises(UsageError, match="Give all workers the same code and the same jobs"):
        a_worker(open_home(), spec.model_copy(update={"max_tokens": 7}), reading)


@pytest.mark.usefixtures("small_pieces")
def test_two_processes_that_take_the_input_at_once_read_it_together(
    sim: Simulator, open_home: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = job(an_input(tmp_path), spread=2)
    prepared: list[int] = []
    prepare = shared_reading.prepare_claimed

    def note(piece: Piece, number: int, *about: Any) -> dict[str, Any]:
        prepared.append(number)
        return prepare(piece, number, *about)

    monkeypatch.setattr(shared_reading, "prepare_claimed", note)
    taken: list[night_input.InputTaken] = []

    def take() -> None:
        pipeline = open_home()
        night = steps.open_night(pipeline, spec, PARTITION)
        taken.append(night_input.take_input(pipeline, spec, night))

    together(take, take)
    assert sorted(prepared) == list(range(len(prepared)))
    assert len({each.snapshot.id for each in taken}) == 1


@pytest.mark.usefixtures("small_pieces")
def test_the_steps_of_a_night_hand_nothing_to_each_other(
    sim: Simulator, open_home: Open, tmp_path: Path
) -> None:
    source = an_input(tmp_path)
    spec = job(source, spread=2)

    def step(work: Callable[..., Any], **options: Any) -> Any:
        pipeline = open_home()
        return work(pipeline, spec, steps.open_night(pipeline, spec, PARTITION), **options)

    assert step(night_input.begin_input).workers == 2
    assert step(night_input.read_share) > 6
    assert step(night_input.read_share) == 0
    first = step(night_input.end_input)
    assert (first.note, first.snapshot.items) == ("input read", 104)
    # Nothing was begun, or another process has ended it.
    assert step(night_input.read_share) == 0
    assert step(night_input.end_input).note == "input unchanged"
    kept = step(night_input.begin_input)
    assert (kept.workers, kept.kept.note) == (0, "input unchanged")
    # Input that changes meanwhile is not taken from what was begun before.
    assert step(night_input.begin_input, again=True).workers == 2
    write_rows(tmp_path / "b.jsonl", documents(30, start=100))
    assert step(night_input.begin_input).workers == 2
    second = step(night_input.end_input)
    assert second.note == "input read again: 30 new items, 31 gone, 0 with another request"
    # An input that is too small to be shared is read in the last step.
    for name in "ab":
        write_rows(tmp_path / f"{name}.jsonl", documents(2, start=9 * ord(name)))
    assert step(night_input.begin_input).workers == 0
    assert step(night_input.read_share) == 0
    assert step(night_input.end_input).snapshot.items == 4


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
