"""Runs a night from its input to its end in one process: what the command line does.

Run again after a crash, an interrupt or a `--no-wait`, it goes on from where the night stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from batch_pipeline.api.failures import refuses_account, refuses_key
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import AccountError, AccountPausedError, BatchPipelineError
from batch_pipeline.flow import found_input, night_input, steps
from batch_pipeline.flow.batches.submission import Submitted
from batch_pipeline.flow.gates import models
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.status import alerts, failures, night_state, outage, warnings
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Waiting
from batch_pipeline.ledger.admission.night_state import Kind, NightState
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes.heartbeat import beating
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# After this number of refusals of key or account in a row a person is asked. A single one may be a
# fault of the API.
MOST_REFUSALS = 3

Watch = Callable[[Progress], None]

# How often `watch` is told of the night: a step (an upload, a download) and the pause after it can
# take much longer.
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

    `watch` is told of the night after each step, and besides every `WATCH_SECONDS` from another
    thread. Raises GateClosedError where the pilot's gate is closed, the circuit breaker open or the
    budget used up, and AccountError or ApiError where only a person can help; what is at the API by
    then is collected first. A night that is held is collected and left.
    """
    if wait:
        outage.wait_for_api(pipeline, spec, partition)
    night = steps.open_night(pipeline, spec, partition)
    for notice in models.notices(spec, pipeline.api_for(spec)):
        log.warning("%s: %s", spec.name, notice)
    night = steps.release(pipeline, night, resume=resume)
    if night.held_at is None:
        steps.note_asked(pipeline, night)
    if watch is None:
        return _Run(pipeline, spec, night, None).to_end(wait=wait)
    with _told_at_intervals(pipeline, night, watch):
        return _Run(pipeline, spec, night, watch).to_end(wait=wait)


@contextmanager
def _told_at_intervals(pipeline: Pipeline, night: Night, watch: Watch) -> Iterator[None]:
    """Tell `watch` of the night every `WATCH_SECONDS` while the block runs."""

    def tell() -> bool:
        try:
            watch(steps.progress(pipeline, night))
        except Exception as error:  # noqa: BLE001  # what is shown must not stop what is done
            log.debug("%s %s: no progress to show: %s", night.job, night.partition, error)
        return True

    with beating("watch", WATCH_SECONDS, tell):
        yield


