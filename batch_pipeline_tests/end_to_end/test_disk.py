"""Homes on a disk that is full or read-only, and what a power cut would leave of a home."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import LedgerError, StorageError, UsageError
from batch_pipeline.flow.batches import submission
from batch_pipeline.flow.costs.cost_report import write_report
from batch_pipeline.flow.run import run
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.simulator import Simulator
from batch_pipeline.storage import storage_errors
from batch_pipeline_tests.end_to_end.crashes.crash_books import check
from batch_pipeline_tests.end_to_end.crashes.crash_nights import PLAIN, a_night
from batch_pipeline_tests.end_to_end.crashes.crash_processes import Work
from batch_pipeline_tests.end_to_end.durability import Durability
from batch_pipeline_tests.support import PARTITION, submissions_of, write_rows

DISK_BYTES = 2_000_000
TOLD = (StorageError, LedgerError, UsageError)
# Room left for a night, in bytes: a night of this size needs some 500 kB.
ROOMS = (0, 60_000, 120_000, 180_000, 240_000, 300_000, 360_000, 420_000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, where the machine allows to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not _mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)):
        pytest.skip("this machine does not allow to mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> bool:
    with contextlib.suppress(OSError):
        return (
            subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0
        )
    return False


@dataclass(frozen=True)
class Planned:
    """A night to be carried out, and what it is compared with."""

    sim: Simulator
    work: Work
    rows: dict[str, list[dict[str, Any]]]

    def check(self) -> None:
        check(self.sim, self.work, self.rows)


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planned]:
    """A night of 30 plain items that is planned and not begun."""
    with a_night(tmp_path / "night", PLAIN, items=30) as (sim, work, rows):
        monkeypatch.setenv("ANTHROPIC_API_KEY", "any")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", sim.url)
        yield Planned(sim, replace(work, pilot_via="batch"), rows)


def carry_out(work: Work) -> None:
    """A night from its input to its report, in this process; its errors told as to a person."""
    pipeline, spec = work.pipeline(), work.spec()
    try:
        state = run(pipeline, spec, PARTITION)
        write_report(pipeline, spec, state.night)
        assert state.complete
    except Exception as error:
        raise storage_errors.explain(error, str(work.home)) or error from error
    finally:
        pipeline.ledger.close()


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes of a disk free."""
    room = os.statvfs(disk)
    size = room.f_bavail * room.f_frsize - left
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(max(size, 0)))
    return filler


def test_a_full_disk_stops_a_night_and_loses_nothing(
    night: Planned, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A little more room each time: it runs out at one place after the other."""
    monkeypatch.setattr(submission, "insisting", lambda write: write)  # nobody makes room meanwhile
    _move_to(disk, night.work)
    told = []
    for left in ROOMS:
        filler = fill(disk, left)
        try:
            carry_out(night.work)
        except TOLD as error:
            told.append(str(error))
        filler.unlink()
    assert len(told) >= 2
    assert [text for text in told if "room" in text or "full" in text or "space" in text] == told
    carry_out(night.work)
    night.check()


def test_a_read_only_home_stops_a_night_and_loses_nothing(night: Planned, disk: Path) -> None:
    _move_to(disk, night.work)
    assert _mount("-o", "remount,ro", str(disk))
    with pytest.raises(TOLD):
        carry_out(night.work)
    assert _mount("-o", "remount,rw", str(disk))

    night.sim.hold()
    pipeline = night.work.pipeline()
    run(pipeline, night.work.spec(), PARTITION, wait=False)
    assert [s.state for s in submissions_of(pipeline)] == [State.ACCEPTED]
    pipeline.ledger.close()
    night.sim.release()
    assert _mount("-o", "remount,ro", str(disk))
    with pytest.raises(TOLD, match=r"read-?only|cannot be"):
        carry_out(night.work)
    assert _mount("-o", "remount,rw", str(disk))
    carry_out(night.work)
    night.check()


def _move_to(disk: Path, work: Work) -> None:
    (disk / "home").mkdir()
    work.home.symlink_to(disk / "home")


@pytest.mark.parametrize("pilot_via", ["realtime", "batch"])
def test_a_power_cut_takes_nothing_back_that_the_ledger_speaks_of(
    night: Planned, monkeypatch: pytest.MonkeyPatch, pilot_via: str
) -> None:
    work = replace(night.work, pilot_via=pilot_via)
    durability = Durability(work.home, monkeypatch)
    carry_out(work)
    check(night.sim, work, night.rows)
    # Everything is built anew: files go, others come.
    night.rows[PARTITION].pop()
    write_rows(work.source(PARTITION), night.rows[PARTITION])
    carry_out(work)
    assert durability.commits > 20
    assert durability.files_checked > 100
    assert sorted(durability.lost) == []
