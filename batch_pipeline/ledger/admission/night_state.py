"""Why a night does not move, and what is to be done: one answer for every place that says it.

Admission, `run`, `status`, the sensor, alerts and Dagster's metadata all decide and word it here.
Pure functions of plain values. It lies beside the ledger, because admission decides within its
transaction; what is read of a night's progress for it stands in `flow.status.night_state`, what is
read of its gates in `flow.gates.night_gates`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from batch_pipeline.wording import moment

PILOT_AT_API = "the pilot's batch is being processed"
RESULTS_MISSING = (
    "lines of the pilot's results are missing or cannot be read; they are fetched again"
)
PROCESSED = "its batches are being processed, or their results are to be collected"
CALLED_ELSEWHERE = "another process makes its real-time calls"
RUN_SUBMITS = "a run is submitting"


class Kind(StrEnum):
    """The states of a night, in the order in which they are looked for: the first that applies."""

    COMPLETE = "complete"
    HELD = "held"
    KEY_REFUSED = "key_refused"
    PAUSED = "paused"
    REFUSED = "refused"
    FAILED = "failed"
    DECLARATION_CHANGED = "declaration_changed"
    PILOT_CLOSED = "pilot_closed"
    BREAKER_OPEN = "breaker_open"
    API_UNAVAILABLE = "api_unavailable"
    RUNNING = "running"
    EARLIER_ANSWERS_FIRST = "earlier_answers_first"
    BACKING_OFF = "backing_off"
    SHORT_OF_BUDGET = "short_of_budget"
    SHARD_TOO_LARGE = "shard_too_large"
    OLDER_NIGHT_FIRST = "older_night_first"
    QUEUE_FULL = "queue_full"
    OPEN = "open"


@dataclass(frozen=True)
class NightState:
    """The state of a night; `reason` and `remedy` are clauses without a full stop.

    An empty `remedy`: there is nothing to do. `examples` are up to three `id: message` of answers
    that closed a gate.
    """

    kind: Kind
    reason: str
    remedy: str = ""
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason

    def as_json(self) -> dict[str, str]:
        return {"kind": self.kind, "reason": self.reason, "remedy": self.remedy}


@dataclass(frozen=True)
class ClosedGate:
    """Why a gate is closed, with up to three `id: message` of what closed it.

    `page` is where a person can look at it, if there is a page. `review`: nothing is wrong, and a
    person has to look before the rest goes.
    """

    reason: str
    examples: tuple[str, ...] = ()
    page: str | None = None
    review: bool = False


@dataclass(frozen=True)
class Gates:
    """What the flow says of a night's gates. `judged`: the pilot has a verdict, or needs none."""

    declaration_changed: bool = False
    pilot: ClosedGate | None = None
    judged: bool = True
    breaker: ClosedGate | None = None


OPEN_GATES = Gates()


@dataclass(frozen=True)
class ShortOfBudget:
    """A ceiling in USD that has no room for a night's next shard.

    `ceiling` is the name of its setting, `reason` a clause with the ceiling and the amounts.
    """

    ceiling: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """What is known of a night; a default says that something is in order, or not known.

    `accounts` are those that may send it, or those of them that are paused. `terminated`: a person
    terminated the run that submitted it last. `paused` says why they send nothing, `probe_at` when
    that is tried by itself (seconds since the epoch). `unanswered` is how the API failed just now,
    `at_work` what is under way, `short_of_budget` the ceiling that has no room. `backing_off` says
    until when requests that failed are not asked again.
    `waits_for` is the partition whose answers the night is to reuse, once that one is complete.
    `too_large` are the requests of the next shard and the queue limit that they exceed,
    `older_night` names one that goes first, `queue_full` says which limit has no room.
    `key_refused` is how the API refuses their keys, `failed` says why a step failed and what
    to do about it: nothing is kept back for that.
    `asked` tells whether a person or a schedule wants this input to be submitted.
    """

    job: str
    partition: str
    accounts: tuple[str, ...] = ()
    complete: bool = False
    held: bool = False
    terminated: bool = False
    paused: str | None = None
    probe_at: float | None = None
    refused: str | None = None
    key_refused: str | None = None
    failed: tuple[str, str] | None = None
    gates: Gates = OPEN_GATES
    unanswered: str | None = None
    at_work: str | None = None
    waits_for: str | None = None
    backing_off: str | None = None
    short_of_budget: ShortOfBudget | None = None
    too_large: tuple[int, int] | None = None
    older_night: str | None = None
    queue_full: str | None = None
    asked: bool = True

    @property
    def senders(self) -> str:
        """The accounts, for people: `account a`, `accounts a, b`."""
        return f"account{'s' if len(self.accounts) > 1 else ''} {', '.join(self.accounts)}"

    @property
    def run_command(self) -> str:
        """The command that goes on with the night, in backticks."""
        return f"`batch-pipeline run {self.job} --partition {self.partition}`"


def state_of(facts: Facts) -> NightState:
    """The state of a night: the first kind that applies, in the order of `Kind`."""
    return next(states_of(facts))


def may_go(facts: Facts) -> bool:
    """Whether the night's next shard may go out now."""
    return facts.gates.judged and facts.asked and state_of(facts).kind is Kind.OPEN


def states_of(facts: Facts) -> Iterator[NightState]:
    """All that applies to a night, in the order of `Kind`: at last OPEN, or COMPLETE alone."""
    if facts.complete:
        yield NightState(Kind.COMPLETE, "it is complete")
        return
    yield from _until_a_person_acts(facts)
    yield from _gates(facts, facts.gates)
    if facts.unanswered is not None:
        yield NightState(
            Kind.API_UNAVAILABLE,
            f"the API did not answer ({facts.unanswered})",
            f"nothing is lost: it is tried again with the next poll, or by {facts.run_command}",
        )
    if facts.at_work is not None:
        yield running(facts.at_work)
    yield from _room(facts)
    yield _open(facts)


