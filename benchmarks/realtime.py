"""Real time: calls a second against what the server allows, memory at two sizes, kills at random.

The server is the simulator, which takes 50 ms for a message. Without a rate limit, the most that it
allows is the concurrency divided by that time. With one, it is a full bucket and what is refilled
between the first call and the last. The share of the whole run also counts what the command does
before and after its calls.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.corpus import declare, write_documents
from benchmarks.measure import (
    PIPELINE,
    Usage,
    books,
    environment,
    parser,
    run_job,
    server,
    show,
    verdict,
)

LATENCY, CONCURRENCY, WORDS = 0.05, 200, 200
# Requests, or input tokens, a minute of the limited servers.
LIMIT, TOKEN_LIMIT = 6_000, 2_000_000
OF_LIMIT, FLAT = 0.9, 1.25
LOOK_SECONDS = 0.1
FAULTS = {
    "messages": {
        "chances": [
            {"probability": 0.005, "fault": {"kind": "error", "status": 529}},
            {"probability": 0.005, "fault": {"kind": "error", "status": 500}},
            {"probability": 0.002, "fault": {"kind": "error", "status": 429, "retry_after": 0.2}},
            {"probability": 0.002, "fault": {"kind": "drop", "when": "before"}},
        ]
    }
}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--documents", type=int, default=40_000)
    made.add_argument(
        "--kills",
        type=int,
        default=0,
        help="instead of speeds: kill a night this number of times, then check its books",
    )
    options = made.parse_args()
    count = 2_000 if options.quick else options.documents
    with tempfile.TemporaryDirectory() as temporary:
        if options.kills:
            killed(Path(temporary), count, options.kills)
        else:
            speeds(Path(temporary), count)


def speeds(folder: Path, count: int) -> None:
    few, many = (run(folder / str(size), size) for size in (count // 4, count))
    limited = 3 * LIMIT // 2 if count > LIMIT else count
    kept = run_limited(folder / "requests", limited, "rpm", LIMIT, "billed_requests")
    tokens = run_limited(folder / "tokens", limited, "itpm", TOKEN_LIMIT, "input_tokens")
    show(
        f"real time, {CONCURRENCY} calls at once of {LATENCY:g} s each",
        {
            f"{count // 4:,} documents": (few, count // 4),
            f"{count:,} documents": (many, count),
            f"{LIMIT:,} a minute": (kept.usage, limited),
            f"{TOKEN_LIMIT:,} tokens a minute": (tokens.usage, limited),
        },
    )
    allowed = CONCURRENCY / LATENCY
    print(f"  {count / many.seconds / allowed:.2f} of the {allowed:,.0f} calls/s without a limit")
    print(f"  {count / many.cpu_seconds:,.0f} documents per second of processor time, all told")
    for name, one in (("requests", kept), ("tokens", tokens)):
        if one.least_seconds:
            of_run = one.least_seconds / one.usage.seconds
            print(f"  {of_run:.2f} of a limit of {name}, start and report included")
            reached = one.least_seconds / one.calling_seconds
            target = f"at least {OF_LIMIT:g}"
            verdict(f"of a limit of {name}", reached, target, met=reached >= OF_LIMIT)
    flat = many.peak_bytes / few.peak_bytes
    verdict("memory at four times the size", flat, f"at most {FLAT:g}", met=flat <= FLAT)


def run(folder: Path, count: int) -> Usage:
    folder.mkdir(parents=True)
    with simulator() as url:
        return run_job(environ(folder, count, url))


@dataclass(frozen=True)
class LimitedRun:
    """A run under a rate limit.

    `least_seconds` is what the limit needs for what was used, 0 if a full bucket was enough;
    `calling_seconds` passed between the first call and the last.
    """

    usage: Usage
    least_seconds: float
    calling_seconds: float


def run_limited(folder: Path, count: int, option: str, limit: int, counted_as: str) -> LimitedRun:
    """Run under a limit a minute, `--messages-OPTION`; the books count its use as `counted_as`."""
    folder.mkdir(parents=True)
    done = threading.Event()
    # (time, billed requests) at each change that the books showed.
    changes: list[tuple[float, int]] = []

    def watch(url: str) -> None:
        while not done.wait(LOOK_SECONDS):
            billed = books(url)["billed_requests"]
            if billed and (not changes or billed != changes[-1][1]):
                changes.append((time.perf_counter(), billed))

    with simulator(f"--messages-{option}", str(limit)) as url:
        watcher = threading.Thread(target=watch, args=(url,))
        watcher.start()
        try:
            usage = run_job(environ(folder, count, url))
        finally:
            done.set()
            watcher.join()
        found = books(url)
    used = found.get(counted_as) or found["billed_tokens"][counted_as]
    calling_seconds = changes[-1][0] - changes[0][0] + LOOK_SECONDS
    return LimitedRun(usage, max(0, used - limit) / (limit / 60), calling_seconds)


def simulator(*options: str) -> AbstractContextManager[str]:
    return server(PIPELINE, "simulator", "--port", "0", "--latency", str(LATENCY), *options)


def environ(folder: Path, count: int, url: str, **settings: object) -> dict[str, str]:
    source = write_documents(folder / "input.parquet", count, WORDS)
    realtime = {"concurrency": CONCURRENCY, "checkpoint_every": 500}
    jobs = declare(folder / "jobs", source, mode="realtime", realtime=realtime)
    return environment(url, folder / "home", jobs, **settings)


def killed(folder: Path, count: int, kills: int) -> None:
    """Kill a night `kills` times, run it to its end, and check the simulator's books."""
    faults = folder / "faults.json"
    faults.write_text(json.dumps(FAULTS))
    chance = random.Random(count)
    with simulator("--faults", str(faults)) as url:
        environment_of = environ(folder, count, url, lease_seconds=2)
        started = time.perf_counter()
        for _ in range(kills):
            process = subprocess.Popen(
                [PIPELINE, "run", "bench"],
                env={**os.environ, **environment_of},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            before = books(url)["billed_requests"]
            while process.poll() is None and books(url)["billed_requests"] == before:
                time.sleep(0.2)
            time.sleep(chance.uniform(1, 8))
            process.send_signal(signal.SIGKILL)
            process.wait()
        last = run_job(environment_of, "--json")
        seconds = time.perf_counter() - started
        found = books(url)
    start = last.output.index("{\n")
    # What is logged comes before the report, and may come after it.
    report, _ = json.JSONDecoder().raw_decode(last.output, start)
    twice, again = (len(found[name]) for name in ("billed_more_than_once", "bought_again"))
    print(
        f"{count:,} documents in {seconds:.0f} s, killed {kills} times: complete "
        f"{report['complete']}, succeeded {report['succeeded']:,}; billed "
        f"{found['billed_requests']:,}, {twice} twice; peak {last.peak_mb:.0f} MB of the last run; "
        f"faults {found['faults']}"
    )
    verdict("billed twice, and not in flight at a kill nor lost", again, "0", met=not again)


if __name__ == "__main__":
    main()
