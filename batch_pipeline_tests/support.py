"""What tests of whole nights share: small inputs, job declarations, results read back.

Fixtures are in `conftest`; what only one module needs stays there.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api.client import AnthropicApi
from batch_pipeline.flow import paths
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.admission.queue import Queue, Queues
from batch_pipeline.ledger.database import ledger, tables
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.submissions import submissions, takeovers
from batch_pipeline.ledger.submissions.submissions import State, Submission
from batch_pipeline.ledger.submissions.takeovers import Takeover
from batch_pipeline.settings import Settings
from batch_pipeline.simulator import Simulator
from batch_pipeline.simulator.app import Hooks

MODEL = "claude-haiku-4-5-20251001"
PARTITION = "all"
CREATE = ("POST", "/v1/messages/batches")


def documents(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Rows with ids that no custom id could hold, each with a text of its own."""
    return [
        {"id": f"Akte {n}/ä", "text": f"document number {n} about licences and fees"}
        for n in range(start, start + count)
    ]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any] | bytes]) -> Path:
    """A JSONL file; bytes are written as a line of their own, whatever they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def job(source: Path | str, **changes: Any) -> JobSpec:
    """A job without a pilot, whose answers have room enough not to be cut off."""
    declared: dict[str, Any] = {
        "name": "review",
        "input": {"path": str(source)},
        "prompt": {"user": "Sum up: {text}"},
        "model_id": MODEL,
        "max_tokens": 4_000,
        "pilot": {"size": 0, "max_error_rate": 1},
    }
    return JobSpec(**(declared | changes))


def nightly_job(source: Path, first: str) -> dict[str, Any]:
    """A job of one night a day from the `first` on, with a folder of input for each: 40 documents
    make two batches after its pilot."""
    return {
        "name": "review",
        "input": {"path": str(source / "{partition}" / "*.jsonl")},
        "prompt": {"user": "Sum up: {text}"},
        "model_id": MODEL,
        "max_tokens": 4_000,
        "partitions": {"start": first},
        "pilot": {"size": 4, "max_truncated_rate": 1.0},
        "limits": {"max_requests_per_batch": 20},
    }


def settings(home: Path | str, **changes: Any) -> Settings:
    """Settings for tests: nothing waits longer than it has to."""
    environ = {
        "BATCH_PIPELINE_HOME": str(home),
        "BATCH_PIPELINE_POLL_SECONDS": "0.05",
        **{f"BATCH_PIPELINE_{key.upper()}": str(value) for key, value in changes.items()},
    }
    return Settings.from_environment(environ)


def results(pipeline: Pipeline, spec: JobSpec, partition: str = PARTITION) -> list[dict[str, Any]]:
    """All rows of a night's results folder, sorted by id."""
    return _rows(pipeline, paths.results(spec.name, partition))


def dead_letters(
    pipeline: Pipeline, spec: JobSpec, partition: str = PARTITION
) -> list[dict[str, Any]]:
    return _rows(pipeline, paths.dead_letter(spec.name, partition))


def typed_rows(
    pipeline: Pipeline, spec: JobSpec, partition: str = PARTITION
) -> list[dict[str, Any]]:
    return _rows(pipeline, paths.typed(spec.name, partition))


def _rows(pipeline: Pipeline, folder: str) -> list[dict[str, Any]]:
    files = pipeline.files.list(folder, ".parquet")
    if not files:
        return []
    rows: list[dict[str, Any]] = pipeline.files.dataset(files).to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["id"]))


