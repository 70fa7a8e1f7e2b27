"""What admission checks a night against: queues, ceilings, and what the flow reads for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from batch_pipeline.ledger.admission.budget import NO_CEILING, Money
from batch_pipeline.ledger.admission.night_state import Gates
from batch_pipeline.ledger.admission.queue import queue_limit
from batch_pipeline.ledger.admission.senders import Sender
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.shards import Shard
from batch_pipeline.pricing.tokens import Lifetime

# Reads, in the transaction that claims a shard, what the flow says of the night's gates.
ReadGates = Callable[[Connection, Night, Shard], Gates]


@dataclass(frozen=True)
class Marks:
    """The lifetime of the cache marks that a shard is to be sent with, None: it has none; or why it
    waits for the prompt cache. Requests of these `models` have the marks, None: of all."""

    lifetime: Lifetime | None = None
    wait: str | None = None
    models: tuple[str, ...] | None = None


NO_MARKS = Marks()
# Reads, in the transaction that claims a shard, whether it is sent with cache marks by an account.
ReadMarks = Callable[[Connection, Night, Shard, str], Marks]


@dataclass(frozen=True)
class Limits:
    """The accounts that may send with their limits, the job's share of the queue in requests, what
    may be spent, how long a holder may give no sign of life, in seconds, and what decides on cache
    marks.

    `senders` are those of the job's accounts whose API answers.
    """

    senders: tuple[Sender, ...]
    job_queue: int | None
    lease_seconds: float
    money: Money = NO_CEILING
    marks: ReadMarks = lambda _connection, _night, _shard, _account: NO_MARKS

    @property
    def accounts(self) -> list[str]:
        return [sender.account for sender in self.senders]

    @property
    def at_once(self) -> int:
        """The most requests that the night may have at the API at once."""
        of_organisations = {each.organisation: each.queue_limit for each in self.senders}
        return queue_limit(sum(of_organisations.values()), self.job_queue)

    def money_of(self, account: str) -> Money:
        """What may be spent through an account."""
        sender = next((each for each in self.senders if each.account == account), None)
        return self.money.of(account, sender)
