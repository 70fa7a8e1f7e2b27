"""Publishing in a remote home: after the commit, once, in order, whatever dies in between."""

from __future__ import annotations

import importlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fsspec.implementations.memory import MemoryFileSystem

from batch_pipeline.flow import paths, publishing
from batch_pipeline.flow.costs.cost_report import write_report
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.home import publications
from batch_pipeline.ledger.nights import Night
from batch_pipeline.simulator import Simulator
from batch_pipeline.storage.files import STAGING
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.support import (
    PARTITION,
    accepted_twice,
    by_id,
    documents,
    job,
    results,
    settings,
    until,
    write_rows,
)

FOLDER = paths.results("notes", PARTITION)
TYPED = paths.typed("notes", PARTITION)
REPORT = paths.report("notes", PARTITION, ".json")
# Of the file system, those that write and those that read.
WRITES = ("put_file", "cp_file", "rm_file", "pipe_file")
READS = ("_open", "glob", "exists", "info")


class DiedError(BaseException):
    """The process ends here."""


@pytest.fixture
def home() -> str:
    """A remote home in fsspec's memory."""
    return f"memory://home-{uuid.uuid4().hex}"


@pytest.fixture
def new_pipeline(home: str, tmp_path: Path) -> Iterator[Callable[[], Pipeline]]:
    """Makes pipelines of one home and ledger, each as another process would have it."""
    made: list[Pipeline] = []

    def make() -> Pipeline:
        url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
        made.append(Pipeline(settings(home, ledger_url=url)))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.close()


def _night(pipeline: Pipeline) -> Night:
    with pipeline.ledger.write() as connection:
        accounts.register_account(connection, "a", simulated=False)
        night = nights.open_night(connection, "notes", PARTITION, "a")
        nights.show_night(connection, night)
        return night


def _publish(
    pipeline: Pipeline, folder: Path, names: list[str], *, replacing: bool = False
) -> None:
    """Publish files that hold their own name; with `replacing`, in the place of all others."""
    night = _night(pipeline)
    folder.mkdir(exist_ok=True)
    named: list[publishing.Named] = []
    if replacing:
        named += [(_file(folder, "report", '{"complete": false}'), REPORT)]
        named += [(None, TYPED), (None, FOLDER)]
    for target in (FOLDER, TYPED):
        for name in names:
            file = _file(folder, f"{name}-{len(named)}", name)
            named.append((file, f"{target}/{name}.parquet"))
    if replacing:
        named.append((_file(folder, "again", '{"complete": true}'), REPORT))
    staged = [path for path, _ in named if path is not None]
    with publishing.prepared(pipeline, night, staged) as publish, pipeline.ledger.write() as tx:
        publish(tx, named)


def _file(folder: Path, name: str, content: str) -> Path:
    (folder / name).write_text(content)
    return folder / name


def _shown(pipeline: Pipeline, folder: str = FOLDER) -> dict[str, str]:
    found = pipeline.files.list(folder, ".parquet")
    return {
        path.rsplit("/", 1)[-1].removesuffix(".parquet"): (
            pipeline.files.read(path) or b""
        ).decode()
        for path in found
    }


def _die_at(monkeypatch: pytest.MonkeyPatch, number: int, look: Callable[[], None]) -> list[str]:
    """Let the process die before the n-th write to the home; `look` sees the home before each."""
    done: list[str] = []

    def patch(name: str) -> None:
        original = getattr(MemoryFileSystem, name)

        def write(*args: Any, **kwargs: Any) -> Any:
            look()
            if len(done) == number:
                raise DiedError
            done.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(MemoryFileSystem, name, write)

    for name in WRITES:
        patch(name)
    return done


