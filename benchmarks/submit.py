"""(a) Prepare and submit: from an input file to batches at the API, against the plain SDK way."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.corpus import declare, write_documents
from benchmarks.measure import (
    PLAIN,
    environment,
    measured,
    parser,
    run_job,
    show,
    sink,
    verdict,
)

FASTER, OF_MEMORY = 3.0, 0.25


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--documents", type=int, default=200_000)
    made.add_argument(
        "--words", type=int, default=1_850, help="words of a document; 1,850 are 3,000 tokens"
    )
    made.add_argument("--max-requests", type=int, default=100_000, help="of a batch, both ways")
    options = made.parse_args()
    count = 2_000 if options.quick else options.documents
    with tempfile.TemporaryDirectory() as temporary, sink(turnaround=1e9) as url:
        folder = Path(temporary)
        source = write_documents(folder / "input.jsonl", count, options.words)
        limits = {"max_requests_per_batch": options.max_requests}
        jobs = declare(folder / "jobs", source, limits=limits)
        environ = environment(url, folder / "home", jobs, max_queued_requests=10**9)
        plain = measured(
            [*PLAIN, str(source), "--max-requests", str(options.max_requests)],
            environ,
        )
        ours = run_job(environ, "--no-wait")
        size = source.stat().st_size / 1e6
    show(
        f"(a) prepare and submit {count:,} documents of {options.words:,} words, {size:,.0f} MB",
        {"plain SDK": (plain, count), "batch-pipeline": (ours, count)},
    )
    faster = plain.seconds / ours.seconds
    verdict("times as fast", faster, f"at least {FASTER:g}", met=faster >= FASTER)
    memory = ours.peak_bytes / plain.peak_bytes
    verdict("of its memory", memory, f"at most {OF_MEMORY:g}", met=memory <= OF_MEMORY)


if __name__ == "__main__":
    main()
