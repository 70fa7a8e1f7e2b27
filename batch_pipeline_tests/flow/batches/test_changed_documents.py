"""Documents that have changed since the input was taken: their rows are set aside, unsent."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from starlette.requests import Request

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow import night_input, steps
from batch_pipeline.flow.control.redrive import redrive
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.document_files import pdf
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    accepted_twice,
    by_id,
    dead_letters,
    is_create,
    job,
    results,
    statuses,
    submissions_of,
    write_rows,
)

ROWS = 12
WAYS: list[dict[str, Any]] = [{}, {"mode": "realtime"}]


def asked_about(folder: Path, files: Mapping[str, bytes], **changes: Any) -> JobSpec:
    """A job whose rows name PDFs in a folder; the last two name the same one."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    names = list(files)
    rows = [{"id": f"row {n:02}", "file": name} for n, name in enumerate([*names, names[-1]])]
    given: dict[str, Any] = {
        "input": {"path": str(write_rows(folder / "in.jsonl", rows)), "root": str(folder)},
        "prompt": {"user": "Sum up: {file:pdf}"},
        "alerts": {"error_rate": 1, "dead_letter_rate": 1},
    }
    return job(folder / "in.jsonl", **(given | changes))


def pdfs(count: int) -> dict[str, bytes]:
    return {
        f"{n:02}.pdf": pdf([f"Contract number {n} of two pages.", "Second."]) for n in range(count)
    }


def taken(pipeline: Pipeline, spec: JobSpec) -> None:
    night_input.take_input(pipeline, spec, steps.open_night(pipeline, spec, PARTITION))


@pytest.mark.parametrize("way", WAYS, ids=["batch", "realtime"])
def test_a_changed_or_missing_document_is_set_aside_and_the_rest_goes(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, way: dict[str, Any]
) -> None:
    spec = asked_about(tmp_path, pdfs(ROWS - 1), **way)
    taken(pipeline, spec)
    (tmp_path / "03.pdf").write_bytes(pdf(["Another contract of two pages.", "Second."]))
    (tmp_path / "07.pdf").unlink()
    (tmp_path / "10.pdf").write_bytes(pdf(["Longer than it was."] * 5))
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    rows = by_id(results(pipeline, spec))
    assert statuses(rows.values()) == {"succeeded": 8, "invalid_input": 4}
    letters = by_id(dead_letters(pipeline, spec))
    assert {row["error_type"] for row in letters.values()} == {"document_changed"}
    told = {row_id: row["error_message"] for row_id, row in letters.items()}
    assert "03.pdf has changed since the input was taken (sha256 " in told["row 03"]
    assert "07.pdf cannot be read since the input was taken" in told["row 07"]
    assert told["row 10"] == told["row 11"]
    assert "%PDF" not in "".join(str(row) for row in letters.values())
    # What was set aside was not sent, and nothing was sent twice.
    assert sim.books.billed_requests == 8
    assert not accepted_twice(sim)
    # What stands for rows that were set aside is no batch.
    assert state.batches == sim.books.batches_created
    assert all((s.cost_usd or 0) <= s.usd_bound for s in submissions_of(pipeline))
    assert state.total_cost_usd == sum(s.cost_usd or 0 for s in submissions_of(pipeline))

    (tmp_path / "07.pdf").write_bytes(pdf(["It is there again."]))
    redrive(pipeline, spec, PARTITION, reasons=("invalid_input",))
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": ROWS}
    assert sim.books.billed_requests == 8 + 3
    assert not accepted_twice(sim)


@pytest.mark.parametrize("way", WAYS, ids=["batch", "realtime"])
def test_where_most_documents_are_gone_nothing_is_set_aside(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, way: dict[str, Any]
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    spec = asked_about(folder, pdfs(ROWS - 1), **way)
    taken(pipeline, spec)
    gone = [folder / f"{n:02}.pdf" for n in range(7)]
    kept = [path.read_bytes() for path in gone]
    for path in gone:
        path.unlink()
    with pytest.raises(InputDataError, match=f"are missing under {folder}: is it mounted"):
        run(pipeline, spec, PARTITION)
    assert not sim.books.billed_requests
    assert not dead_letters(pipeline, spec)
    for path, data in zip(gone, kept, strict=True):
        path.write_bytes(data)
    assert run(pipeline, spec, PARTITION).statuses == {"succeeded": ROWS}


def test_a_remote_document_is_fetched_once_for_its_batch(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"/documents-{uuid.uuid4().hex}"
    memory = fsspec.filesystem("memory")
    files = pdfs(3)
    for name, data in files.items():
        memory.pipe(f"{root}/{name}", data)
    rows = [{"id": name, "file": name} for name in files]
    given = {"path": str(write_rows(tmp_path / "in.jsonl", rows)), "root": f"memory:/{root}"}
    spec = asked_about(tmp_path, {"unused": b""}, input=given)
    write_rows(tmp_path / "in.jsonl", rows)
    taken(pipeline, spec)
    memory.pipe(f"{root}/01.pdf", pdf(["Another one."]))
    opened: Counter[str] = Counter()
    original = MemoryFileSystem._open

    def counted(self: MemoryFileSystem, path: str, *args: Any, **more: Any) -> Any:
        opened[path.rpartition("/")[2]] += 1
        return original(self, path, *args, **more)

    monkeypatch.setattr(MemoryFileSystem, "_open", counted)
    state = run(pipeline, spec, PARTITION)
    assert state.statuses == {"succeeded": 2, "invalid_input": 1}
    # The look that finds the changed one, and the batch of the others.
    assert opened == {"00.pdf": 2, "01.pdf": 1, "02.pdf": 2}
    assert not accepted_twice(sim)


def test_a_document_that_changes_while_it_is_sent_makes_no_batch(
    sim: Simulator, pipeline: Pipeline, faults: Faults, tmp_path: Path
) -> None:
    # Larger than what the connection holds before the simulator reads.
    large = pdf(["A contract with an annex."], extra=f"/Annex ({'x' * 16_000_000})")
    spec = asked_about(tmp_path, {"0.pdf": pdf(["First."]), "1.pdf": large})
    taken(pipeline, spec)

    def change(request: Request) -> None:
        if is_create(request):
            (tmp_path / "1.pdf").write_bytes(large[:-9] + b"/XX 0 R\n\n")

    faults.on_request = change
    state = run(pipeline, spec, PARTITION)
    assert state.complete
    assert statuses(results(pipeline, spec)) == {"succeeded": 1, "invalid_input": 2}
    first, *_ = made = submissions_of(pipeline)
    assert first.state is State.ABSENT
    assert "1.pdf has changed" in (first.error or "")
    # The second look takes the rows out, which stand for no batch; the third create is the rest.
    assert [s.batch_id is not None for s in made] == [False, False, False, True]
    assert sim.books.batches_created == 1
    assert sim.books.billed_requests == 1
