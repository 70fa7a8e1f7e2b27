"""The pictures of the documentation, taken of the demo's nights by Chromium.

`python scripts/pictures.py` runs the demo's two jobs under Dagster against a simulator, in a folder
of its own, and writes docs/images/: Dagster's UI, a cost report, and the page of a pilot.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
from PIL import Image

from batch_pipeline.cli.commands.demo import JOB, PDF_JOB
from batch_pipeline.cli.demo.demo_corpus import collect_documents
from batch_pipeline.cli.demo.demo_pdfs import make_pdfs
from batch_pipeline.definitions import defs
from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow.pilot.page import SUFFIX
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.partitions.demo_start import INPUT, NIGHTS, PDFS
from batch_pipeline.jobs.partitions.partitions import SINGLE_KEY, all_keys
from batch_pipeline.jobs.yaml_files.loading import load_job
from batch_pipeline.settings import PACKAGED_JOBS, Settings
from batch_pipeline.simulator import running_simulator
from batch_pipeline_tests.orchestration.nightly import Nightly
from batch_pipeline_tests.orchestration.test_page_in_browser import webserver
from batch_pipeline_tests.reporting import browser

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 1_200
MOST_BYTES = 200_000
# One document is enough for a picture of the pilot's page.
LEAVE_ONE_ITEM = """
for (const each of document.querySelectorAll(".item ~ .item, footer")) each.remove();
document.getElementById("answers").parentElement.remove();
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, running_simulator(turnaround=0.0) as simulator:
        home = Path(folder) / "home"
        os.environ |= {"ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": simulator.url}
        os.environ |= {"BATCH_PIPELINE_HOME": str(home), "BATCH_PIPELINE_POLL_SECONDS": "0.1"}
        dagster_home = Path(folder) / "dagster"
        newest = run_nights(home, dagster_home)
        pilot = run_pilot(home)
        program = browser.installed()
        assert program is not None, "Chromium is not installed"
        with webserver(dagster_home, PACKAGED_JOBS) as url, browser.running(program) as page:
            night = f"view=partitions&partition={newest}"
            page.open(f"{url}/assets/{JOB}/cost_report?{night}", width=1_400)
            page.wait_for("What do I do?")
            save("dagster_ui.png", page, width=1_400, height=900)
            page.open(home / JOB / "reports" / f"{newest}.html", width=WIDTH)
            save("cost_report.png", page, height=900)
            page.open(pilot, width=WIDTH)
            page.value(LEAVE_ONE_ITEM)
            save("pilot_page.png", page, height=2_400)


def run_nights(home: Path, dagster_home: Path) -> str:
    """Run the demo's nights under Dagster; returns the newest one's partition."""
    spec = load_job(PACKAGED_JOBS / JOB / "defs.yaml")
    nights = all_keys(spec.partitions, datetime.now(UTC))[-NIGHTS:]
    collect_documents(home / INPUT, nights)
    dagster_home.mkdir()
    settings = "telemetry: {enabled: false}\nnux: {enabled: false}\n"
    (dagster_home / "dagster.yaml").write_text(settings, encoding="utf-8")
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        job = Nightly(JOB, defs(), instance)
        for night in nights:
            assert job.launch(night).success
        job.run_to_the_end(*nights)
    return nights[-1]


def run_pilot(home: Path) -> Path:
    """Run the demo's job over PDFs up to its review; returns the page of its pilot."""
    make_pdfs(home / PDFS)
    with Pipeline(Settings.from_environment()) as pipeline:
        job = load_job(PACKAGED_JOBS / PDF_JOB / "defs.yaml")
        pilot = job.pilot.model_copy(update={"review": "required"})
        with contextlib.suppress(GateClosedError):
            run(pipeline, job.model_copy(update={"pilot": pilot}), SINGLE_KEY)
    return home / PDF_JOB / "reports" / f"{SINGLE_KEY}{SUFFIX}"


def save(name: str, page: browser.Page, *, width: int = WIDTH, height: int) -> None:
    """Write the upper part of an open page as a PNG of 64 colours."""
    whole = page.value("document.body.getBoundingClientRect().height")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, whole), "scale": 1}
    shot = page.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    small = io.BytesIO()
    picture.quantize(64).save(small, "PNG", optimize=True)
    assert small.tell() <= MOST_BYTES, f"{name}: {small.tell():,} bytes are too many"
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / name).write_bytes(small.getvalue())
    print(f"{IMAGES / name}: {small.tell():,} bytes")


if __name__ == "__main__":
    main()