def running(what: str) -> NightState:
    """The state of a night that works: `what` says what is under way."""
    return NightState(Kind.RUNNING, what)


def held(job: str, partition: str) -> NightState:
    """The state of a night that a person has cancelled."""
    lift = f"`batch-pipeline run {job} --partition {partition} --resume` lifts it"
    return NightState(Kind.HELD, "held after a cancel", lift)


def _until_a_person_acts(facts: Facts) -> Iterator[NightState]:
    if facts.held:
        yield held(facts.job, facts.partition)
    if facts.terminated:
        yield NightState(Kind.HELD, "its run was terminated", "launch it again")
    if facts.key_refused is not None:
        yield NightState(
            Kind.KEY_REFUSED,
            f"the API refuses the key of {facts.senders}: {facts.key_refused}",
            "set a key of the same workspace wherever nights are run; nothing is lost: batches in "
            "flight go on at the API, and once the key is accepted the night goes on by itself "
            f"under Dagster, otherwise with {facts.run_command}",
        )
    if facts.paused is not None:
        yield NightState(
            Kind.PAUSED,
            f"submission is paused for {facts.senders}: {facts.paused}",
            "settle it in the API's console, then run the night again: that tries at once"
            f"{_probe(facts)}",
        )
    if facts.refused is not None:
        yield NightState(
            Kind.REFUSED,
            facts.refused,
            "correct the declaration, or what else it complains of, then run the night again",
        )
    if facts.failed is not None:
        yield NightState(Kind.FAILED, *facts.failed)


def _probe(facts: Facts) -> str:
    """When the sensor tries a paused account; empty where the next run does."""
    if not facts.probe_at:
        return ""
    return f"; the sensor tries it with one small batch or call at {moment(facts.probe_at)}"


def _gates(facts: Facts, gates: Gates) -> Iterator[NightState]:
    if gates.declaration_changed:
        yield NightState(
            Kind.DECLARATION_CHANGED,
            "the declaration changed after the input was taken",
            f"take the input again to use it: {facts.run_command}, or materialize input_dataset",
        )
    if gates.pilot is not None:
        yield NightState(
            Kind.PILOT_CLOSED,
            f"the pilot's gate is closed: {gates.pilot.reason}",
            _after_pilot(facts, gates.pilot),
            gates.pilot.examples,
        )
    if gates.breaker is not None:
        yield NightState(
            Kind.BREAKER_OPEN,
            f"the circuit breaker is open: {gates.breaker.reason}",
            "correct the prompt, the schema or max_tokens and run the night again; or "
            f"{_approve(facts, 'breaker')}",
            gates.breaker.examples,
        )


def _after_pilot(facts: Facts, gate: ClosedGate) -> str:
    """What a person does about a closed pilot's gate: look, then correct or approve."""
    look = "" if gate.page is None else f"look at {gate.page}, then "
    correct = (
        "correct the prompt, the data or the limits under `pilot` and run the night again: good "
        "answers are kept"
    )
    if gate.review:
        return f"{look}{_approve(facts, 'pilot')}; or correct the prompt and run the night again"
    return f"{look}{correct}; or {_approve(facts, 'pilot')}"


def _approve(facts: Facts, gate: str) -> str:
    return (
        f"let it go as it is: `batch-pipeline approve {facts.job} --partition {facts.partition} "
        f"--gate {gate} --reason …` and run it again, or under Dagster launch it with the run tag "
        f"`batch_pipeline/approve` = `{gate}: why`"
    )


def _room(facts: Facts) -> Iterator[NightState]:
    """States that end with time, as batches end, or as limits are raised."""
    if facts.waits_for is not None:
        earlier = f"{facts.job} --partition {facts.waits_for}"
        yield NightState(
            Kind.EARLIER_ANSWERS_FIRST,
            f"{facts.waits_for} is under way, whose answers are reused",
            f"it goes on once that night is complete: `batch-pipeline run {earlier}` goes on with "
            f"that one; a night that is held (`batch-pipeline cancel {earlier}`) is not waited for",
        )
    if facts.backing_off is not None:
        yield NightState(Kind.BACKING_OFF, facts.backing_off)
    if facts.short_of_budget is not None:
        yield NightState(
            Kind.SHORT_OF_BUDGET,
            facts.short_of_budget.reason,
            f"raise {facts.short_of_budget.ceiling} and run the night again, or wait where a part "
            "of it is reserved: that comes free as batches are collected, those of other nights "
            "too",
        )
    if facts.too_large is not None:
        requests, limit = facts.too_large
        yield NightState(
            Kind.SHARD_TOO_LARGE,
            f"its next batch of {requests:,} requests is larger than the queue limit ({limit:,})",
            f"{facts.run_command} cuts it anew, and so does the sensor",
        )
    if facts.older_night is not None:
        yield NightState(
            Kind.OLDER_NIGHT_FIRST,
            f"an older night ({facts.older_night}) goes first",
            "it follows once that one has room, or ten minutes after that one last asked for it",
        )
    if facts.queue_full is not None:
        yield NightState(Kind.QUEUE_FULL, facts.queue_full, "it goes on as batches end")


def _open(facts: Facts) -> NightState:
    go_on = f"go on with {facts.run_command}, or materialize submitted_batches"
    if not facts.asked:
        return NightState(Kind.OPEN, "its submission has not been asked for", go_on)
    if not facts.gates.judged:
        return NightState(Kind.OPEN, "the pilot has not been judged yet", go_on)
    return NightState(Kind.OPEN, "nothing stands in its way", go_on)
