"""Accounts in the ledger: organisation and workspace of a key, and whether sending is paused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.errors import LedgerError
from batch_pipeline.ledger import waits
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.safe_text import get_logger
from batch_pipeline.settings import LONGEST_WAIT_SECONDS

log = get_logger(__name__)

# A paused account is tried with one small shard or call: after this time, then after twice as long,
# at last every hour.
FIRST_PROBE_SECONDS = 900.0
WORKSPACE_CHARACTERS = 200
# After so many refusals in a row a key counts as refused: a single one may be a fault of the API.
REFUSED_TIMES = 3


@dataclass(frozen=True)
class Account:
    """An account, by the name that the user gave it.

    Queue, spending and state of one account never count for another. Times are in seconds since the
    epoch.
    """

    name: str
    simulated: bool
    paused_reason: str | None = None
    wait_until: float = 0.0
    paused_at: float | None = None
    paused_by_results: bool = False
    probe_at: float | None = None
    probe_seconds: float | None = None
    lifted_at: float | None = None
    reads_wait_until: float = 0.0
    workspace: str | None = None
    key_workspace: str | None = None
    unanswered: dict[str, Any] | None = None
    owner: str | None = None
    organisation: str | None = None
    sends: bool = True
    organisation_id: str | None = None
    refused: dict[str, Any] | None = None

    @property
    def key_refused(self) -> str | None:
        """How the API refuses the account's key, in its words; None where it does not."""
        if self.refused is None or self.refused["times"] < REFUSED_TIMES:
            return None
        return str(self.refused["reason"])

    def probe_is_due(self, at: float) -> bool:
        """Whether a paused account is to be tried at a time."""
        return not waits.lasts(self.probe_at or 0.0, at)


def register_account(connection: Connection, name: str, *, simulated: bool) -> None:
    """Add the account, if it is new.

    Raises LedgerError where the name was used for a simulator and is now used for a real account,
    or the other way round: their answers and their money must not mix.
    """
    known = connection.execute(
        sa.select(tables.account.c.simulated).where(tables.account.c.name == name)
    ).first()
    if known is None:
        connection.execute(
            sa.insert(tables.account).values(name=name, simulated=simulated, wait_until=0.0)
        )
    elif known.simulated != simulated:
        raise LedgerError(
            f"Account {name!r} of this ledger is {'simulated' if known.simulated else 'real'}, the "
            "server that answered is not. Set another BATCH_PIPELINE_ACCOUNT or another home."
        )


def get_account(connection: Connection, name: str) -> Account:
    query = sa.select(tables.account).where(tables.account.c.name == name)
    return Account(**connection.execute(query).mappings().one())


def senders(connection: Connection) -> list[Account]:
    """All accounts that send, by name; owners that are no account are left out."""
    query = sa.select(tables.account).where(tables.account.c.sends).order_by(tables.account.c.name)
    return [Account(**row) for row in connection.execute(query).mappings()]


def pause_account(
    connection: Connection, name: str, reason: str, *, by_results: bool = False
) -> None:
    """Pause sending for a whole account; `by_results`: its creates are taken in all the same.

    A pause with a new reason is still the same pause, causes no second alert and is probed no
    later.
    """
    account = get_account(connection, name)
    values: dict[str, Any] = {
        "paused_reason": reason,
        "paused_by_results": by_results or account.paused_by_results,
    }
    if account.paused_at is None:
        at = now(connection)
        values |= {"paused_at": at, "paused_by_results": by_results}
        values |= {"probe_at": at + FIRST_PROBE_SECONDS, "probe_seconds": FIRST_PROBE_SECONDS * 2}
    _update(connection, name, **values)


def probe_at_once(connection: Connection, name: str) -> None:
    """Let the next probe of a paused account go now: a person has seen to the cause."""
    if get_account(connection, name).paused_reason is not None:
        _update(connection, name, probe_at=0.0, probe_seconds=FIRST_PROBE_SECONDS)


