"""Logs of the package: as lines for people, or with `BATCH_PIPELINE_LOG_FORMAT=json` as objects.

Belongs here: how a record is written, and what a record says of the work that it comes from (job,
partition, account, run), which each step sets by `context`. That no record holds a secret is seen
to by `safe_text`.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from typing import TypeVar

from batch_pipeline import safe_text, telemetry
from batch_pipeline.errors import UsageError

Result = TypeVar("Result")

FORMAT = "BATCH_PIPELINE_LOG_FORMAT"
PACKAGE = "batch_pipeline"
# What a record may say of the work that it comes from.
FIELDS = ("job", "partition", "account", "run")

_work: ContextVar[dict[str, str] | None] = ContextVar("batch_pipeline_work", default=None)


def wants_json() -> bool:
    """Whether records are written as JSON; UsageError where the variable holds something else."""
    wanted = os.environ.get(FORMAT, "").strip().lower() or "text"
    if wanted not in ("text", "json"):
        raise UsageError(f"{FORMAT} must be text or json, not {wanted!r}.")
    return wanted == "json"


@contextmanager
def context(**fields: str | None) -> Iterator[None]:
    """Let the records of the block say of which job, partition, account or run they are.

    Inner blocks add to outer ones. Threads see it that are started by `inherited`.
    """
    token = _work.set({**(_work.get() or {}), **{k: v for k, v in fields.items() if v is not None}})
    try:
        yield
    finally:
        _work.reset(token)


def inherited(work: Callable[[], Result]) -> Callable[[], Result]:
    """`work` for another thread, where its records and spans belong to what is under way here."""
    return functools.partial(copy_context().run, work)


class JsonFormatter(logging.Formatter):
    """A record as one JSON object in a line.

    `time` (ISO 8601, UTC), `level`, `logger`, `message`; `job`, `partition`, `account` and `run`
    where known; `trace_id` and `span_id` within a span; `error` with type, message and trace.
    """

    def format(self, record: logging.LogRecord) -> str:
        import orjson  # noqa: PLC0415  # text needs none

        found: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": safe_text.one_line(record.getMessage()),
        }
        work = _work.get() or {}
        found |= {name: safe_text.one_line(work[name]) for name in FIELDS if name in work}
        found |= telemetry.ids()
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            found["error"] = {
                "type": type(error).__name__,
                "message": safe_text.lines(str(error)),
                "trace": safe_text.lines("".join(traceback.format_exception(error))),
            }
        return safe_text.json_text(orjson.dumps(found).decode())


def formatter(text: str, date: str | None = None) -> logging.Formatter:
    """The formatter that the environment asks for; `text` is the format of lines for people."""
    return JsonFormatter() if wants_json() else safe_text.Formatter(text, date)


def to_stderr() -> None:
    """Write the package's records to stderr as JSON, where that is asked for; once a process.

    For processes whose logging another program has set up, such as Dagster's: its own event log has
    the records of steps all the same.
    """
    logger = logging.getLogger(PACKAGE)
    if not wants_json() or any(isinstance(h.formatter, JsonFormatter) for h in logger.handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)
