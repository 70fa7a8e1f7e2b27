"""(i) Prepare and submit PDFs of 30 pages: sent as they are, as their text, and as copies; scans.

PDFs are inspected in processes of their own, whose CPU time is not measured: compare the seconds,
on an idle machine. A scan has no text; its pages are pictures with the noise of paper, which makes
it about as large as a scanned contract.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pypdfium2 as pdfium
from PIL import Image

from batch_pipeline.cli.demo.demo_pdfs import pdf_of
from benchmarks.corpus import declare, documents
from benchmarks.measure import Usage, environment, parser, run_job, show, sink, verdict

PAGES, LINES, WORDS_PER_LINE = 30, 45, 12
SCANNED_PAGES, SCAN_SIDE = 12, 700
MEGABYTES = 800.0

WAYS: dict[str, dict[str, Any]] = {
    "native": {},
    "copied": {"keep": "copy"},
    "pages 1-10": {"pdf": {"pages": "1-10"}},
    "as text": {"pdf": {"as": "text"}},
}


def write_pdfs(folder: Path, count: int) -> None:
    """PDFs with a text of their own on each page."""
    folder.mkdir()
    words = LINES * WORDS_PER_LINE * PAGES
    for number, row in enumerate(documents(count, words)):
        (folder / f"{number:06}.pdf").write_bytes(pdf_of(_pages(row["text"].split())))


def _pages(words: list[str]) -> Iterator[list[str]]:
    lines = [" ".join(words[n : n + WORDS_PER_LINE]) for n in range(0, len(words), WORDS_PER_LINE)]
    for start in range(0, LINES * PAGES, LINES):
        yield lines[start : start + LINES]


def write_scans(folder: Path, count: int) -> None:
    """PDFs of pictures, of about a megabyte, each with bytes of its own."""
    folder.mkdir()
    size = SCAN_SIDE, SCAN_SIDE * 7 // 5
    pages = [Image.effect_noise(size, 20) for _ in range(SCANNED_PAGES)]
    whole = io.BytesIO()
    first, *others = pages
    first.save(whole, "PDF", save_all=True, append_images=others, quality=40)
    with pdfium.PdfDocument(whole.getvalue()) as document:
        assert len(document) == SCANNED_PAGES
    for number in range(count):
        (folder / f"{number:06}.pdf").write_bytes(whole.getvalue() + b"%% %d\n" % number)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--documents", type=int, default=400)
    options = made.parse_args()
    count = 12 if options.quick else options.documents
    ways: dict[str, tuple[Usage, int]] = {}
    with tempfile.TemporaryDirectory() as temporary, sink(turnaround=1e9) as url:
        folder = Path(temporary)
        write_pdfs(folder / "texts", count)
        write_scans(folder / "scans", count)
        runs = [(name, "texts", changes) for name, changes in WAYS.items()]
        for number, (name, source, changes) in enumerate([*runs, ("scans", "scans", {})]):
            wanted = {"path": str(folder / source / "*.pdf"), **changes}
            job = f"bench{number}"
            prompt = {"user": "Sum up this document in one sentence.\n\n{document}"}
            jobs = declare(folder / "jobs", "", job, input=wanted, prompt=prompt)
            environ = environment(url, folder / f"home{number}", jobs, max_queued_requests=10**9)
            usage = run_job(environ, "--no-wait", job=job)
            ways[name] = (usage, count)
        sizes = {
            name: sum(file.stat().st_size for file in (folder / name).iterdir()) / count / 1e3
            for name in ("texts", "scans")
        }
    show(
        f"(i) prepare and submit {count:,} PDFs: {PAGES} pages of text, {sizes['texts']:,.0f} kB; "
        f"scans of {SCANNED_PAGES} pages, {sizes['scans']:,.0f} kB",
        ways,
    )
    for name, (usage, _) in ways.items():
        print(f"  {name}: {1e3 * usage.seconds / count:.0f} ms a document, start included")
    most = max(usage.peak_mb for usage, _ in ways.values())
    verdict("MB", most, f"under {MEGABYTES:g}", met=most < MEGABYTES)


if __name__ == "__main__":
    main()
