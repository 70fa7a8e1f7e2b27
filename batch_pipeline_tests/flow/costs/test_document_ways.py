"""What documents will cost: pages and pixels as they are, and PDFs both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow.costs.estimate import Estimate, estimate
from batch_pipeline.flow.costs.estimate_json import as_json
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.document_files import image, pdf
from batch_pipeline_tests.support import (
    PARTITION,
    Faults,
    documents,
    error,
    job,
    write_rows,
)

# Two pages with about 1,000 bytes of text each, and a scan: a page that says nothing.
TEXT = "A clause of the contract, and another one. " * 23
PDFS = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """PDFs of two pages each, and one without text."""
    for number in range(PDFS):
        (tmp_path / f"{number}.pdf").write_bytes(pdf([f"{number} {TEXT}", f"{number} {TEXT}"]))
    (tmp_path / "scan.pdf").write_bytes(pdf([""]))
    return tmp_path


def a_job(pattern: Path, **changes: Any) -> JobSpec:
    given = {"prompt": {"user": "Sum up: {document}"}, "max_tokens": 100, "name": "papers"}
    return job(pattern, **(given | changes))


def by_the_rule(found: Estimate) -> float:
    """Tokens of a prompt by the sizes of the snapshot."""
    snapshot = found.snapshot
    texts = snapshot.size_of_prompts - (snapshot.visual_tokens or 0)
    return (texts / 3.5 + (snapshot.visual_tokens or 0)) / snapshot.units


def test_pages_are_estimated_beside_the_same_as_text(
    sim: Simulator, make_pipeline: MakePipeline, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    pipeline = make_pipeline()
    found = estimate(pipeline, a_job(folder / "*.pdf"), PARTITION)
    assert found.snapshot.visual_tokens == (2 * PDFS + 1) * 1_600
    assert (
        found.snapshot.request_bytes > 6 * 1_000 > found.snapshot.size_of_prompts - 17_600 - 10_000
    )
    assert found.work.prompt.mean == pytest.approx(by_the_rule(found))
    assert "1,600 tokens a PDF page, a token for 28 by 28 pixels (assumptions)" in (
        found.tokens.prompt
    )
    ways = found.documents
    assert ways is not None
    assert (ways.pdfs, ways.pages, ways.without_text) == (6, 11, 1)
    assert ways.native_usd == found.batch.expected
    assert "6 PDFs, 11 pages: native $" in ways.told()
    assert as_json(found)["documents"]["pdf"]["declared"] == "native"

    given = {"path": str(folder / "*.pdf"), "pdf": {"as": "text"}}
    text = estimate(pipeline, a_job(folder, input=given), PARTITION)
    assert text.documents is not None
    # The scan is none of its requests; both ways are what the other declaration says of itself.
    assert float(text.batch.expected) == pytest.approx(float(ways.text_usd) * 5 / 6, rel=0.1)
    assert float(text.documents.native_usd) == pytest.approx(float(ways.native_usd), rel=0.25)
    assert text.documents.text_usd == text.batch.expected


def test_what_texts_have_measured_says_nothing_of_pages(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults, folder: Path
) -> None:
    run(make_pipeline(), job(write_rows(folder / "in.jsonl", documents(12))), PARTITION)
    counted = estimate(make_pipeline(), a_job(folder / "*.pdf"), PARTITION)
    assert counted.tokens.source == "count_tokens"
    # The simulator counts 1,600 a page, and a token for four bytes of its text.
    by_hand = (11 * 1_600 + 10 * len(TEXT) / 4) / 6
    assert counted.work.prompt.mean == pytest.approx(by_hand, rel=0.1)

    counts = "/v1/messages/count_tokens"
    faults.on_request = lambda request: (
        error(403, "permission_error") if request.url.path == counts else None
    )
    found = estimate(make_pipeline(), a_job(folder / "*.pdf"), PARTITION)
    assert found.tokens.source == "model"
    assert found.work.prompt.mean == pytest.approx(by_hand, rel=0.1)


def test_images_cost_their_pixels(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(image("PNG", 280 + number, 280))
    found = estimate(make_pipeline(), a_job(tmp_path / "*.png"), PARTITION)
    assert found.snapshot.visual_tokens == 10 * 10 + 11 * 10 + 11 * 10
    assert found.work.prompt.mean == pytest.approx(by_the_rule(found))
    assert found.documents is None
