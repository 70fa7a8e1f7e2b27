"""`preview` and `show` from snapshot and ledger: before, during and after a night."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from batch_pipeline.errors import GateClosedError, UsageError
from batch_pipeline.flow.control.approval import approve
from batch_pipeline.flow.control.prune import prune
from batch_pipeline.flow.inspect import preview_page
from batch_pipeline.flow.inspect.item import Item, show
from batch_pipeline.flow.inspect.preview import COUNTED, preview, raw
from batch_pipeline.flow.pilot import page
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.planning import plan
from batch_pipeline.flow.run import run
from batch_pipeline.flow.steps import open_night
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.control.approvals import Gate
from batch_pipeline.reporting import pilot_page
from batch_pipeline.simulator import Faults as Odd
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests import document_files
from batch_pipeline_tests.support import PARTITION, documents, job, write_rows

PROMPT = {"system": "Be brief.", "user": "{file:pdf}\nSum up: {text}"}
SCRIPT = "<script>alert('text')</script>"


@pytest.fixture
def spec(tmp_path: Path) -> JobSpec:
    """Nine documents with a PDF each; one of them twice, one without a PDF, one that fails."""
    (tmp_path / "pdfs").mkdir()
    for number in range(9):
        text = f"Lease {number} {SCRIPT}"
        (tmp_path / "pdfs" / f"{number}.pdf").write_bytes(document_files.pdf([text, "More."]))
    rows = [{**row, "file": f"{number}.pdf"} for number, row in enumerate(documents(9))]
    rows += [{**rows[3], "id": "again"}, {**rows[4], "id": "none", "file": "none.pdf"}]
    rows[5]["text"] += " fails"
    return job(
        write_rows(tmp_path / "in.jsonl", rows),
        input={"path": str(tmp_path / "in.jsonl"), "root": str(tmp_path / "pdfs")},
        prompt=PROMPT,
        pilot={"size": 3, "max_error_rate": 1, "review": "required"},
        alerts={"error_rate": 1},
    )


def test_an_item_before_during_and_after_its_night(
    sim: Simulator, pipeline: Pipeline, spec: JobSpec
) -> None:
    sim.set_faults(
        Odd.of(requests={"matching": [{"contains": "fails", "outcome": "empty", "ways": "both"}]})
    )
    before = preview(pipeline, spec, PARTITION, rows=2)
    first = before.rows[0]
    assert (len(before.rows), first.id, first.tokens_from) == (2, "Akte 0/ä", COUNTED)
    assert before.night is not None
    assert before.night.realtime > before.night.batch > 0
    assert not list(Path(pipeline.files.home, "review").glob("*")), "a look writes nothing"
    assert first.request is not None
    block, text = first.request["messages"][0]["content"]
    assert block["source"]["data"].startswith("<application/pdf, 2 pages, ")
    assert text["text"].endswith("document number 0 about licences and fees")
    with pytest.raises(UsageError, match="has no input yet"):
        show(pipeline, spec, PARTITION, "Akte 0/ä")

    with pytest.raises(GateClosedError, match="review is required"):
        run(pipeline, spec, PARTITION)
    written = Path(pipeline.files.home, f"review/reports/{PARTITION}{page.SUFFIX}").read_text()
    assert "Waits for a person" in written
    assert written.count("data:image/jpeg;base64,") >= 3
    assert "1 document cannot be read" in written
    assert SCRIPT not in written
    asked = [n for n in range(9) if _shown(pipeline, spec, f"Akte {n}/ä").result is not None]
    left = next(n for n in range(9) if n not in asked and n not in (3, 5))
    waiting = _shown(pipeline, spec, f"Akte {left}/ä")
    assert waiting.waits is not None
    assert "review is required" in waiting.waits
    assert page.SUFFIX in waiting.waits
    twin = _shown(pipeline, spec, "again")
    assert twin.why_not_sent == (
        "its request is the same as that of 'Akte 3/ä', which answers both"
    )
    unread = _shown(pipeline, spec, "none")
    assert (unread.request, unread.waits) == (None, None)
    assert unread.why_not_sent is not None
    assert unread.why_not_sent.startswith("invalid_input: document cannot be read")
    assert unread.dead_letter is not None

    night = open_night(pipeline, spec, PARTITION)
    file = Path(pipeline.files.home, f"review/reports/{PARTITION}{page.SUFFIX}")
    confidential = spec.model_copy(update={"show_answers": False})
    night, snapshot = plan.current(pipeline, night)
    assert night.pilot is not None
    assert page.write(pipeline, confidential, night, snapshot, night.pilot)["page"] == str(file)
    for hidden in ("data:image", "licences and fees", "The request as it was sent"):
        assert hidden in written
        assert hidden not in file.read_text()
    approve(pipeline, spec, night, Gate.PILOT, "they read well", "ann")
    written = Path(pipeline.files.home, f"review/reports/{PARTITION}{page.SUFFIX}").read_text()
    assert "Approved: the rest of the night may go" in written
    assert "they read well" in written
    sim.hold()
    run(pipeline, spec, PARTITION, wait=False)
    flying = _shown(pipeline, spec, f"Akte {left}/ä")
    assert flying.waits is not None
    assert flying.waits.startswith("it is at the API (batch msgbatch_")
    sim.release()
    assert run(pipeline, spec, PARTITION).statuses == {
        "succeeded": 9, "invalid_output": 1, "invalid_input": 1,
    }  # fmt: skip

    done = _shown(pipeline, spec, f"Akte {left}/ä")
    [answer] = done.attempts
    assert answer["mode"] == "batch"
    assert answer["raw"]["custom_id"] == answer["custom_id"]
    assert answer["raw"]["result"]["message"]["content"][0]["text"] == answer["content"]
    assert done.result is not None
    assert done.cost_usd == done.result["cost_usd"] > 0
    called = _shown(pipeline, spec, f"Akte {asked[0]}/ä")
    assert called.attempts[0]["mode"] == "realtime"
    assert called.attempts[0]["raw"]["custom_id"] == called.attempts[0]["custom_id"]
    again = _shown(pipeline, spec, "again")
    assert again.result is not None
    assert again.result["content"] == again.attempts[0]["content"], "that of the other row"
    failed = _shown(pipeline, spec, "Akte 5/ä")
    assert failed.dead_letter is not None
    assert failed.dead_letter["error_type"] == "empty_answer"
    assert orjson.loads(orjson.dumps(failed.as_json()))["attempts"][0]["status"] == "invalid_output"
    with pytest.raises(UsageError, match="Close to it: 'Akte 5/ä'"):
        show(pipeline, spec, PARTITION, "Akte 5ä")

    after = preview(pipeline, spec, PARTITION, item_id=f"Akte {left}/ä")
    assert after.notes == ("rows as the night's input was taken",)
    assert "its pilot projects" in after.night_from
    assert SCRIPT not in preview_page.render(after)
    params = orjson.loads(raw(pipeline, spec, PARTITION, f"Akte {left}/ä"))
    data = params["messages"][0]["content"][0]["source"]["data"]
    assert data.startswith("JVBERi0"), "to the byte: a PDF in base64"
    changed = spec.model_copy(update={"max_tokens": 3_000})
    assert "the declaration has changed" in preview(pipeline, changed, PARTITION).notes[0]

    prune(pipeline, spec, partition=PARTITION)
    pruned = _shown(pipeline, spec, "Akte 5/ä")
    assert (pruned.input, pruned.request) == (None, None)
    assert pruned.result is not None
    assert pruned.attempts[0]["raw"] is None
    assert "pruned" in pruned.notes[0]


def _shown(pipeline: Pipeline, spec: JobSpec, item_id: str) -> Item:
    return show(pipeline, spec, PARTITION, item_id)


def test_a_page_that_cannot_be_written_stops_what_a_person_has_to_review(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sim: Simulator
) -> None:
    def fail(_: object) -> str:
        raise OSError("the disk is full")

    source = write_rows(tmp_path / "rows.jsonl", documents(12))
    plain = job(source, pilot={"size": 1})
    reviewed = plain.model_copy(
        update={"pilot": plain.pilot.model_copy(update={"size": 3, "review": "required"})}
    )
    with monkeypatch.context() as patched:
        patched.setattr(pilot_page, "render", fail)
        with pytest.raises(GateClosedError, match="its page could not be written"):
            run(pipeline, reviewed, PARTITION)
    with pytest.raises(GateClosedError) as closed:
        run(pipeline, reviewed, PARTITION)
    assert page.SUFFIX in str(closed.value)
    assert sim.books.accepted_requests == 3
    with monkeypatch.context() as patched:
        patched.setattr(pilot_page, "render", fail)
        assert run(pipeline, plain, PARTITION).complete, "where none is required, it goes on"


def test_without_a_key_the_tokens_are_estimated(
    pipeline: Pipeline, spec: JobSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    found = preview(pipeline, spec, PARTITION, item_id="Akte 1/ä")
    [row] = found.rows
    assert row.input_tokens is not None
    assert 3_200 < row.input_tokens < 3_400, "two pages"
    assert "assumptions" in (row.tokens_from or "")
    assert found.notes == ("tokens are not counted by the API: there is no key",)
    [unread] = preview(pipeline, spec, PARTITION, item_id="none").rows
    assert unread.request is None
    assert "document cannot be read" in (unread.problem or "")
    with pytest.raises(UsageError, match="'nobody'"):
        preview(pipeline, spec, PARTITION, item_id="nobody")
    # Files as rows: their number is known, and none but those shown is opened.
    files: dict[str, Any] = {"path": str(tmp_path / "pdfs" / "*.pdf")}
    folder = spec.model_copy(
        update={
            "input": spec.input.__class__(**files),
            "prompt": spec.prompt.__class__(user="{document}"),
        }
    )
    (tmp_path / "pdfs" / "8.pdf").chmod(0)
    of_files = preview(pipeline, folder, PARTITION, rows=2)
    assert (of_files.requests, [row.id for row in of_files.rows]) == (9, ["0.pdf", "1.pdf"])
    assert of_files.night is not None
    assert "if all 9 are as these 2 rows" in of_files.night_from


def test_a_row_that_names_another_model_is_told_as_in_its_night(
    sim: Simulator, pipeline: Pipeline, tmp_path: Path
) -> None:
    rows = [{**row, "model": "claude-2"} for row in documents(1)]
    models = {"column": "model", "models": ["claude-haiku-4-5-20251001"]}
    spec = job(
        write_rows(tmp_path / "in.jsonl", rows), per_row={"model_id": models},
        pilot={"size": 0, "max_error_rate": 1},
    )  # fmt: skip
    [before] = preview(pipeline, spec, PARTITION).rows
    run(pipeline, spec, PARTITION)
    [after] = preview(pipeline, spec, PARTITION).rows
    assert before.problem == after.problem
    assert (before.problem or "").startswith("invalid_input: a model that rows may not name: ")