@pytest.mark.parametrize("number", range(38))
def test_a_folder_that_is_replaced_never_shows_old_and_new_files(
    number: int,
    new_pipeline: Callable[[], Pipeline],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = new_pipeline()
    _publish(first, tmp_path / "old", ["old-1", "old-2"])
    first.files.write(REPORT, b'{"complete": true}')

    def look() -> None:
        shown, typed = _shown(first), _shown(first, TYPED)
        kinds = {name.partition("-")[0] for name in shown}
        assert kinds in ({"old"}, set(), {"new"})
        # No typed row is there without its row of the results.
        assert typed.keys() <= shown.keys()
        if json.loads(first.files.read(REPORT) or b"")["complete"]:
            assert len(shown) == 2
            assert typed == shown

    with monkeypatch.context() as patched:
        done = _die_at(patched, number, look)
        try:
            _publish(first, tmp_path / "new", ["new-1", "new-2"], replacing=True)
            assert len(done) <= number
        except DiedError:
            pass
    second = new_pipeline()
    with second.ledger.read() as connection:
        committed = len(done) >= number and publications.first(connection, "notes", PARTITION)
    publishing.carry_out(second, _night(second))
    look()
    kind = "new" if committed or "new" in str(_shown(second)) else "old"
    assert _shown(second) == {f"{kind}-{n}": f"{kind}-{n}" for n in (1, 2)}
    assert json.loads(second.files.read(REPORT) or b"")["complete"]
    with second.ledger.read() as connection:
        assert publications.first(connection, "notes", PARTITION) is None
        assert not nights.get_night(connection, _night(second).id).rebuilding
    if kind == "new":
        assert second.files.list(STAGING, "") == []


def test_a_process_that_was_frozen_changes_nothing_when_it_wakes_up(
    new_pipeline: Callable[[], Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has committed, and sleeps before its files are moved; meanwhile others go on."""
    frozen, other = new_pipeline(), new_pipeline()
    _publish(other, tmp_path / "old", ["old"])
    asleep, wake = threading.Event(), threading.Event()
    move = frozen.files.move

    def sleepy(path: str, target: str) -> bool:
        asleep.set()
        assert wake.wait(60)
        return move(path, target)

    monkeypatch.setattr(frozen.files, "move", sleepy)
    sleeper = threading.Thread(target=_publish, args=(frozen, tmp_path / "first", ["first"]))
    sleeper.start()
    assert asleep.wait(60)
    with other.ledger.write() as connection:
        connection.execute(sa.update(tables.publication).values(lease_until=0.0))
    _publish(other, tmp_path / "later", ["later"], replacing=True)
    _publish(other, tmp_path / "last", ["last"])
    wake.set()
    sleeper.join()
    assert set(_shown(other)) == {"later", "last"}
    with other.ledger.read() as connection:
        assert not nights.get_night(connection, _night(other).id).rebuilding


def test_a_file_that_is_lost_lets_the_folder_be_built_again(
    new_pipeline: Callable[[], Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = new_pipeline()
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "carry_out", lambda *_: None)
        _publish(pipeline, tmp_path / "new", ["new-1", "new-2"])
    [lost, *_] = pipeline.files.list(STAGING, "")
    pipeline.files.remove(lost)
    publishing.carry_out(pipeline, _night(pipeline))
    assert set(_shown(pipeline)) == {"new-2"}
    assert _night(pipeline).rebuilding


def test_what_waits_to_be_moved_is_not_swept(
    new_pipeline: Callable[[], Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = new_pipeline()
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "carry_out", lambda *_: None)
        patched.setattr("time.time", lambda: 1_000_000.0)
        _publish(pipeline, tmp_path / "new", ["new"])
        pipeline.files.write(f"{STAGING}/999999-left-0", b"by a process that died")
    publishing.sweep(pipeline)
    assert len(pipeline.files.list(STAGING, "")) == 2
    publishing.carry_out(pipeline, _night(pipeline))
    assert set(_shown(pipeline)) == {"new"}


def test_no_file_is_touched_while_the_ledger_is_locked(
    home: str,
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A night, its report, and a second run with changed input."""
    within, touched = threading.local(), []

    def patch(name: str) -> None:
        original = getattr(MemoryFileSystem, name)

        def touch(self: MemoryFileSystem, *args: Any, **kwargs: Any) -> Any:
            if getattr(within, "transaction", False):
                touched.append((name, *args))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(MemoryFileSystem, name, touch)

    def begin(_connection: sa.Connection) -> None:
        within.transaction = True

    def end(_connection: sa.Connection) -> None:
        within.transaction = False

    for name in (*WRITES, *READS):
        patch(name)
    for event, note in (("begin", begin), ("commit", end), ("rollback", end)):
        sa.event.listen(sa.Engine, event, note)
    try:
        url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
        pipeline = make_pipeline(home=home, ledger_url=url)
        _night_and_report(pipeline, tmp_path)
        _night_again(pipeline, tmp_path)
    finally:
        for event, note in (("begin", begin), ("commit", end), ("rollback", end)):
            sa.event.remove(sa.Engine, event, note)
    assert not touched
    assert not accepted_twice(sim)


class PatientStore:
    """moto's S3 server, whose writes begin once no session of the ledger is idle in a transaction.

    A transaction that waits for a write would last as long as a slow store takes. One of another
    thread ends by itself, so that sessions are looked at again. `missing` are the places of a home
    that nothing was written to, `waited_for` the writes that a transaction waited for.
    """

    def __init__(self, ledger_url: str) -> None:
        moto: Any = importlib.import_module("moto.server")
        self._app = moto.DomainDispatcherApplication(moto.create_backend_app)
        self._ledger = sa.create_engine(
            ledger_url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        self.missing = {"/answers/", "/results/", "/raw/", "/reports/", "/.staging/"}
        self.waited_for: list[str] = []

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        if environ["REQUEST_METHOD"] == "PUT":
            path = environ["PATH_INFO"]
            self.missing -= {place for place in self.missing if place in path}
            try:
                until(lambda: not self._waiting(), seconds=5)
            except AssertionError:
                self.waited_for.append(path)
        return self._app(environ, start)

    def _waiting(self) -> bool:
        sessions = sa.text(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
        )
        with self._ledger.connect() as connection:
            return bool(connection.scalar(sessions))


def test_no_transaction_waits_for_a_store(
    postgres_url: str,
    sim: Simulator,
    make_pipeline: MakePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S3 and PostgreSQL: a night and its report. The first process dies between a commit and the
    move of its files."""
    pytest.importorskip("moto")
    s3fs: Any = importlib.import_module("s3fs")
    from werkzeug.serving import make_server  # noqa: PLC0415

    store = PatientStore(postgres_url)
    server = make_server("127.0.0.1", 0, store, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    bucket = f"homes-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(bucket)
    try:

        def make() -> Pipeline:
            return make_pipeline(
                home=f"s3://{bucket}/home", ledger_url=postgres_url, lease_seconds=3
            )

        first = make()

        def die(*_: object) -> bool:
            raise DiedError

        monkeypatch.setattr(first.files, "move", die)
        with pytest.raises(DiedError):
            _night_and_report(first, tmp_path)
        _night_and_report(make(), tmp_path)
    finally:
        server.shutdown()
    assert not store.missing
    assert store.waited_for == []
    assert not accepted_twice(sim)


def _night_and_report(pipeline: Pipeline, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", documents(8))
    spec = job(source, output={"carry": ["text"]})
    state = run(pipeline, spec, PARTITION)
    assert set(by_id(results(pipeline, spec))) == {d["id"] for d in documents(8)}
    assert write_report(pipeline, spec, state.night).complete


def _night_again(pipeline: Pipeline, tmp_path: Path) -> None:
    """The same night with changed input, and its report."""
    source = write_rows(tmp_path / "in.jsonl", documents(9, start=1))
    spec = job(source, output={"carry": ["text"]})
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    said = json.loads(pipeline.files.read(paths.report(spec.name, PARTITION, ".json")) or b"")
    assert said["complete"] is False
    assert write_report(pipeline, spec, state.night).complete
    assert set(by_id(results(pipeline, spec))) == {d["id"] for d in documents(9, start=1)}
    assert pipeline.files.list(STAGING, "") == []
