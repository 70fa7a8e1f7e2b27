"""Proof by killing: small nights that die at every point, and at random under a hostile API.

    make crash-test                                      the whole of it, an hour or more
    python scripts/crash_test.py --every 10 --every-reading 6 --nights 3 --hurried 2 --documents 2 \
        --postgres 2 --elsewhere 2 --dagster 1 --spread 1

Prints a table of what was done and found, after Ctrl-C of what was done until then. What failed is
named with the point or the seed that repeats it, its folder (with the processes' log) is kept, and
the exit code is 1. What is checked stands in
`batch_pipeline_tests/end_to_end/crashes/crash_books.py`, what it shows in `docs/crash-safety.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from batch_pipeline_tests.databases import emptied, running_postgres  # noqa: E402
from batch_pipeline_tests.end_to_end.celery_machines import running_redis  # noqa: E402
from batch_pipeline_tests.end_to_end.crashes.crash_books import Figures  # noqa: E402
from batch_pipeline_tests.end_to_end.crashes.crash_dagster import hunted_under_dagster  # noqa: E402
from batch_pipeline_tests.end_to_end.crashes.crash_documents import KEPT, REFERENCE  # noqa: E402
from batch_pipeline_tests.end_to_end.crashes.crash_elsewhere import hunted_elsewhere  # noqa: E402
from batch_pipeline_tests.end_to_end.crashes.crash_hurried import (  # noqa: E402
    hunted_before_deadline,
    hunted_in_real_time,
)
from batch_pipeline_tests.end_to_end.crashes.crash_nights import (  # noqa: E402
    caching_of,
    hunted,
    killed_at,
    ledger_lost,
    reading_killed_at,
)
from batch_pipeline_tests.end_to_end.crashes.crash_processes import Forks, forking  # noqa: E402
from batch_pipeline_tests.end_to_end.crashes.crash_spread import hunted_over_a_bucket  # noqa: E402

BLOWS = 25
DAGSTER_BLOWS = 8
SPREAD_BLOWS = 8
HUNTS = {
    "hunted, two at once": hunted,
    "hunted, with a deadline": hunted_before_deadline,
    "hunted, in real time": hunted_in_real_time,
}
# What is killed at each point: nights by their pilot's way and their documents; and a worker of an
# input that several read, whose home is a folder, or is reached by its URL alone.
NIGHTS = {
    "pilot: realtime": killed_at,
    "pilot: batch": partial(killed_at, pilot_via="batch"),
    "pilot: realtime, documents, reference": partial(killed_at, documents_as=REFERENCE),
    "pilot: batch, documents, kept": partial(killed_at, pilot_via="batch", documents_as=KEPT),
}
READINGS = {
    "shared reading": reading_killed_at,
    "shared reading, by URL": partial(reading_killed_at, home_by_url=True),
}
# Of the 480 points or more of a night with documents: from the first of these on the API has some
# of it. A ledger that is lost before knows of nothing bought, and the input is read as it is then.
SENT_FROM, SENT_TO = 200, 450
ROWS = {
    "kills": "processes killed (SIGKILL)",
    "freezes": "processes frozen (SIGSTOP) beyond their lease",
    "cuts": "connections to PostgreSQL cut",
    "restarts": "processes started in their place",
    "nights": "nights completed and checked",
    "readings": "inputs that several workers took, the same as one worker makes",
    "batches": "batches made",
    "requests": "requests taken in, retries included",
    "faults": "faults of the API (lost answers, 404s, cut results, …)",
    "foreign_batches": "batches of other tenants, of the same size",
    "taken_over": "batches that real time took over",
    "filtered": "rows that a filter dropped",
    "reused": "rows with an answer of the night before",
    "near_duplicates": "rows with the answer of a near duplicate",
    "escalated": "requests that a stronger model was asked for too",
    "changed_documents": "rows whose document had changed, or was gone, when it was to be sent",
    "bought_twice_in_batches": "answers bought twice in batches",
    "calls_repeated": "real-time calls bought twice (in flight at a blow, or answer lost)",
    "repeated_beside": "of them, in flight in a process that was frozen",
}


class Tally:
    """Carries attempts out, each in a folder of its own, and keeps what came of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.columns: dict[str, Figures] = {}
        self.failures: list[str] = []

    def attempt(self, column: str, name: str, work: Callable[[Path], Figures]) -> None:
        folder = self._folder / name
        try:
            figures = work(folder)
        except Exception:  # noqa: BLE001  # whatever it is: the figures so far are not lost
            said = traceback.format_exc()[-2_000:]
            self.failures.append(f"{name}: {said}\n  kept: {folder}")
            print(self.failures[-1], file=sys.stderr, flush=True)
            return
        shutil.rmtree(folder)
        self.columns.setdefault(column, Figures()).add(figures)

    def table(self) -> str:
        head = ["", *self.columns]
        lines = [head, ["---", *["--:"] * len(self.columns)]]
        for field, label in ROWS.items():
            values = [getattr(figures, field) for figures in self.columns.values()]
            lines.append([label, *[f"{value:,}" for value in values]])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="kill at each n-th point; 0: at none")
    parser.add_argument("--every-reading", type=int, default=1, help="of a shared input's reading")
    parser.add_argument("--first", type=int, default=1, help="number of the first such point")
    parser.add_argument("--nights", type=int, default=40, help="nights that are hunted")
    parser.add_argument("--hurried", type=int, default=20, help="with a deadline; in real time")
    parser.add_argument("--documents", type=int, default=20, help="as many of each, of documents")
    parser.add_argument("--postgres", type=int, default=20, help="as many, ledger in PostgreSQL")
    parser.add_argument("--elsewhere", type=int, default=20, help="as many, before another API")
    parser.add_argument("--dagster", type=int, default=10, help="pairs of nights under Dagster")
    parser.add_argument("--spread", type=int, default=10, help="nights over a bucket, by Celery")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first of them; odd: with all of crash_thrift"
    )
    arguments = parser.parse_args()
    tally = Tally(Path(tempfile.mkdtemp(prefix="crash_test_")))
    started = time.monotonic()
    with forking() as forks, contextlib.suppress(KeyboardInterrupt):
        for kinds, every in ((NIGHTS, arguments.every), (READINGS, arguments.every_reading)):
            for kind, killed in kinds.items() if every else ():
                sweep(kind, partial(killed, forks), tally, arguments.first, every)
        for kind, hunt in HUNTS.items():
            nights = arguments.nights if hunt is hunted else arguments.hurried
            for seed in range(arguments.seed, arguments.seed + nights):
                work = partial(hunt, forks, seed=seed, blows=BLOWS)
                tally.attempt(kind, f"{hunt.__name__}-{seed}", work)
                progress(f"{kind}: seed {seed}")
        for seed in range(arguments.seed, arguments.seed + arguments.documents):
            hunt_with_documents(forks, tally, seed)
        if arguments.postgres:
            hunt_on_postgres(forks, tally, arguments.seed, arguments.postgres)
        for seed in range(arguments.seed, arguments.seed + arguments.elsewhere):
            work = partial(hunted_elsewhere, forks, seed=seed, blows=BLOWS)
            tally.attempt("hunted, another API", f"elsewhere-seed-{seed}", work)
            progress(f"hunted night with seed {seed}, before another API")
        for seed in range(arguments.seed, arguments.seed + arguments.dagster):
            work = partial(
                hunted_under_dagster, seed=seed, blows=DAGSTER_BLOWS, caching=caching_of(seed)
            )
            tally.attempt("hunted, under Dagster", f"dagster-seed-{seed}", work)
            progress(f"nights under Dagster with seed {seed}")
        if arguments.spread:
            hunt_over_a_bucket(tally, arguments.seed, arguments.spread)
    print(tally.table())
    minutes = (time.monotonic() - started) / 60
    print(f"\n{minutes:.0f} minutes, {len(tally.failures)} failures")
    return 1 if tally.failures else 0


