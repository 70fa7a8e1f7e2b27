"""The rehearsal: an archive through the whole flow, against the simulator in a process of its own.

    make rehearsal N=1200000 TOKENS=3000
    make rehearsal N=100000 LEDGER=postgres HOME_AT=s3 WORKERS=2

prints what pipeline and simulator each took, the calls to the API, and the throughput that the
queue allows at given turnarounds; for a bucket also the requests by kind, for a ledger in
PostgreSQL also its rows and transactions. Several workers are processes on one night, each with a
temporary folder of its own. The input is written first, and removed with everything else at the
end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.corpus import declare, write_documents
from benchmarks.measure import (
    PIPELINE,
    Usage,
    books,
    cpu_seconds,
    environment,
    folder_bytes,
    listed,
    run_job,
    running,
)
from benchmarks.places import places

# The simulator counts a token for four bytes; a word of the corpus has six, its space included.
WORDS_PER_TOKEN = 0.62
FILE_DOCUMENTS = 50_000
# A walk through all files costs something itself.
DISK_SECONDS = 5.0
PROGRESS_SECONDS = 60.0
HOURS = (0.1, 0.5, 1.0, 3.6, 12.0, 24.0)


@dataclass
class Peak:
    """The largest size of a folder in bytes, among those at each `look`."""

    folder: Path
    bytes: int = 0

    def look(self) -> None:
        try:
            self.bytes = max(self.bytes, folder_bytes(self.folder))
        except OSError:  # a file went away meanwhile
            return


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    made.add_argument("--documents", type=int, default=100_000)
    made.add_argument("--tokens", type=int, default=3_000, help="of a document")
    made.add_argument("--queue-limit", type=int, default=200_000)
    made.add_argument("--turnaround", type=float, default=20.0, help="seconds of a batch, about")
    made.add_argument("--requests", type=int, default=10_000, help="of a batch at most")
    made.add_argument("--ledger", choices=("sqlite", "postgres"), default="sqlite")
    made.add_argument("--home-at", choices=("folder", "s3"), default="folder")
    made.add_argument("--workers", type=int, default=1, help="processes on the night")
    made.add_argument("--folder", help="where input, home and simulator lie; default: temporary")
    options = made.parse_args()
    if options.home_at == "s3" and options.ledger == "sqlite":
        made.error("a home in a bucket wants --ledger postgres")
    # A stop from outside is a Ctrl-C: what was started ends, and the folder is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="rehearsal_", dir=options.folder) as temporary:
        rehearse(options, Path(temporary))


def rehearse(options: argparse.Namespace, folder: Path) -> None:
    count, words = options.documents, max(1, round(options.tokens * WORDS_PER_TOKEN))
    start = time.perf_counter()
    source = _write_input(folder / "input", count, words)
    size = folder_bytes(source)
    print(
        f"input: {count:,} documents of about {options.tokens:,} tokens, {size / 1e9:.2f} GB of "
        f"Parquet, written in {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    limits = {"max_requests_per_batch": options.requests}
    further = {"limits": limits, "pilot": {"size": 100}, "spread": options.workers}
    jobs = declare(folder / "jobs", source / "*.parquet", **further)
    with (
        _simulator(options, folder / "simulator") as (url, simulator),
        places(options.home_at, options.ledger) as where,
    ):
        environ = environment(url, folder / "home", jobs, max_queued_requests=options.queue_limit)
        # With a home in a bucket the workers keep in folders of their own what they work on.
        ours_at = [folder / f"worker-{number}" for number in range(options.workers)]
        kept_at = [] if options.home_at == "s3" else [folder / "home"]
        peaks = [Peak(path) for path in (folder / "simulator", *kept_at, *ours_at)]
        with _watched(peaks):
            ours = _worked(options.workers, environ | where.environ, folder)
        where.show()
        counted = books(url)
        theirs = cpu_seconds(simulator)
        memory = _memory_peak(simulator)
    report = json.loads(ours.output[ours.output.index("\n{") :])
    _show(count, ours, peaks, theirs, memory, counted)
    assert report["complete"], report
    assert report["items"] == count, report
    assert not counted["billed_more_than_once"], "bought twice"
    _show_queue(options.queue_limit, count / ours.seconds)


def _worked(workers: int, environ: dict[str, str], folder: Path) -> Usage:
    """What workers on one night took together: the longest time, and sums of all else."""

    def work(number: int) -> Usage:
        temporary = folder / f"worker-{number}"
        temporary.mkdir()
        return run_job(environ | {"TMPDIR": str(temporary)}, "--json")

    with ThreadPoolExecutor(workers) as pool:
        each = list(pool.map(work, range(workers)))
    return Usage(
        max(usage.seconds for usage in each),
        sum(usage.cpu_seconds for usage in each),
        sum(usage.peak_bytes for usage in each),
        sum(usage.processes for usage in each),
        each[0].output,
    )


def _show(
    count: int, ours: Usage, peaks: list[Peak], theirs: float, memory: float, counted: Any
) -> None:
    simulator, *ours_at = (peak.bytes / 1e9 for peak in peaks)
    print(f"\n  {'':12}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'disk GB':>9}")
    print(
        f"  {'pipeline':12}{ours.seconds:9.0f}{ours.cpu_seconds:9.0f}{ours.peak_mb:9.0f}"
        f"{sum(ours_at):9.2f}"
    )
    print(f"  {'simulator':12}{'':9}{theirs:9.0f}{memory / 1e6:9.0f}{simulator:9.2f}")
    print(
        f"  disk: {', '.join(f'{peak.folder.name} {peak.bytes / 1e6:,.0f} MB' for peak in peaks)}"
    )
    calls = counted["calls"]
    print(f"  calls to the API: {sum(calls.values()):,} ({listed(calls)})")
    print(f"  batches: {counted['batches_created']:,}, highest queue: {counted['highest_queue']:,}")
    print(f"  {count / ours.seconds:,.0f} documents a second of wall time")
    print(f"  {1e6 * ours.cpu_seconds / count:,.0f} microseconds of CPU a document")


def _show_queue(limit: int, per_second: float) -> None:
    """Print the throughput at given turnarounds, which the queue or this machine bounds.

    The queue lets `limit` requests through in each turnaround.
    """
    print(f"\n  with a queue of {limit:,} requests and batches that take")
    for hours in HOURS:
        queue = limit / hours
        possible = min(queue, per_second * 3600)
        bound = "the queue" if queue < per_second * 3600 else "this machine"
        print(
            f"    {hours:5.1f} h: {possible:12,.0f} documents an hour, "
            f"{possible * 730 / 1e6:8.1f} million a month (bound by {bound})"
        )


def _write_input(folder: Path, count: int, words: int) -> Path:
    folder.mkdir()
    starts = range(0, count, FILE_DOCUMENTS)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        written = [
            pool.submit(
                write_documents,
                folder / f"{start:09}.parquet",
                min(FILE_DOCUMENTS, count - start),
                words,
                start,
            )
            for start in starts
        ]
        for future in written:
            future.result()
    return folder


def _simulator(
    options: argparse.Namespace, state: Path
) -> AbstractContextManager[tuple[str, psutil.Process]]:
    return running(
        PIPELINE, "simulator", "--port", "0", "--turnaround", str(options.turnaround),
        "--queue-limit", str(options.queue_limit), "--state-dir", str(state),
    )  # fmt: skip


@contextmanager
def _watched(peaks: list[Peak]) -> Iterator[None]:
    """Look at the folders' sizes every few seconds, and print them every minute."""
    done = threading.Event()

    def watch() -> None:
        start = said = time.monotonic()
        while not done.wait(DISK_SECONDS):
            for peak in peaks:
                peak.look()
            if time.monotonic() - said >= PROGRESS_SECONDS:
                said = time.monotonic()
                disk = ", ".join(f"{peak.folder.name} {peak.bytes / 1e9:.2f} GB" for peak in peaks)
                print(f"  after {said - start:.0f} s: at most {disk}", flush=True)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        for peak in peaks:
            peak.look()


def _memory_peak(process: psutil.Process) -> float:
    """The largest resident memory of a process in bytes, by the kernel's own account."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return float(line.split()[1]) * 1024
    return float(process.memory_info().rss)


if __name__ == "__main__":
    main()
