"""Runs a night in processes of its own, some of them killed; for `test_night_processes`.

One interpreter loads everything once and forks: a process per attempt costs milliseconds then, not
the seconds of its imports. It is a program of its own because pytest's process has threads.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

import batch_pipeline_tests.folder_as_bucket  # noqa: F401  # homes with `bucket://`
from batch_pipeline.api import client  # noqa: F401  # loaded before the forks
from batch_pipeline.errors import UsageError
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.redrive import redrive
from batch_pipeline.flow.run import run
from batch_pipeline_tests.support import PARTITION, job, settings


@dataclass(frozen=True)
class Plan:
    """Kill one process after each delay (seconds), then let `together` run to the end."""

    url: str
    source: str
    home: str
    kill_after: tuple[float, ...] = ()
    together: int = 1
    pilot: int = 0
    ledger_url: str = ""
    # Redrive dead letters first; each process but the last dies right after its first call of one
    # of these functions ("module.function").
    redrive: bool = False
    die_after: tuple[str, ...] = ()


def main() -> int:
    """Carry out the plans on standard input, one a line, and answer each with a line."""
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(orjson.dumps(_carry_out(Plan(**orjson.loads(line)))) + b"\n")
        sys.stdout.flush()
    return 0


def _carry_out(plan: Plan) -> dict[str, Any]:
    killed = 0
    for delay in plan.kill_after:
        child = _fork(plan)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
    for function in plan.die_after:
        _, status = os.waitpid(_fork(plan, function), 0)
        killed += os.WIFSIGNALED(status)
    codes = [os.waitpid(child, 0)[1] for child in [_fork(plan) for _ in range(plan.together)]]
    return {"killed": killed, "codes": codes}


def _die_after(function: str) -> None:
    module, name = function.rsplit(".", 1)
    honest = getattr(sys.modules[module], name)

    def last(*arguments: Any, **named: Any) -> None:
        honest(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(sys.modules[module], name, last)


def _fork(plan: Plan, die_after: str | None = None) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        os.environ |= {"ANTHROPIC_API_KEY": "any", "ANTHROPIC_BASE_URL": plan.url}
        try:
            changes = {"ledger_url": plan.ledger_url} if plan.ledger_url else {}
            night = settings(plan.home, lease_seconds=0.4, reconcile_seconds=0.4, **changes)
            spec = job(
                Path(plan.source),
                limits={"max_requests_per_batch": 6},
                pilot={"size": plan.pilot, "via": "batch", "max_error_rate": 1},
            )
            if die_after is not None:
                _die_after(die_after)
            if plan.redrive:
                # Refused where a former process had recorded it: `run` goes on with it.
                with contextlib.suppress(UsageError):
                    redrive(Pipeline(night), spec, PARTITION)
            code = 0 if run(Pipeline(night), spec, PARTITION).complete else 2
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            raise
        finally:
            os._exit(code)
    return child


if __name__ == "__main__":
    sys.exit(main())