def by_id(rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Rows by id; two with one id are a failure."""
    listed = list(rows)
    found = {str(row["id"]): row for row in listed}
    assert len(found) == len(listed), "an id has two rows"
    return found


def statuses(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    return dict(Counter(str(row["status"]) for row in rows))


def ids_shown(folder: Path) -> list[str]:
    """Ids of the files that are in a results folder now, as a reader beside the pipeline sees it.

    A file that goes away between listing and opening makes the reader look again.
    """
    while True:
        found: list[str] = []
        try:
            for path in sorted(folder.glob("*.parquet")):
                found += pq.read_table(path, columns=["id"]).column("id").to_pylist()
        except FileNotFoundError:
            continue
        return found


def hive(pipeline: Pipeline, spec: JobSpec) -> ds.Dataset:
    return ds.dataset(pipeline.files.uri(f"{spec.name}/results"), partitioning="hive")


def accepted_twice(sim: Simulator) -> dict[str, int]:
    """Contents that the simulator took in more than once; empty where nothing was bought again."""
    contents = sim.books.contents
    return {key: found.accepted for key, found in contents.items() if found.accepted > 1}


def submissions_of(pipeline: Pipeline) -> list[Submission]:
    with pipeline.ledger.read() as connection:
        return submissions.find(connection)


def takeovers_of(pipeline: Pipeline) -> list[Takeover]:
    """The take-overs of all nights."""
    with pipeline.ledger.read() as connection:
        found = [takeovers.of_night(connection, n.id) for n in nights.list_nights(connection)]
    return [takeover for of_night in found for takeover in of_night.values()]


def alone(queue: Queue, account: str = "default") -> Queues:
    """The queues of a night that one account alone may send."""
    return Queues({account: account}, {account: queue})


def together(*works: Callable[[], object]) -> None:
    """Do all of it at the same time, in threads; an error of one is raised here."""
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work) for work in works]:
            future.result()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that another process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def make_late(pipeline: Pipeline, partition: str, seconds: float) -> None:
    """From now on a night's results are wanted in so many seconds, and its batches, which have been
    at the API for an hour, are slow."""
    night = set_deadline(pipeline, partition, seconds)
    with pipeline.ledger.write() as connection:
        connection.execute(
            sa.update(tables.submission)
            .where(
                tables.submission.c.night_id == night.id,
                tables.submission.c.state == State.ACCEPTED.value,
            )
            .values(accepted_at=ledger.now(connection) - 3_600)
        )


def set_deadline(pipeline: Pipeline, partition: str, seconds: float) -> Night:
    """From now on a night's results are wanted in so many seconds."""
    with pipeline.ledger.write() as connection:
        at = ledger.now(connection)
        [night] = [n for n in nights.list_nights(connection) if n.partition == partition]
        nights.update_night(connection, night.id, deadline_at=at + seconds)
        return night


class RealApi(AnthropicApi):
    """The adapter as it is before the API itself, which does not call itself a simulator."""

    @property
    def simulated(self) -> bool:
        return False

    def _note_headers(self, headers: Mapping[str, str]) -> None:
        super()._note_headers(headers)
        # All accounts of a test may have one key; the API would have given each its own ids.
        self.organisation = self.workspace = None


class Faults(Hooks):
    """Hooks that a test sets while the simulator runs; unset ones do nothing."""

    def __init__(self) -> None:
        self.on_request: Callable[[Request], Response | None] = lambda _: None
        self.on_response: Callable[[Request, Response], Response] = lambda _, response: response
        self.on_results: Callable[[str, Iterator[bytes]], Iterator[bytes]] = lambda _, data: data
        self.calls: list[tuple[str, str]] = []

    async def before(self, request: Request, /) -> Response | None:
        self.calls.append((request.method, request.url.path))
        return self.on_request(request)

    async def after(self, request: Request, response: Response, /) -> Response:
        return self.on_response(request, response)

    def results(self, batch_id: str, chunks: Iterator[bytes], /) -> Iterator[bytes]:
        return self.on_results(batch_id, chunks)


def is_create(request: Request) -> bool:
    return (request.method, request.url.path) == CREATE


def error(status: int, kind: str, message: str = "a fault") -> Response:
    """An API error body."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return Response(json.dumps(body), status, media_type="application/json")


class Dropped(Response):
    """An answer whose connection breaks before the body is whole."""

    async def __call__(
        self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"id": "msg', "more_body": True})
        # Ending without the announced bytes makes the server close the connection.


def once(
    answer: Callable[[Request, Response], Response | None],
) -> Callable[[Request, Response], Response]:
    """The first answer that `answer` replaces (by not returning None), and no other."""
    done = False

    def replace(request: Request, response: Response) -> Response:
        nonlocal done
        replaced = None if done else answer(request, response)
        done = done or replaced is not None
        return replaced or response

    return replace
