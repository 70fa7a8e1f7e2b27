"""A night from its input to its end in one process: what the command line does.

Run again after a crash, an interrupt or a `--no-wait`, it goes on from where the night stands.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import AccountError, BatchPipelineError
from batch_pipeline.flow import steps
from batch_pipeline.flow.batches.submission import Submitted
from batch_pipeline.flow.gates import retirement
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import alerts, night_state, warnings
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import admission
from batch_pipeline.ledger.admission import Waiting
from batch_pipeline.ledger.night_state import Kind, NightState
from batch_pipeline.ledger.nights import Night

log = logging.getLogger(__name__)

# Refusals of a key, one after the other, until a person is asked: one may be the API's slip.
MOST_REFUSALS = 3

Watch = Callable[[Progress], None]

# A step can take long (an upload, a download), and a poll's pause too: what is shown goes on.
WATCH_SECONDS = 60.0


def run(
    pipeline: Pipeline,
    spec: JobSpec,
    partition: str,
    *,
    wait: bool = True,
    resume: bool = False,
    watch: Watch | None = None,
) -> Progress:
    """Run a night to its end, or without `wait` as far as it goes now.

    `watch` is told of the night after each step, and once a minute whatever happens, from another
    thread. Raises GateClosedError where the pilot's gate is closed, the circuit breaker open or the
    budget used up, and AccountError or ApiError where only a person can help; what is at the API by
    then is collected first. A night that is held is collected and left.
    """
    night = _begin(pipeline, spec, partition, resume=resume)
    with _watched(pipeline, night, watch) as told:
        return _run(pipeline, spec, night, told, wait=wait)


@contextmanager
def _watched(pipeline: Pipeline, night: Night, watch: Watch | None) -> Iterator[Watch]:
    """`watch`, told of the night at intervals as well, as long as the block lasts."""
    if watch is None:
        yield lambda _: None
        return
    told, done = watch, threading.Event()

    def go_on() -> None:
        while not done.wait(WATCH_SECONDS):
            try:
                told(steps.progress(pipeline, night))
            except Exception as error:  # noqa: BLE001  # what is shown must not stop what is done
                log.debug("%s %s: no progress to show: %s", night.job, night.partition, error)

    thread = threading.Thread(target=go_on, name="watch", daemon=True)
    thread.start()
    try:
        yield told
    finally:
        done.set()
        thread.join(timeout=5)


def _run(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    watch: Watch,
    *,
    wait: bool,
) -> Progress:
    partition = night.partition
    state = steps.progress(pipeline, night)
    said: NightState | None = None
    # A redrive touches no other items: what has changed of these is for the run after this one.
    finishes_redrive = steps.is_redriven(state.night, state.snapshot)
    warned: set[str] = set()
    patience = _Patience()

    def look(seen: Progress) -> None:
        warned.update(alerts.look(pipeline, spec.alerts, seen))
        _warn(spec, seen, warned)

    while True:
        if state.night.held_at is None and _nothing_pending(state):
            # What changed while batches were in flight is taken up here.
            steps.take_input(pipeline, spec, night)
        polled = time.monotonic()
        try:
            state, sent = _step(pipeline, spec, night, watch, look, patience)
        except BatchPipelineError:
            alerts.look(pipeline, spec.alerts, steps.progress(pipeline, night))
            raise
        watch(state)
        look(state)
        if state.complete and (finishes_redrive or not _input_changed(pipeline, spec, state)):
            return state
        if sent.answers and state.night.held_at is None:
            # Calls in real time are done with as they are made: what they left open goes again.
            continue
        _raise_if_stuck(state, sent, wait=wait)
        if not wait or (state.night.held_at is not None and _nothing_pending(state)):
            return state
        if sent.waiting.state != said:
            said = sent.waiting.state
            log.info("%s %s: %s", spec.name, partition, sent.waiting)
        _pause(polled, sent, pipeline.settings.poll_seconds)


def _pause(polled: float, sent: Submitted, seconds: float) -> None:
    """Wait for the next poll, `seconds` after the last one or after the last upload.

    Not `seconds` from now: collecting may have taken as long, and batches ended meanwhile.
    """
    until = (time.monotonic() if sent.batches else polled) + seconds
    time.sleep(max(0.0, until - time.monotonic()))


def _warn(spec: JobSpec, state: Progress, warned: set[str]) -> None:
    """Log each warning once, however long its cause lasts."""
    for warning in warnings.of(state, spec.alerts):
        if warning.cause not in warned:
            warned.add(warning.cause)
            place = f"{state.night.job} {state.night.partition}"
            log.warning("%s: warning: %s", place, warning.message)


def _begin(pipeline: Pipeline, spec: JobSpec, partition: str, *, resume: bool) -> Night:
    if (retires := retirement.notice(spec)) is not None:
        log.warning("%s: %s", spec.name, retires)
    night = steps.open_night(pipeline, spec, partition)
    return steps.release(pipeline, night, resume=resume)


def _input_changed(pipeline: Pipeline, spec: JobSpec, state: Progress) -> bool:
    taken = steps.take_input(pipeline, spec, state.night)
    return taken.snapshot.id != state.night.snapshot_id


class _Patience:
    """With an API in trouble: faults pass, but a key that is refused again and again is revoked."""

    def __init__(self) -> None:
        self._refusals = 0

    def end(self) -> None:
        """The API answered."""
        self._refusals = 0

    def bear(self, failure: ApiFailure) -> None:
        """Raise AccountError where waiting on is of no use."""
        refused = failure.status in (401, 403) and failure.error_type is not None
        self._refusals = self._refusals + 1 if refused else 0
        if self._refusals >= MOST_REFUSALS:
            raise AccountError(
                f"The API refuses the key ({failure}). Nothing is lost: what is in flight goes on "
                "there. Set ANTHROPIC_API_KEY to a key of the same workspace and run again."
            ) from failure
        log.warning("the API did not answer (%s); trying again", failure)


def _step(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    watch: Watch,
    look: Watch,
    patience: _Patience,
) -> tuple[Progress, Submitted]:
    """Do all that can be done now; a passing fault of the API is left to the next step.

    While calls are made, what else there is to do goes on: `watch` sees each moment, `look` one
    every poll interval.
    """
    sent = Submitted(0, Waiting(None))
    polled = time.monotonic()

    def changed() -> None:
        watch(steps.progress(pipeline, night))

    def meanwhile() -> None:
        nonlocal polled
        if not steps.collect_ended(pipeline, spec, night, changed):
            changed()
        if time.monotonic() - polled < pipeline.settings.poll_seconds:
            return
        polled = time.monotonic()
        look(steps.progress(pipeline, night))
        with _passing(patience):
            steps.poll_account(pipeline, night.account)

    with _passing(patience) as fault:
        steps.poll_account(pipeline, night.account)
        steps.collect_ended(pipeline, spec, night, changed)
        if pipeline.refreshed(night).held_at is None:
            steps.meet_deadline(pipeline, spec, night)
            sent = _send(pipeline, spec, night, meanwhile)
    if fault:
        sent = Submitted(0, admission.unanswered(night, fault[0]))
    return steps.finish(pipeline, night), sent


@contextmanager
def _passing(patience: _Patience) -> Iterator[list[ApiFailure]]:
    """Take note of a fault of the API's in the block; the next step tries again."""
    faults: list[ApiFailure] = []
    try:
        yield faults
    except ApiFailure as failure:
        patience.bear(failure)
        faults.append(failure)
    else:
        patience.end()


def _send(
    pipeline: Pipeline, spec: JobSpec, night: Night, meanwhile: Callable[[], None]
) -> Submitted:
    verdict = steps.run_pilot(pipeline, spec, night)
    if isinstance(verdict, Waiting):
        return Submitted(0, verdict)
    return steps.submit(pipeline, spec, night, meanwhile)


def _nothing_pending(state: Progress) -> bool:
    return not state.in_flight and not state.to_collect


def _raise_if_stuck(state: Progress, sent: Submitted, *, wait: bool) -> None:
    """Raise where only a person can let the rest of a night go: polling on would not help.

    What is at the API is waited for and collected first. Without `wait` a closed pilot's gate is
    told at once, since the next run would find it closed too; a paused account and a refused batch
    are no errors then, and the night is left as it stands.
    """
    found = sent.waiting.state
    if found is None or found.kind not in (night_state.ERRORS if wait else night_state.GATES):
        return
    if _nothing_pending(state) or (not wait and found.kind is Kind.PILOT_CLOSED):
        raise night_state.error_of(state.night, found, state.waiting)