def hunt_with_documents(forks: Forks, tally: Tally, seed: int) -> None:
    """Every second night keeps its documents."""
    documents_as = (REFERENCE, KEPT)[seed % 2]
    for kind, hunt in HUNTS.items():
        work = partial(hunt, forks, seed=seed, blows=BLOWS, documents_as=documents_as)
        tally.attempt(f"{kind}, documents", f"documents-{hunt.__name__}-{seed}", work)
        progress(f"{kind}: seed {seed}, with documents ({documents_as})")
    fatal = SENT_FROM + 97 * seed % (SENT_TO - SENT_FROM)
    lose = partial(ledger_lost, forks, fatal=fatal, documents_as=documents_as)
    tally.attempt("ledger lost, documents", f"documents-ledger-lost-{seed}", lose)


def hunt_on_postgres(forks: Forks, tally: Tally, first_seed: int, nights: int) -> None:
    with running_postgres() as server:
        for seed in range(first_seed, first_seed + nights):
            for kind, hunt in HUNTS.items():
                url = emptied(server)
                work = partial(hunt, forks, seed=seed, blows=BLOWS, ledger_url=url)
                tally.attempt(f"{kind}, PostgreSQL", f"postgres-{hunt.__name__}-{seed}", work)
                progress(f"{kind}: seed {seed}, ledger in PostgreSQL")


def hunt_over_a_bucket(tally: Tally, first_seed: int, nights: int) -> None:
    """Two machines that have a PostgreSQL, a bucket and a Redis in common."""
    with running_postgres() as server:
        for seed in range(first_seed, first_seed + nights):

            def work(folder: Path, seed: int = seed) -> Figures:
                folder.mkdir(parents=True)
                with running_redis(folder) as redis:
                    return hunted_over_a_bucket(
                        folder / "night", emptied(server), redis, seed=seed, blows=SPREAD_BLOWS
                    )

            tally.attempt("spread over a bucket", f"spread-seed-{seed}", work)
            progress(f"night spread over a bucket with seed {seed}")


def sweep(
    kind: str,
    killed: Callable[[Path, int | None], tuple[Figures, list[str]]],
    tally: Tally,
    first: int,
    every: int,
) -> None:
    """Kill at each point that an undisturbed process passes."""
    points: list[str] = []

    def die(folder: Path, fatal: int | None) -> Figures:
        figures, reached = killed(folder, fatal)
        if fatal is None:
            points.extend(reached)
        return figures

    name = kind.translate({ord(" "): "-", ord(":"): None, ord(","): None})
    column = f"killed at a point, {kind}"
    tally.attempt(column, f"{name}-undisturbed", partial(die, fatal=None))
    for fatal in range(first, len(points) + 1, every):
        tally.attempt(column, f"{name}-{fatal}", partial(die, fatal=fatal))
        if (fatal - first) % (20 * every) == 0:
            progress(f"{kind}: point {fatal} of {len(points)}")


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
