"""(h) Preparing a night's input with and without each filter.

One process prepares all pieces of the input, one after the other, as the processes of a pool do:
start and imports are part of it. Each filter looks at every row, and every row is written, filtered
or not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from batch_pipeline.flow.dataset.prepare import prepare
from batch_pipeline.flow.dataset.reading.listing import find_sources
from batch_pipeline.flow.dataset.reading.splits import pieces_of
from batch_pipeline.flow.dataset.requests import Declaration
from batch_pipeline.jobs.spec import JobSpec
from benchmarks.corpus import MAX_TOKENS, MODEL, USER, write_documents
from benchmarks.measure import PYTHON, measured, parser, show

# Documents of about 2.4 kB.
WORDS = 365
WAYS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "where: a length": {"where": "length(text) > 10"},
    "where: words": {"where": "len(string_split(text, ' ')) > 3"},
    "where: a pattern": {"where": "not regexp_matches(text, '[0-9]{9}|etaoin shrdlu')"},
    "min_words, max_words": {"min_words": 3, "max_words": 1_000_000},
    "languages": {"languages": ["en"]},
    "all of them": {"where": "length(text) > 10", "min_words": 3, "languages": ["en"]},
}


def prepare_all(source: str, way: str) -> None:
    """Prepare an input, and remove what is written piece by piece."""
    spec = JobSpec(
        name="bench",
        input={"path": source},
        prompt={"user": USER},
        model_id=MODEL,
        max_tokens=MAX_TOKENS,
        filters=WAYS[way],
    )
    declaration = Declaration.of(spec)
    filtered = items = 0
    for number, piece in enumerate(pieces_of(find_sources(source, "all", {}))):
        with tempfile.TemporaryDirectory() as folder:
            done = prepare(number, piece, declaration, Path(folder), "none")
        items += done.items
        filtered += done.set_aside.total()
    print(f"{filtered:,} of {items:,} filtered")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--documents", type=int, default=200_000)
    made.add_argument("--source", help="the input of one way (the benchmark itself sets it)")
    made.add_argument("--way", choices=WAYS, help="prepare --source this way, and no other")
    options = made.parse_args()
    if options.way:
        prepare_all(options.source, options.way)
        return
    count = 1_000 if options.quick else options.documents
    ways = {}
    with tempfile.TemporaryDirectory() as temporary:
        source = write_documents(Path(temporary) / "input.jsonl", count, WORDS)
        size = source.stat().st_size / count
        for way in WAYS:
            command = [PYTHON, "-m", "benchmarks.filters", "--source", str(source), "--way", way]
            usage = measured(command)
            ways[way] = (usage, count)
            print(f"  {way}: {usage.output.strip()}", flush=True)
    show(f"(h) preparing {count:,} documents of {size:,.0f} bytes, one process", ways)
    plain = ways["no filter"][0].cpu_seconds
    for way, (usage, _) in ways.items():
        print(f"  {way}: {1e6 * (usage.cpu_seconds - plain) / count:+.1f} µs of CPU a document")


if __name__ == "__main__":
    main()
