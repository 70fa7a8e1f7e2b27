"""Runs a night in processes of its own, some of them killed; for `test_night_processes`.

One interpreter loads everything once and forks: a process per attempt costs milliseconds then, not
the seconds of its imports. It is a program of its own because pytest's process has threads.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401  # loaded before the forks
import genai_prices  # noqa: F401
import orjson

from batch_pipeline.api import client  # noqa: F401
from batch_pipeline.errors import UsageError
from batch_pipeline.flow.control.redrive import redrive
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline_tests.support import PARTITION, job, settings


@dataclass(frozen=True)
class Plan:
    """Redrive dead letters in processes of which each but the last dies right after its first call
    of one of these functions ("module.function"); the last runs to the end."""

    url: str
    source: str
    home: str
    die_after: tuple[str, ...]


def main() -> int:
    """Carry out the plans on standard input, one a line, and answer each with a line."""
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(orjson.dumps(_carry_out(Plan(**orjson.loads(line)))) + b"\n")
        sys.stdout.flush()
    return 0


def _carry_out(plan: Plan) -> dict[str, Any]:
    killed = 0
    for function in plan.die_after:
        _, status = os.waitpid(_fork(plan, function), 0)
        killed += os.WIFSIGNALED(status)
    _, code = os.waitpid(_fork(plan), 0)
    return {"killed": killed, "code": code}


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
            night = settings(plan.home, lease_seconds=0.4, reconcile_seconds=0.4)
            spec = job(
                Path(plan.source),
                limits={"max_requests_per_batch": 6},
                pilot={"size": 0, "max_error_rate": 1},
            )
            if die_after is not None:
                _die_after(die_after)
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
