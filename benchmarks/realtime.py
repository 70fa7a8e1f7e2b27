"""Real time: calls a second against what the server allows, memory at two sizes, kills at random.

The server is the simulator, which takes 50 ms for a message. What it allows is its concurrency
divided by that time, or its rate limit: a full bucket and what is refilled from the first call on,
to the last. What the command does before and after counts in the share of the whole run.
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
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.corpus import declare, write_documents
from benchmarks.measure import (
    PIPELINE,
    Usage,
    environment,
    measured,
    parser,
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
    made.add_argument("--kills", type=int, default=0, help="instead: killed so often, then checked")
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
    kept = Limited(folder / "requests", limited, "rpm", LIMIT, "billed_requests")
    tokens = Limited(folder / "tokens", limited, "itpm", TOKEN_LIMIT, "input_tokens")
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
            print(f"  {one.of_run:.2f} of a limit of {name}, start and report included")
            reached = one.of_calls
            target = f"at least {OF_LIMIT:g}"
            verdict(f"of a limit of {name}", reached, target, met=reached >= OF_LIMIT)
    flat = many.peak_bytes / few.peak_bytes
    verdict("memory at four times the size", flat, f"at most {FLAT:g}", met=flat <= FLAT)


def run(folder: Path, count: int, *options: str) -> Usage:
    folder.mkdir(parents=True)
    with simulator(*options) as url:
        return measured([PIPELINE, "run", "bench"], environ(folder, count, url))


class Limited:
    """A run under a limit a minute of one kind, which `books` counts under a name."""

    def __init__(self, folder: Path, count: int, option: str, limit: int, name: str) -> None:
        folder.mkdir(parents=True)
        done = threading.Event()
        # When the books first showed a call, and when the last change.
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
                self.usage = measured([PIPELINE, "run", "bench"], environ(folder, count, url))
            finally:
                done.set()
                watcher.join()
            found = books(url)
        used = found.get(name) or found["billed_tokens"][name]
        self.least_seconds = max(0, used - limit) / (limit / 60)
        self.of_run = self.least_seconds / self.usage.seconds
        self.of_calls = self.least_seconds / (changes[-1][0] - changes[0][0] + LOOK_SECONDS)


def simulator(*options: str):  # type: ignore[no-untyped-def]
    return server(PIPELINE, "simulator", "--port", "0", "--latency", str(LATENCY), *options)


def environ(folder: Path, count: int, url: str, **settings: object) -> dict[str, str]:
    source = write_documents(folder / "input.parquet", count, WORDS)
    realtime = {"concurrency": CONCURRENCY, "checkpoint_every": 500}
    jobs = declare(folder / "jobs", source, mode="realtime", realtime=realtime)
    return environment(url, folder / "home", jobs, **settings)


def killed(folder: Path, count: int, kills: int) -> None:
    """Kill the night again and again, let the last one end, and look into the server's books."""
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
        last = measured([PIPELINE, "run", "bench", "--json"], environment_of)
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


def books(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/simulator/books?contents=false") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


if __name__ == "__main__":
    main()
