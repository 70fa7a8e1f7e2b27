"""Sends shards call by call through the Messages API: a pilot's, and a night's in real time.

Belongs here: which shards are sent, and what is written to the ledger. How single calls leave and
end is decided in `engine`. A call under way when the process is killed may be billed and sent
again: the API has no list of calls to find it in. Every other answer is in a journal.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sqlalchemy import Connection

from batch_pipeline import logs
from batch_pipeline.api.protocol import Messages
from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.batches import changed_documents
from batch_pipeline.flow.concurrency import delayed_signals
from batch_pipeline.flow.gates import breaker, budget, night_gates
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.realtime.engine import Claim, End, Engine
from batch_pipeline.flow.realtime.shard import OpenShard
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger import nights
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.admission import admission
from batch_pipeline.ledger.admission.admission import Intent, ReadGates, Waiting
from batch_pipeline.ledger.admission.night_state import OPEN_GATES, Gates, NightState
from batch_pipeline.ledger.home import identity
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.processes import leases
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.ledger.submissions import refusals, submissions, transitions
from batch_pipeline.ledger.submissions.submissions import State
from batch_pipeline.safe_text import get_logger

log = get_logger(__name__)

# How often `meanwhile` runs while calls are made.
WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Called:
    """Result of `send_all`: the number of answers, and why the other requests wait."""

    answers: int
    waiting: Waiting


def send_calls(pipeline: Pipeline, spec: JobSpec, night: Night, shard: Shard) -> Waiting | None:
    """Call for every request of one real-time shard that has no answer in a journal yet.

    Returns None once the submission has ended, or why the shard waits. It ends before all are
    answered where calls must stop, for example because the account is paused: the others are open
    again.
    """
    limits = budget.limits(pipeline, spec, night)
    with pipeline.ledger.write() as connection:
        intent = admission.begin_calls(
            connection, night, shard, pipeline.holder, limits, night_gates.read_gates(spec)
        )
    if isinstance(intent, Waiting):
        return intent
    if intent.submission.state is State.ENDED:
        return None
    claims = iter([intent])

    def claim() -> OpenShard | Waiting:
        found = next(claims, None)
        return Waiting(None) if found is None else _opened(pipeline, spec, night, found)

    engine, stopped = _work(pipeline, spec, night, claim)
    with pipeline.ledger.read() as connection:
        if submissions.get(connection, intent.submission.id).state is not State.CALLING:
            return None
    return Waiting(stopped or engine.waiting.state, shard.requests)


def send_all(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    read_gates: ReadGates,
    meanwhile: Callable[[], None] = lambda: None,
) -> Called:
    """Send the night's real-time shards until no shard is left that may go.

    `meanwhile` runs in this thread every `WATCH_SECONDS` while calls are made, and after each shard
    that has ended. If the API refuses the account, the account is paused, as with a batch.
    """

    def claim() -> OpenShard | Waiting:
        # Computed for each shard: answers that were measured meanwhile make the bounds smaller.
        limits = budget.limits(pipeline, spec, night)
        with pipeline.ledger.write() as connection:
            intent = admission.begin_next_calls(
                connection, night, pipeline.holder, limits, read_gates
            )
        return intent if isinstance(intent, Waiting) else _opened(pipeline, spec, night, intent)

    answered = 0
    claimed: list[OpenShard] = []
    while True:
        first = claim()
        if isinstance(first, Waiting):
            return Called(answered, first)
        claimed.append(first)
        engine, stopped = _work(
            pipeline,
            spec,
            night,
            lambda: claimed.pop() if claimed else claim(),
            breaks=True,
            meanwhile=meanwhile,
        )
        answered += engine.answered
        if engine.refusal is not None:
            with pipeline.ledger.read() as connection:
                stopped = admission.closed(connection, night)
        if stopped is not None:
            requests = pipeline.refreshed(night).open_requests
            return Called(answered, Waiting(stopped, requests))
        if engine.closing is None or len(night.sent_by) == 1:
            return Called(answered, engine.waiting)
        # One account was paused: the others go on with what is open.


def close_abandoned(pipeline: Pipeline, night: Night) -> int:
    """Close the real-time shards that no process goes on with: of a held night, or of an account
    that left its job. Returns their number."""
    with pipeline.ledger.read() as connection:
        if not admission.abandoned_calls(connection, night):
            return 0
    with pipeline.ledger.write() as connection:
        return admission.close_abandoned_calls(connection, night, pipeline.holder)


def _opened(pipeline: Pipeline, spec: JobSpec, night: Night, intent: Intent) -> OpenShard:
    # The home's mark is raised before the first call leaves, also by a process that goes on with
    # the shard: the former holder may have died before it did.
    try:
        changed_documents.refuse_missing(pipeline, night, intent.shard)
    except InputDataError:
        with pipeline.ledger.write() as connection:
            leases.let_go(connection, intent.submission)
        raise
    with pipeline.ledger.write() as connection:
        sent = identity.count_sent(connection, intent.submission.id)
    pipeline.mark.raise_to(sent)
    return OpenShard(pipeline, spec, night, intent).__enter__()


def _work(
    pipeline: Pipeline,
    spec: JobSpec,
    night: Night,
    claim: Claim,
    *,
    breaks: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[Engine, NightState | None]:
    """Run an engine over the shards that `claim` returns; raises the engine's error.

    Returns with it why the ledger stopped the calls, if it did.

    A shard that is left early for a reason is closed, so that its answers are collected. `breaks`:
    the circuit breaker is such a reason. A signal is passed on once the calls under way have ended.
    """
    stopped: NightState | None = None

    def report(shards: list[OpenShard]) -> bool:
        nonlocal stopped
        lease = pipeline.settings.lease_seconds
        with pipeline.ledger.write() as connection:
            for shard in shards:
                progress = shard.progress(engine.per_second, engine.refused, engine.waits_until)
                leases.checkpoint(connection, shard.submission, progress, lease)
            gates = OPEN_GATES
            if breaks:
                first = [shard.first for shard in shards]
                gates = Gates(breaker=breaker.look(connection, spec.alerts, night, first))
            _note_account(connection, night, engine)
            stopped = admission.closed(connection, night, gates, probe=bool(engine.probing))
            if stopped is None:
                engine.closing = engine.closing or _paused(connection, shards, engine.probing)
        return stopped is not None or engine.closing is not None

    def settle(shard: OpenShard, end: End | None) -> None:
        shard.__exit__()
        with pipeline.ledger.write() as connection:
            _note_account(connection, night, engine)
            held = leases.checkpoint(
                connection,
                shard.submission,
                shard.progress(engine.per_second, engine.refused, None),
                0.0,
            )
            if not held:
                return
            if end is None:
                transitions.end(connection, shard.submission)
            elif end is End.CLOSE:
                transitions.close(connection, shard.submission)
            else:
                leases.let_go(connection, shard.submission)

    engine = Engine(
        concurrency=spec.realtime.concurrency,
        checkpoint_every=spec.realtime.checkpoint_every,
        limiter_of=lambda account, model_id: pipeline.limiter(
            pipeline.organisation_of(account), model_id
        ),
        claim=claim,
        report=report,
        settle=settle,
    )
    _supervise(pipeline, engine, spec.realtime.concurrency, meanwhile)
    return engine, stopped


def _note_account(connection: Connection, night: Night, engine: Engine) -> None:
    """End the pause of accounts whose probe was answered, begin one where the API refuses one.

    Another refusal, as of a model that the API does not know, or a gateway that answers in the
    API's place, is a fault of the night.
    """
    while engine.proved:
        accounts.lift_pause(connection, engine.proved.pop())
    if engine.refusal is None:
        return
    if engine.refused_account is not None:
        accounts.pause_account(connection, engine.refused_account, str(engine.refusal))
    else:
        told = str(engine.refusal)
        page = engine.refusal.error_type is None
        why = refusals.PROVES_NOTHING.format("calls", told) if page else told
        nights.update_night(connection, night.id, refused=why)


def _paused(
    connection: Connection, shards: list[OpenShard], probing: set[str]
) -> frozenset[str] | None:
    """The accounts of these shards that are paused, while others may go on; None: none is."""
    used = {shard.submission.account for shard in shards} - probing
    paused = {
        name for name in used if accounts.get_account(connection, name).paused_reason is not None
    }
    return frozenset(paused) if paused else None


def _supervise(
    pipeline: Pipeline, engine: Engine, concurrency: int, meanwhile: Callable[[], None]
) -> None:
    """Run an engine in a second thread; this one runs `meanwhile` and receives signals."""

    async def run() -> None:
        async with AsyncExitStack() as opened:

            async def messages_of(account: str) -> Messages:
                api = pipeline.api_of(account)
                return await opened.enter_async_context(api.open_messages(concurrency))

            await engine.run(messages_of)

    done = threading.Event()

    def body() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001  # raised again, in the caller's thread
            engine.error = engine.error or error
        finally:
            done.set()
            engine.settled.set()

    thread = threading.Thread(target=logs.inherited(body), name="calls", daemon=True)

    def ask() -> None:
        log.warning("stopping once the calls in flight have ended; again, to stop at once")
        engine.stop(End.LET_GO)

    with delayed_signals(ask):
        thread.start()
        try:
            while not done.is_set():
                engine.settled.wait(WATCH_SECONDS)
                engine.settled.clear()
                meanwhile()
        except Exception:
            engine.stop(End.LET_GO)
            raise
        except BaseException:
            engine.abort()
            raise
        finally:
            thread.join()
    if engine.error is not None:
        raise engine.error
