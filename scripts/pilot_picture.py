"""The picture of a pilot's page in the README: the demo's PDFs, looked at by Chromium.

`python scripts/pilot_picture.py` runs the demo's job over PDFs against a simulator, in a folder of
its own, and writes docs/images/pilot_page.png.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import tempfile
from pathlib import Path

from PIL import Image

from batch_pipeline.cli.commands.demo import PDF_JOB
from batch_pipeline.cli.demo.demo_pdfs import make_pdfs
from batch_pipeline.errors import GateClosedError
from batch_pipeline.flow.pilot.page import SUFFIX
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.jobs.partitions.demo_start import PDFS
from batch_pipeline.jobs.partitions.partitions import SINGLE_KEY
from batch_pipeline.jobs.yaml_files.loading import load_job
from batch_pipeline.settings import PACKAGED_JOBS, Settings
from batch_pipeline.simulator import running_simulator
from batch_pipeline_tests.reporting import browser

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "pilot_page.png"
WIDTH, MOST_HEIGHT = 1_200, 2_400
MOST_BYTES = 200_000
# One document is enough for a picture.
LEAVE_ONE = """
for (const each of document.querySelectorAll(".item ~ .item, footer")) each.remove();
document.getElementById("answers").parentElement.remove();
document.querySelector("main").getBoundingClientRect().height
"""


def pilot_page(home: Path) -> Path:
    """Run the demo's job over PDFs up to its review; returns the page of its pilot."""
    make_pdfs(home / PDFS)
    with running_simulator(turnaround=0.0) as simulator:
        os.environ |= {"ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": simulator.url}
        os.environ |= {"BATCH_PIPELINE_HOME": str(home), "BATCH_PIPELINE_POLL_SECONDS": "0.1"}
        with Pipeline(Settings.from_environment()) as pipeline:
            job = load_job(PACKAGED_JOBS / PDF_JOB / "defs.yaml")
            pilot = job.pilot.model_copy(update={"review": "required"})
            with contextlib.suppress(GateClosedError):
                run(pipeline, job.model_copy(update={"pilot": pilot}), SINGLE_KEY)
    return home / PDF_JOB / "reports" / f"{SINGLE_KEY}{SUFFIX}"


def taken(page: Path) -> bytes:
    """The upper part of a page as a PNG of 64 colours."""
    program = browser.installed()
    assert program is not None, "Chromium is not installed"
    with browser.running(program) as opened:
        opened.open(page, width=WIDTH)
        height = min(MOST_HEIGHT, opened.value(LEAVE_ONE))
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        shot = opened.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    small = io.BytesIO()
    picture.quantize(64).save(small, "PNG", optimize=True)
    return small.getvalue()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        picture = taken(pilot_page(Path(folder) / "home"))
    assert len(picture) <= MOST_BYTES, f"{len(picture):,} bytes are too many"
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(picture)
    print(f"{PICTURE}: {len(picture):,} bytes")


if __name__ == "__main__":
    main()
