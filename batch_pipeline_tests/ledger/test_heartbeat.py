"""Signs of life from a thread of their own."""

from __future__ import annotations

import threading

from batch_pipeline.ledger.database.ledger import Ledger
from batch_pipeline.ledger.processes import heartbeat
from batch_pipeline.ledger.processes.heartbeat import beating

PATIENCE_SECONDS = 20.0


def test_a_beat_that_fails_is_tried_again() -> None:
    failures = iter([OSError("no space left"), RuntimeError("the database was restarted")])
    beats = threading.Event()

    def beat() -> bool:
        for error in failures:
            raise error
        beats.set()
        return True

    with beating("beat", 0.01, beat):
        assert beats.wait(PATIENCE_SECONDS)


def test_no_beat_comes_after_the_one_that_says_no() -> None:
    ended = threading.Event()

    def beat() -> bool:
        assert not ended.is_set()
        ended.set()
        return False

    with beating("last beat", 0.01, beat):
        assert ended.wait(PATIENCE_SECONDS)
        for thread in threading.enumerate():
            if thread.name == "last beat":
                thread.join(PATIENCE_SECONDS)
                assert not thread.is_alive()


def test_a_run_counts_as_alive_while_its_block_lasts_and_a_lease_longer(ledger: Ledger) -> None:
    def until() -> float | None:
        with ledger.read() as connection:
            return heartbeat.alive_until(connection, ["run"]).get("run")

    assert until() is None
    with heartbeat.alive(ledger, "run", 60.0):
        begun = until()
    ended = until()
    assert begun is not None
    assert ended is not None
    assert ended >= begun