class _Run:
    """The loop over a night's steps, and what it remembers from one step to the next."""

    def __init__(
        self, pipeline: Pipeline, spec: JobSpec, night: Night, watch: Watch | None
    ) -> None:
        self._pipeline, self._spec, self._night = pipeline, spec, night
        self._watch = watch
        # When the API was last asked which batches have ended.
        self._polled = time.monotonic()
        # Refusals of key or account in a row.
        self._refusals = 0
        # Causes that were logged: each is logged once, however long it lasts.
        self._warned: set[str] = set()
        self._waited_for: NightState | None = None

    def to_end(self, *, wait: bool) -> Progress:
        """Repeat the steps until the night is complete, held, or stuck; without `wait` once."""
        pipeline, spec, night = self._pipeline, self._spec, self._night
        state = steps.progress(pipeline, night)
        # A redrive touches no other items: their changes in the input are for the next run.
        finishes_redrive = found_input.is_redriven(state.night, state.snapshot)
        while True:
            pipeline.mark.check_there()
            if state.night.held_at is None and _nothing_pending(state):
                # What changed while batches were in flight is taken up here.
                night_input.take_input(pipeline, spec, night)
            try:
                state, sent = self._step()
            except BatchPipelineError:
                alerts.look(pipeline, spec.alerts, steps.progress(pipeline, night))
                raise
            if self._watch is not None:
                self._watch(state)
            self._look(state)
            if state.complete and (finishes_redrive or not self._input_changed(state)):
                return state
            if sent.answers and state.night.held_at is None:
                # Real-time calls have their answers already: what these left open goes at once.
                continue
            _raise_if_stuck(state, sent, wait=wait)
            self._log_wait(sent.waiting)
            if not wait or (state.night.held_at is not None and _nothing_pending(state)):
                return state
            self._pause(sent)

    def _step(self) -> tuple[Progress, Submitted]:
        """Do what can be done now; a passing fault of the API is left to the next step."""
        pipeline, spec, night = self._pipeline, self._spec, self._night
        sent = Submitted(0, Waiting(None))
        with self._api_faults() as faults:
            self._poll()
            steps.collect_ended(pipeline, spec, night, self._tell)
            if pipeline.refreshed(night).held_at is None:
                steps.meet_deadline(pipeline, spec, night)
                sent = self._send()
        if faults:
            sent = Submitted(0, admission.unanswered(night, faults[0]))
        else:
            # Else `status` would tell of it for as long as this run lasts. Of the account no step
            # knows better that made no call.
            failures.overcome(pipeline, spec, night.partition, failures.WHOLE, but=failures.ACCOUNT)
        return steps.finish(pipeline, night), sent

    def _send(self) -> Submitted:
        verdict = steps.run_pilot(self._pipeline, self._spec, self._night)
        if isinstance(verdict, Waiting):
            return Submitted(0, verdict)
        return steps.submit(self._pipeline, self._spec, self._night, self._while_calls_are_made)

    def _while_calls_are_made(self) -> None:
        """Collect, poll and look at the night: real-time calls can take longer than batches."""
        if not steps.collect_ended(self._pipeline, self._spec, self._night, self._tell):
            self._tell()
        if time.monotonic() - self._polled >= self._pipeline.settings.poll_seconds:
            self._look(steps.progress(self._pipeline, self._night))
            with self._api_faults():
                self._poll()

    def _poll(self) -> None:
        self._polled = time.monotonic()
        steps.poll_accounts(self._pipeline, self._night.owner, self._night.sent_by)

    def _tell(self) -> None:
        if self._watch is not None:
            self._watch(steps.progress(self._pipeline, self._night))

    def _look(self, state: Progress) -> None:
        """Send alerts, and log warnings that are new."""
        self._warned.update(alerts.look(self._pipeline, self._spec.alerts, state))
        for warning in warnings.of(state, self._spec.alerts):
            if warning.cause not in self._warned:
                self._warned.add(warning.cause)
                place = f"{state.night.job} {state.night.partition}"
                log.warning("%s: warning: %s", place, warning.message)

    def _pause(self, sent: Submitted) -> None:
        """Wait for the next poll: a poll interval after the last one, or after the last upload.

        Not an interval from now: collecting may have taken as long, and batches ended meanwhile.
        """
        now = time.monotonic()
        until = (now if sent.batches else self._polled) + self._pipeline.settings.poll_seconds
        time.sleep(max(0.0, until - now))

    def _log_wait(self, waiting: Waiting) -> None:
        """Log what the night waits for, if it is something else than before."""
        if waiting.state != self._waited_for:
            self._waited_for = waiting.state
            log.info("%s %s: %s", self._night.job, self._night.partition, waiting)

    def _input_changed(self, state: Progress) -> bool:
        taken = night_input.take_input(self._pipeline, self._spec, state.night)
        return taken.snapshot.id != state.night.snapshot_id

    @contextmanager
    def _api_faults(self) -> Iterator[list[ApiFailure]]:
        """Take note of a fault of the API in the block; the next step tries again.

        Raises AccountError once key or account were refused several times in a row: then waiting
        does not help.
        """
        faults: list[ApiFailure] = []
        try:
            yield faults
        except ApiFailure as failure:
            self._refusals = self._refusals + 1 if refuses_account(failure) else 0
            if self._refusals >= MOST_REFUSALS:
                kept = "Nothing is lost: what is in flight goes on there."
                if refuses_key(failure):
                    keys = self._pipeline.accounts.credentials_of(self._night.sent_by)
                    raise AccountError(
                        f"The API refuses the key ({failure}). {kept} Set a key of the same "
                        f"workspace ({keys}) and run again."
                    ) from failure
                raise AccountPausedError(
                    f"The API refuses the account ({failure}). {kept} Settle it in the API's "
                    "console and run again."
                ) from failure
            outage.note_of_any(self._pipeline, self._night.sent_by, failure)
            log.warning("the API did not answer (%s); trying again", failure)
            faults.append(failure)
        else:
            self._refusals = 0


def _nothing_pending(state: Progress) -> bool:
    return not state.in_flight and not state.to_collect


def _raise_if_stuck(state: Progress, sent: Submitted, *, wait: bool) -> None:
    """Raise where only a person can let the rest of a night go: polling on would not help.

    What is at the API is waited for and collected first. Without `wait` a closed pilot's gate is
    told at once, since the next run would find it closed too; a paused account and a refused batch
    are no errors then, and the night is left as it stands.
    """
    found = sent.waiting.state
    if found is None or found.kind not in (night_state.ERRORS if wait else night_state.GATE_KINDS):
        return
    if _nothing_pending(state) or (not wait and found.kind is Kind.PILOT_CLOSED):
        raise night_state.error_of(state.night, found, state.waiting)
