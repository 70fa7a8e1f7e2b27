"""Small nights that are killed: at a given point, or again and again under a hostile API."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from batch_pipeline.simulator import Faults, Simulator, running_simulator
from batch_pipeline_tests.databases import cut_connections
from batch_pipeline_tests.end_to_end.crashes import crash_documents, crash_reading, crash_thrift
from batch_pipeline_tests.end_to_end.crashes.crash_books import Figures, check
from batch_pipeline_tests.end_to_end.crashes.crash_points import Fatal
from batch_pipeline_tests.end_to_end.crashes.crash_processes import (
    COMPLETE,
    NOT_COMPLETE,
    Forks,
    Work,
)
from batch_pipeline_tests.support import PARTITION, documents, make_late, write_rows

# Item 7 and item 11 are asked again, item 9 never gets an answer.
_REQUESTS = {
    "matching": [
        {"contains": "document number 7 ", "outcome": "overloaded_error", "attempts": 1},
        {"contains": "document number 11 ", "outcome": "expired", "attempts": 1},
        {"contains": "document number 9 ", "outcome": "invalid_request_error"},
    ]
}
PLAIN = Faults.of(requests=_REQUESTS)
# A batch is refused for item 9, which is named, and for item 20, which is not.
REFUSING = Faults.of(
    requests=_REQUESTS,
    refused_bodies=[
        {"contains": "document number 9 ", "names_row": True},
        {"contains": "document number 20 "},
    ],
)
LIST_LAG_SECONDS = 0.4
HOSTILE = Faults.of(
    create={
        "chances": [
            {"probability": 0.08, "fault": {"kind": "drop"}},
            {"probability": 0.08, "fault": {"kind": "error", "status": 529, "accepted": True}},
            {"probability": 0.05, "fault": {"kind": "unreadable"}},
            {"probability": 0.05, "fault": {"kind": "drop", "when": "before"}},
            {"probability": 0.05, "fault": {"kind": "drop", "when": "at_once", "reset": True}},
            {"probability": 0.05, "fault": {"kind": "error", "status": 500}},
            {"probability": 0.05, "fault": {"kind": "queue_full", "retry_after": 0.2}},
            {"probability": 0.15, "fault": {"kind": "normal", "delay_after": 0.7}},
            {"probability": 0.1, "fault": {"kind": "normal", "delay_before": 0.3}},
        ]
    },
    list={
        "lag": {"seconds": LIST_LAG_SECONDS},
        "chances": [{"probability": 0.1, "fault": {"kind": "cut"}}],
    },
    retrieve={
        "not_found_after_create": {"seconds": 0.2},
        "not_found_after_end": {"seconds": 0.2},
    },
    results={
        "chances": [
            {"probability": 0.1, "fault": {"kind": "cut", "at": "line_end", "end": "clean"}},
            {"probability": 0.1, "fault": {"kind": "cut"}},
            {"probability": 0.1, "fault": {"kind": "lines", "duplicated": 1}},
        ],
        "unavailable_after_end": {"seconds": 0.2},
    },
    requests={
        **_REQUESTS,
        "chances": [{"probability": 0.05, "outcome": "overloaded_error", "attempts": 1}],
    },
    foreign_batches={"probability": 0.3, "when": "both"},
)
# Longer than a freeze may keep a body half sent, and than the list lags.
HOSTILE_RECONCILE_SECONDS = 2.5
HOSTILE_LEASE_SECONDS = 0.5
MOST_RUNS = 40


@contextmanager
def a_night(
    folder: Path,
    faults: Faults,
    *,
    items: int,
    turnaround: float = 0.0,
    seed: int = 0,
    caching: str | None = None,
    documents_as: str | None = None,
) -> Iterator[tuple[Simulator, Work, dict[str, list[dict[str, Any]]]]]:
    """A simulator, and the work on a night of so many documents and one that cannot be sent.

    With `caching` the two nights of `crash_thrift`, with `documents_as` a night of
    `crash_documents`.
    """
    folder.mkdir(parents=True)
    rows = {PARTITION: documents(items)}
    if caching is not None:
        rows = crash_thrift.documents_of(crash_thrift.NIGHTS)
    if documents_as is not None:
        crash_documents.write_documents(
            folder / crash_documents.NOW, folder / crash_documents.THEN, rows[PARTITION]
        )
    for of_night in rows.values():
        of_night.append({"id": "no text", "text": None, "file": None})
    with running_simulator(turnaround=turnaround, seed=seed, faults=faults) as sim:
        work = Work(
            url=sim.url,
            folder=str(folder),
            pilot=3,
            pilot_via="realtime",
            requests_per_batch=9,
            queue=20,
            lease_seconds=0.3,
            reconcile_seconds=0.3,
            caching=caching,
            documents=documents_as,
        )
        for night, of_night in rows.items():
            write_rows(work.source(night), of_night)
        yield sim, work, rows


def killed_at(
    forks: Forks,
    folder: Path,
    fatal: int | None,
    *,
    pilot_via: str = "realtime",
    faults: Faults = PLAIN,
    documents_as: str | None = None,
) -> tuple[Figures, list[str]]:
    """A night whose first process dies at its point number `fatal`, and that a second completes.

    Returns the points of the first process as well; with None it dies at none.
    """
    with a_night(folder, faults, items=30, documents_as=documents_as) as (sim, planned, rows):
        work = replace(planned, pilot_via=pilot_via)
        code = forks.wait(forks.start(work, "first", fatal))
        points = work.trace("first").read_text().splitlines()
        figures = Figures()
        if fatal is None or len(points) < fatal:
            assert code == COMPLETE, work.log.read_text()
        else:
            assert code == -signal.SIGKILL, work.log.read_text()
            figures.kills = figures.restarts = 1
            code = forks.wait(forks.start(work))
            assert code == COMPLETE, f"after {points[-1]}\n{work.log.read_text()}"
        figures.add(check(sim, work, rows))
        assert not figures.repeated_beside, "it was not in flight"
        assert figures.calls_repeated <= figures.kills * work.pilot
        return figures, points


def reading_killed_at(
    forks: Forks,
    folder: Path,
    fatal: Fatal | None,
    *,
    then: Sequence[Fatal] = (),
    home_by_url: bool = False,
) -> tuple[Figures, list[str]]:
    """An input whose first worker dies at a point, further ones at points of their own, and that
    two others read to its end, at the same time: to the byte what one worker makes of it.

    Returns the points of the first worker as well; with None it dies at none.
    """
    with a_night(folder, PLAIN, items=0) as (_, planned, _):
        work = replace(
            planned,
            input_only=True,
            spread=2,
            home_by_url=home_by_url,
            ledger_url=f"sqlite:///{folder}/ledger.sqlite",
            # Of a dead holder the process is known to be gone. A heartbeat would be a point that
            # comes at any moment.
            lease_seconds=60.0,
        )
        write_rows(work.source(PARTITION), crash_reading.rows())
        deaths = () if fatal is None else (fatal, *then)
        for number, each in enumerate(deaths):
            code = forks.wait(forks.start(work, str(number), each))
            assert code == -signal.SIGKILL, f"not at {each}: {code}\n{work.log.read_text()}"
        if not deaths:
            assert forks.wait(forks.start(work, "0")) == NOT_COMPLETE, work.log.read_text()
        both = [forks.start(work), forks.start(work)]
        assert {forks.wait(each) for each in both} == {NOT_COMPLETE}, work.log.read_text()
        alone = replace(
            work, spread=1, home_name="one", ledger_url=f"sqlite:///{folder}/one.sqlite"
        )
        assert forks.wait(forks.start(alone)) == NOT_COMPLETE, work.log.read_text()
        shared, by_one = (
            crash_reading.files_of_snapshot(each.pipeline(), each.spec()) for each in (work, alone)
        )
        assert shared == by_one, f"after {deaths}"
        kills = len(deaths)
        figures = Figures(readings=1, kills=kills, restarts=kills + 1 if kills else 0)
        return figures, work.trace("0").read_text().splitlines()


def killed_in_turn(forks: Forks, folder: Path, deaths: Sequence[tuple[str, int]]) -> Figures:
    """A night whose processes die one after another, each at the n-th of its points of a name."""
    with a_night(folder, PLAIN, items=30) as (sim, work, rows):
        die_in_turn(forks, work, deaths)
        assert forks.wait(forks.start(work)) == COMPLETE, work.log.read_text()
        figures = Figures(kills=len(deaths), restarts=len(deaths))
        figures.add(check(sim, work, rows))
        assert not figures.repeated_beside, "it was not in flight"
        assert figures.calls_repeated <= work.pilot
        return figures


def die_in_turn(forks: Forks, work: Work, deaths: Sequence[tuple[str, int]]) -> None:
    for name, number in deaths:
        code = forks.wait(forks.start(work, name, (name, number)))
        assert code == -signal.SIGKILL, f"{number} times {name}: {code}\n{work.log.read_text()}"


def ledger_lost(
    forks: Forks,
    folder: Path,
    fatal: int,
    *,
    caching: str | None = None,
    documents_as: str | None = None,
) -> Figures:
    """A night, or the two of `crash_thrift`, whose process dies at a point, if it gets that far,
    and that loses its ledger then. Another recovers it, and completes the night."""
    with a_night(folder, PLAIN, items=30, caching=caching, documents_as=documents_as) as found:
        sim, planned, rows = found
        # Real-time calls that are in flight may be made again.
        work = replace(planned, pilot_via="batch")
        figures = Figures()
        if forks.wait(forks.start(work, "first", fatal)) == -signal.SIGKILL:
            figures.kills = figures.restarts = 1
        for file in work.home.glob("ledger.sqlite*"):
            file.unlink()
        code = forks.wait(forks.start(replace(work, recover=True)))
        assert code == COMPLETE, work.log.read_text()
        figures.add(check(sim, work, rows))
    return figures


def taken_over(forks: Forks, folder: Path, deaths: Sequence[tuple[str, int]]) -> Figures:
    """As `killed_in_turn`, of a night whose slow batches real time takes over; two processes at a
    time bring it to its end.

    Two of its batches are at the API, one waits for room.
    """
    with a_night(folder, PLAIN, items=30) as (sim, planned, rows):
        sim.hold()
        sim.set_done_at_cancel(0.4)
        work = replace(planned, mode="auto")
        assert forks.wait(forks.start(replace(work, wait=False))) == NOT_COMPLETE
        pipeline = work.pipeline()
        make_late(pipeline, PARTITION, seconds=60)
        pipeline.ledger.close()
        die_in_turn(forks, work, deaths)
        both = [forks.start(work), forks.start(work)]
        assert {forks.wait(each) for each in both} == {COMPLETE}, work.log.read_text()
        figures = Figures(kills=len(deaths), restarts=len(deaths))
        figures.add(check(sim, work, rows))
        assert figures.calls_repeated <= len(deaths) * work.concurrency
        # What was not sent, and what came back, was not made into batches again.
        assert figures.batches == 2
        return figures


def caching_of(seed: int) -> str | None:
    """Every second night that is hunted declares all of `crash_thrift`, in turn with each way of
    caching."""
    return {1: "auto", 3: "5m"}.get(seed % 4)


def hunted(
    forks: Forks,
    folder: Path,
    seed: int,
    *,
    blows: int,
    ledger_url: str | None = None,
    documents_as: str | None = None,
) -> Figures:
    """A night of two submitters under a hostile API, killed and frozen at random moments.

    A ledger in PostgreSQL loses its connections at times. A process that ended with a message is
    started again, as a person would. The blows stop once the night is complete.
    """
    dice = random.Random(seed)
    caching = caching_of(seed) if documents_as is None else None
    with a_night(
        folder,
        HOSTILE,
        items=60,
        turnaround=0.4,
        seed=seed,
        caching=caching,
        documents_as=documents_as,
    ) as (sim, planned, rows):
        work = replace(
            planned,
            pilot_via=dice.choice(["realtime", "batch"]),
            lease_seconds=HOSTILE_LEASE_SECONDS,
            reconcile_seconds=HOSTILE_RECONCILE_SECONDS,
            ledger_url=ledger_url,
        )
        figures = pursued(forks, work, dice, blows)
        figures.add(check(sim, work, rows))
    return figures


def pursued(forks: Forks, work: Work, dice: random.Random, blows: int) -> Figures:
    """A night that two processes take to its end under so many blows."""
    figures = Figures()
    if work.documents is not None:
        # They change afterwards: a second process that reads them then makes a snapshot of its own.
        assert forks.wait(forks.start(replace(work, input_only=True))) == NOT_COMPLETE
    workers = [forks.start(work), forks.start(work)]
    for _ in range(blows):
        time.sleep(dice.uniform(0.02, 0.6))
        number = dice.randrange(len(workers))
        code = forks.ended(workers[number])
        if code == COMPLETE:
            workers.pop(number)
            break
        if code is None and work.ledger_url is not None and dice.random() < 0.3:
            figures.cuts += cut_connections(work.ledger_url)
            continue
        if code is None and dice.random() < 0.5:
            _freeze(workers[number], dice.uniform(1.2, 2.5) * work.lease_seconds)
            figures.freezes += 1
            continue
        if code is None:
            os.kill(workers[number], signal.SIGKILL)
            killed = forks.wait(workers[number]) == -signal.SIGKILL
            figures.kills += killed
        workers[number] = forks.start(work)
        figures.restarts += 1
    for worker in workers:
        figures.restarts += _to_the_end(forks, work, worker)
    figures.restarts += _to_the_end(forks, work, forks.start(work))
    return figures


def _to_the_end(forks: Forks, work: Work, worker: int) -> int:
    """Wait until a night is complete; returns how often a process had to be started again."""
    for restarts in range(MOST_RUNS):
        code = forks.wait(worker)
        if code == COMPLETE:
            return restarts
        assert code in (1, NOT_COMPLETE), code
        worker = forks.start(work)
    raise AssertionError(f"not complete after {MOST_RUNS} runs\n{work.log.read_text()}")


def _freeze(pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)
