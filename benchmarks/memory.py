"""(c) Peak memory of the whole `run`, at two sizes, ten times apart."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.corpus import declare, write_documents
from benchmarks.measure import (
    Usage,
    environment,
    folder_bytes,
    parser,
    run_job,
    show,
    sink,
    verdict,
)

MEGABYTES, GROWTH = 800.0, 1.10


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--documents", type=int, default=50_000, help="the smaller size")
    made.add_argument("--times", type=int, default=10, help="the larger size, of the smaller")
    made.add_argument("--words", type=int, default=400)
    options = made.parse_args()
    small = 2_000 if options.quick else options.documents
    sizes = (small, small * options.times)
    runs: dict[str, tuple[Usage, int]] = {}
    for count in sizes:
        with tempfile.TemporaryDirectory() as temporary, sink() as url:
            folder = Path(temporary)
            source = write_documents(folder / "input.jsonl", count, options.words)
            jobs = declare(folder / "jobs", source)
            environ = environment(url, folder / "home", jobs, workers=2)
            usage = run_job(environ)
            runs[f"{count:,} documents"] = (usage, count)
            disk = folder_bytes(folder / "home") / source.stat().st_size
            print(f"home after {count:,}: {disk:.2f} of the input's bytes", flush=True)
    show(f"(c) peak memory of `run`, documents of {options.words:,} words", runs)
    first, second = (usage for usage, _ in runs.values())
    verdict("MB", second.peak_mb, f"under {MEGABYTES:g}", met=second.peak_mb < MEGABYTES)
    growth = second.peak_bytes / first.peak_bytes
    verdict("growth", growth, f"under {GROWTH:.2f}", met=growth < GROWTH)


if __name__ == "__main__":
    main()
