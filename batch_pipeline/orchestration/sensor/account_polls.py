"""Polls the accounts of a job, each in a thread of its own: one that hangs holds up no other.

This is the only part of the sensor that calls the API. A poll writes what it learns to the ledger,
even if it ends after the tick; `run_requests` decides what to do about it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from batch_pipeline.api.failures import is_outage, refuses_account
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import ApiError
from batch_pipeline.flow import steps
from batch_pipeline.flow.connections import UNUSABLE, Owner
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.jobs.spec import JobSpec

# Dagster ends a tick after 60 s and forgets what it found; the rest is left to the next one.
POLL_SECONDS = 25.0

OpenPipeline = Callable[[], Pipeline]


@dataclass
class Polled:
    """The outcome for one account: whether the poll has ended, and what went wrong.

    `useless`: the API does not answer or refuses the key, and a run would meet the same.
    """

    done: bool = False
    trouble: str | None = None
    useless: bool = False
    simulated: bool | None = None
    bug: BaseException | None = None


@dataclass(frozen=True)
class Polls:
    """The outcomes by account name; `owner` is that of the nights they send, as far as known."""

    owner: Owner
    by_account: Mapping[str, Polled] = field(default_factory=dict)

    @property
    def useless(self) -> bool:
        """Whether no account can be used: a run would meet the same."""
        return all(polled.useless for polled in self.by_account.values())

    @property
    def troubles(self) -> list[str]:
        """What went wrong, one line for each account, with its name where there are several."""
        told = {name: p.trouble for name, p in self.by_account.items() if p.trouble is not None}
        if len(self.by_account) == 1:
            return list(told.values())
        return [f"account {name}: {trouble}" for name, trouble in told.items()]


def poll(open_pipeline: OpenPipeline, spec: JobSpec) -> Polls:
    """Ask the API which batches have ended; an account that fails does not end the tick.

    With pipelines of their own, since a call to a failing API can outlast the tick.
    """
    with open_pipeline() as pipeline:
        likely = pipeline.likely_owner(spec)
        declared = pipeline.accounts.of_job(spec.accounts, spec.name)
        # Accounts that the job may no longer declare.
        unsettled = steps.accounts_to_ask(pipeline, likely.name, ())
        former = [name for name in unsettled if pipeline.accounts.declared_as(name) not in declared]
    polled = {name: Polled() for name in (*declared, *former)}
    threads: list[threading.Thread] = []
    for name, outcome in polled.items():
        thread_name = f"poll-{spec.name}-{name}"
        if any(thread.name == thread_name for thread in threading.enumerate()):
            outcome.trouble = "the API has not answered the last poll yet"
            continue
        ask = _poll_former if name in former else _poll_declared
        threads.append(
            threading.Thread(
                target=_poll, args=(open_pipeline, ask, name, outcome), name=thread_name,
                daemon=True,
            )
        )  # fmt: skip
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + POLL_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for outcome in polled.values():
        if outcome.bug is not None:
            raise outcome.bug
        if not outcome.done and outcome.trouble is None:
            outcome.trouble = f"the API did not answer within {POLL_SECONDS:.0f} s"
    return Polls(_owner(open_pipeline, declared, likely, polled), polled)


def _poll(
    open_pipeline: OpenPipeline,
    ask: Callable[[Pipeline, str, Polled], None],
    name: str,
    polled: Polled,
) -> None:
    try:
        with open_pipeline() as pipeline:
            ask(pipeline, name, polled)
    except (ApiFailure, *UNUSABLE) as error:
        refused = isinstance(error, ApiFailure) and refuses_account(error)
        polled.useless = refused or is_outage(error) or not isinstance(error, ApiFailure | ApiError)
        polled.trouble = f"the API cannot be polled now: {error}"
    except BaseException as error:  # noqa: BLE001  # raised again, in the tick's own thread
        polled.bug = error
    polled.done = True


def _poll_declared(pipeline: Pipeline, declared: str, polled: Polled) -> None:
    try:
        names = pipeline.connections.connect(declared).names
    except UNUSABLE as error:
        likely = pipeline.connections.likely_owner([declared])
        pipeline.connections.note_unusable(likely, error)
        raise
    polled.simulated = names.simulated
    pipeline.mark.check(simulated=names.simulated)
    steps.poll_account(pipeline, names.name)


def _poll_former(pipeline: Pipeline, account: str, _polled: Polled) -> None:
    steps.poll_account(pipeline, account)


def _owner(
    open_pipeline: OpenPipeline,
    declared: Sequence[str],
    likely: Owner,
    polled: Mapping[str, Polled],
) -> Owner:
    """The owner of the nights, now that the API may have told whether a simulator answers."""
    told = {outcome.simulated for outcome in polled.values()} - {None}
    if told in (set(), {likely.simulated}):
        return likely
    simulated = True in told
    with open_pipeline() as pipeline:
        names = [pipeline.accounts.names(name, simulated=simulated) for name in declared]
    return Owner(names[0].owner, simulated, tuple(each.name for each in names))