def take_probe(connection: Connection, name: str) -> None:
    """Note that a probe of a paused account goes out: another one follows if it does not help."""
    seconds = get_account(connection, name).probe_seconds or FIRST_PROBE_SECONDS
    _update(
        connection,
        name,
        probe_at=waits.until(connection, seconds),
        probe_seconds=min(2 * seconds, LONGEST_WAIT_SECONDS),
    )


def prove(connection: Connection, name: str, sent_at: float, *, by_results: bool) -> None:
    """End a pause where the API has taken in what was sent at a time after its beginning.

    `by_results`: it has answered it too, which a pause that results have caused asks for.
    """
    account = get_account(connection, name)
    proves = by_results or not account.paused_by_results
    if proves and account.paused_at is not None and sent_at >= account.paused_at:
        lift_pause(connection, name)


def lift_pause(connection: Connection, name: str) -> None:
    """End a pause, if there is one: the API has answered the probe."""
    if get_account(connection, name).paused_at is None:
        return
    ended = dict.fromkeys(("paused_reason", "paused_at", "probe_at", "probe_seconds"))
    _update(connection, name, **ended, paused_by_results=False, lifted_at=now(connection))
    log.info("account %s is paused no more: the API answers it again", name)


def wait_for_queue(connection: Connection, name: str, seconds: float) -> None:
    """Create no batch of this account for `seconds`: the API said that its queue is full."""
    _update(connection, name, wait_until=waits.until(connection, seconds))


def wait_with_reads(connection: Connection, name: str, seconds: float) -> None:
    """Ask for no batch or list of this account for `seconds`: the API asked for that."""
    _update(connection, name, reads_wait_until=waits.until(connection, seconds))


def note_unanswered(connection: Connection, name: str, reason: str) -> None:
    """Note that the API does not answer now; an outage begins with the first time.

    Where nothing was asked for an hour, what happened before belongs to another one.
    """
    at = now(connection)
    known = get_account(connection, name).unanswered or {"since": at, "at": at}
    goes_on = at - known["at"] <= LONGEST_WAIT_SECONDS
    since = known["since"] if goes_on else at
    _update(connection, name, unanswered={"since": since, "at": at, "reason": reason[:500]})


def note_answered(connection: Connection, name: str) -> None:
    """Note that the API answers."""
    _update(connection, name, unanswered=None)


def note_refused(connection: Connection, name: str, reason: str, *, times: int = 1) -> None:
    """Note that the API refused the account's key, as `times` refusals in a row."""
    at = now(connection)
    known = get_account(connection, name).refused or {"since": at, "at": at, "times": 0}
    if at - known["at"] > LONGEST_WAIT_SECONDS:
        # Nothing was asked for an hour: what happened before belongs to another time.
        known = {"since": at, "at": at, "times": 0}
    found = {"since": known["since"], "at": at, "times": known["times"] + times}
    _update(connection, name, refused={**found, "reason": reason[:500]})


def note_accepted(connection: Connection, name: str) -> None:
    """Note that the API takes the account's key; where it was refused before, a pause is probed at
    once, since the refusal was its likely cause."""
    if get_account(connection, name).refused is not None:
        _update(connection, name, refused=None)
        probe_at_once(connection, name)


def likely(connection: Connection, declared: str) -> str:
    """The account of a key that the API has told nothing of: the declared one, unless the ledger
    knows one other alone."""
    known = list(connection.scalars(sa.select(tables.account.c.name)))
    return known[0] if len(known) == 1 else declared


def note_workspace(connection: Connection, name: str, seen: str, *, in_flight: bool) -> None:
    """Note the workspace that the API names to the present key.

    It is the account's own, unless batches are in flight that were made in another one.
    """
    known, seen = get_account(connection, name), seen[:WORKSPACE_CHARACTERS]
    own = known.workspace if in_flight and known.workspace is not None else seen
    if (own, seen) != (known.workspace, known.key_workspace):
        _update(connection, name, workspace=own, key_workspace=seen)


def _update(connection: Connection, name: str, **values: Any) -> None:
    connection.execute(
        sa.update(tables.account).where(tables.account.c.name == name).values(values)
    )
