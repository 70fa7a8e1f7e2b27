"""(h) Preparing a night's input with and without each filter, and with near duplicates.

One process prepares all pieces of the input, one after the other; its start and imports count. Each
filter looks at every row, and every row is written, filtered or not. Near duplicates are searched
for in the signatures of all rows, at the end. These documents are hard for that search: they are
slices of one text, so that each overlaps hundreds of others.

On a machine that others use too, compare CPU times, not wall times and memory.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from batch_pipeline.flow.dataset.choosing.near_duplicates import twins
from batch_pipeline.flow.dataset.prepare import prepare
from batch_pipeline.flow.dataset.reading.listing import find_sources
from batch_pipeline.flow.dataset.reading.splits import pieces_of
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.jobs.spec import JobSpec
from benchmarks.corpus import MAX_TOKENS, MODEL, USER, write_documents
from benchmarks.measure import PYTHON, measured, parser, show

# Documents of about 2.4 kB.
WORDS = 365
THRESHOLD = 0.9


def _filters(**declared: Any) -> dict[str, Any]:
    return {"filters": declared}


WAYS: dict[str, dict[str, Any]] = {
    "no filter": {},
    "where: a length": _filters(where="length(text) > 10"),
    "where: words": _filters(where="len(string_split(text, ' ')) > 3"),
    "where: a pattern": _filters(where="not regexp_matches(text, '[0-9]{9}|etaoin shrdlu')"),
    "min_words, max_words": _filters(min_words=3, max_words=1_000_000),
    "languages": _filters(languages=["en"]),
    "all of them": _filters(where="length(text) > 10", min_words=3, languages=["en"]),
    "near duplicates": {"near_duplicates": {"threshold": THRESHOLD}},
}


def prepare_all(source: str, way: str) -> None:
    """Prepare an input, and remove the files of each piece."""
    spec = JobSpec(
        name="bench",
        input={"path": source},
        prompt={"user": USER},
        model_id=MODEL,
        max_tokens=MAX_TOKENS,
        **WAYS[way],
    )
    declaration = Declaration.of(spec)
    filtered = items = 0
    with tempfile.NamedTemporaryFile() as signatures:
        for number, piece in enumerate(pieces_of(find_sources(source, "all", {}))):
            with tempfile.TemporaryDirectory() as folder:
                done = prepare(number, piece, declaration, Path(folder), "none")
                if done.signatures is not None:
                    with done.signatures.open("rb") as part:
                        shutil.copyfileobj(part, signatures, 1 << 20)
            items += done.items
            filtered += done.set_aside.total()
        signatures.flush()
        if declaration.near_duplicates is not None:
            start = time.process_time()
            found = twins.find(Path(signatures.name), THRESHOLD, np.empty(0, np.int64))
            print(f"the search took {time.process_time() - start:.1f} s of CPU;", end=" ")
            filtered += len(found.ordinals)
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
