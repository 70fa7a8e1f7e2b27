"""A shard sent call by call through the Messages API: how a pilot gets its answers in minutes.

A call in flight at a kill may be billed and asked again; the API leaves no way to find it. Every
other answer is in the journal before it counts.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import orjson
import tenacity

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import AccountError
from batch_pipeline.flow import breaker, budget, manifests, paths, snapshots
from batch_pipeline.flow.journal import Journal, read_lines
from batch_pipeline.flow.outcomes import Action, is_refused_as_busy, of_call_failure
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.requests import (
    Declaration,
    RequestBuilder,
    custom_id,
    parse_custom_id,
)
from batch_pipeline.flow.submission import heartbeat
from batch_pipeline.spec import JobSpec
from batch_pipeline.state import admission, nights, submissions
from batch_pipeline.state.admission import Waiting
from batch_pipeline.state.nights import Night, Shard
from batch_pipeline.state.submissions import State

log = logging.getLogger(__name__)

# Tries of one call in a row: the API may be busy for minutes, an error of its own is asked thrice.
BUSY_TRIES = 8
ERROR_TRIES = 3
LONGEST_PAUSE_SECONDS = 60.0


def send_calls(pipeline: Pipeline, spec: JobSpec, night: Night, shard: Shard) -> Waiting | None:
    """Ask for every request of a real-time shard that has no answer in the journal yet.

    Returns why it waits, or None once all are answered and the submission has ended. Raises
    AccountError where going on is useless: a key, a bill, a model.
    """
    limits = budget.limits(pipeline, spec, night)
    with pipeline.ledger.write() as connection:
        intent = admission.begin_calls(
            connection, night, shard, pipeline.owner, limits, breaker.gate(spec.alerts)
        )
    if isinstance(intent, Waiting):
        return intent
    submission = intent.submission
    if submission.state is State.ENDED:
        return None
    with pipeline.ledger.read() as connection:
        snapshot = nights.get_snapshot(connection, shard.snapshot_id)
    declaration = Declaration.from_json(snapshot.declaration)
    builder = RequestBuilder(declaration)
    manifest = manifests.read(pipeline.files, shard.manifest)
    ordinals = manifest.column("ordinal").to_pylist()
    rooms = manifest.column("max_tokens").to_pylist()
    folder = paths.raw_realtime(night.job, night.partition)
    done = {
        known[1]
        for line in read_lines(pipeline.files, folder, submission.token)
        if (known := parse_custom_id(orjson.loads(line)["custom_id"]))
    }
    left = [number for number in range(len(ordinals)) if number not in done]
    rows = snapshots.read_inputs(pipeline.files, snapshot, [ordinals[n] for n in left])
    stopped = threading.Event()
    name = f"{submission.token}-{submission.fence}"

    def call(number: int, row: bytes) -> None:
        # A process that was frozen must not ask what another has taken over meanwhile.
        if stopped.is_set() or not lease.held():
            return
        result = _result_of(pipeline, builder.rebuild(row, rooms[number]), declaration)
        journal.append(
            orjson.dumps({"custom_id": custom_id(submission.token, number), "result": result})
        )

    with (
        heartbeat(pipeline, submission) as lease,
        Journal(pipeline.files, folder, name, spec.realtime.checkpoint_every) as journal,
        ThreadPoolExecutor(spec.realtime.concurrency) as pool,
    ):
        pending: set[Future[None]] = set()
        try:
            for number, row in zip(left, rows, strict=True):
                if len(pending) >= spec.realtime.concurrency:
                    pending = _next(pending)
                pending.add(pool.submit(call, number, row))
            while pending:
                pending = _next(pending)
        finally:
            stopped.set()
        if not lease.held():
            return Waiting("another process has taken it over", shard.requests)
    with pipeline.ledger.write() as connection:
        submissions.end(connection, submission)
    return None


def _next(pending: set[Future[None]]) -> set[Future[None]]:
    """Wait for a call to end; raises what it raised."""
    done, left = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return left


def _result_of(pipeline: Pipeline, params: bytes, declaration: Declaration) -> dict[str, Any]:
    """The outcome of one call in the shape of a batch's result, passing faults waited out."""
    try:
        message = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes),
            wait=_pause,
            stop=_enough,
            reraise=True,
        )(pipeline.api.create_message, params, declaration.betas)
    except ApiFailure as failure:
        outcome = of_call_failure(failure)
        if outcome.action is Action.STOP:
            raise AccountError(
                f"The API refuses to go on: {failure}. Check the key, the account's billing and "
                "model_id, then run again."
            ) from failure
        error = {"type": outcome.error_type, "message": outcome.error_message}
        attempted = not is_refused_as_busy(failure)
        return {
            "type": "errored",
            "error": {"type": "error", "error": error},
            "attempted": attempted,
        }
    return {"type": "succeeded", "message": message}


def _passes(error: BaseException) -> bool:
    return isinstance(error, ApiFailure) and of_call_failure(error).action is Action.RETRY


def _enough(state: tenacity.RetryCallState) -> bool:
    failure = state.outcome.exception() if state.outcome else None
    busy = isinstance(failure, ApiFailure) and is_refused_as_busy(failure)
    return state.attempt_number >= (BUSY_TRIES if busy else ERROR_TRIES)


def _pause(state: tenacity.RetryCallState) -> float:
    failure = state.outcome.exception() if state.outcome else None
    if isinstance(failure, ApiFailure) and failure.retry_after is not None:
        return min(failure.retry_after, LONGEST_PAUSE_SECONDS)
    return tenacity.wait_random_exponential(multiplier=0.5, max=LONGEST_PAUSE_SECONDS)(state)
