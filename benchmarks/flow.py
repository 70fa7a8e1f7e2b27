"""(e) The whole flow, from an input file to results, against the plain SDK way."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.corpus import declare, write_documents
from benchmarks.measure import PLAIN, environment, measured, parser, run_job, show, sink, verdict

FASTER = 1.5
# The default of a job: a tenth of the night, at most a hundred requests, goes first.
PILOT = {"size": 100}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--documents", type=int, default=20_000)
    made.add_argument("--words", type=int, default=400)
    made.add_argument("--answer-characters", type=int, default=200)
    options = made.parse_args()
    count = 300 if options.quick else options.documents
    characters = ("--answer-characters", str(options.answer_characters))
    with tempfile.TemporaryDirectory() as temporary, sink(1.0, *characters) as url:
        folder = Path(temporary)
        source = write_documents(folder / "input.jsonl", count, options.words)
        declare(folder / "jobs", source)
        jobs = declare(folder / "jobs", source, "piloted", pilot=PILOT)
        environ = environment(url, folder / "home", jobs)
        plain = measured(
            [*PLAIN, str(source), "--results", str(folder / "plain.jsonl")],
            environ,
        )
        ours = run_job(environ)
        ways = {"plain SDK": (plain, count), "batch-pipeline": (ours, count)}
        if not options.quick:
            piloted = run_job(environ, job="piloted")
            ways["with a pilot of 100"] = (piloted, count)
    show(
        f"(e) the whole flow, {count:,} documents of {options.words:,} words, "
        "poll interval and turnaround of one second",
        ways,
    )
    faster = plain.seconds / ours.seconds
    verdict("times as fast", faster, f"at least {FASTER:g}", met=faster >= FASTER)


if __name__ == "__main__":
    main()
