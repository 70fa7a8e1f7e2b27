"""Accounts in the ledger: whose they are, organisation and workspace of their keys, and pauses.

An account sends; nights and answers belong to its owner, the queue to its organisation
(`organisations`). An owner that is no account itself has a row here all the same, under which
nothing is sent.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.errors import AccountError, LedgerError
from batch_pipeline.jobs.accounts.accounts_file import AccountNames
from batch_pipeline.ledger import waits
from batch_pipeline.ledger.accounts import organisations
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.safe_text import get_logger
from batch_pipeline.settings import LONGEST_WAIT_SECONDS

log = get_logger(__name__)

# A paused account is tried with one small shard or call: after this time, then after twice as long,
# at last every hour.
FIRST_PROBE_SECONDS = 900.0
WORKSPACE_CHARACTERS = 200
# Refusals in a row after which a key counts as refused: a single one may be a fault of the API.
REFUSED_TIMES = 3


@dataclass(frozen=True)
class Account:
    """An account, by the name that the user gave it.

    Spending, pauses and batches of one account never count for another; `wait_until` is its
    organisation's. `owner` and `organisation` None: its own. Without `sends` it is an owner alone.
    `refused`: since when and how the API refuses its key. Times are in seconds since the epoch.
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

    @property
    def owned_by(self) -> str:
        """The name of its owner."""
        return self.owner or self.name

    @property
    def organisation_name(self) -> str:
        """The name of its organisation."""
        return self.organisation or self.name

    def probe_is_due(self, at: float) -> bool:
        """Whether a paused account is to be tried at a time."""
        return not waits.lasts(self.probe_at or 0.0, at)


def register_account(connection: Connection, name: str, *, simulated: bool) -> None:
    """Add the account, if it is new: one that is its own owner and organisation.

    Raises LedgerError where the name was used for a simulator and is now used for a real account,
    or the other way round: their answers and their money must not mix.
    """
    _add(connection, name, simulated=simulated)


def register(connection: Connection, names: AccountNames) -> Account:
    """Add an account, or note whose it is now; its owner is added too. Returns the account.

    Raises LedgerError as `register_account`, and where a name under which nights are kept becomes
    an account of another owner: they would be bought again.
    """
    _add(connection, names.owner, simulated=names.simulated, sends=names.owner == names.name)
    _add(connection, names.name, simulated=names.simulated)
    known = get_account(connection, names.name)
    if not known.sends and names.owner != names.name:
        raise LedgerError(
            f"{names.name!r} is an owner of nights in this ledger, and is to be an account of "
            f"{names.owner!r} now. Give the account another name, or the owner {names.name!r}."
        )
    owner = None if names.owner == names.name else names.owner
    organisation = None if names.organisation == names.name else names.organisation
    if (known.owner, known.organisation, known.sends) != (owner, organisation, True):
        _update(connection, names.name, owner=owner, organisation=organisation, sends=True)
    return get_account(connection, names.name)


def _add(connection: Connection, name: str, *, simulated: bool, sends: bool = True) -> None:
    columns = tables.account.c
    known = connection.execute(sa.select(columns.simulated).where(columns.name == name)).first()
    if known is None:
        added = sa.insert(tables.account)
        connection.execute(
            added.values(name=name, simulated=simulated, sends=sends, wait_until=0.0)
        )
    elif known.simulated != simulated:
        raise LedgerError(
            f"Account {name!r} of this ledger is {'simulated' if known.simulated else 'real'}, the "
            "server that answered is not. Set another BATCH_PIPELINE_ACCOUNT or another home."
        )


def get_account(connection: Connection, name: str) -> Account:
    """An account, or an owner that is none."""
    return _read(connection, tables.account.c.name == name)[0]


def of_names(connection: Connection, names: Collection[str]) -> list[Account]:
    """The accounts of these names that the ledger knows, by name."""
    return _read(connection, tables.account.c.name.in_(names), tables.account.c.sends)


def list_accounts(connection: Connection) -> list[Account]:
    """All accounts, by name; owners that are no accounts left out."""
    return _read(connection, tables.account.c.sends)


def same_workspace(connection: Connection, name: str) -> list[str]:
    """The names of all accounts that send into the workspace of an account, itself first.

    Their batches are in one list of the API, and their prompts in one cache. They are several
    where an account has got another name.
    """
    columns = tables.account.c
    own = sa.select(columns.workspace).where(columns.name == name).scalar_subquery()
    query = sa.select(columns.name).where(columns.workspace == own, columns.name != name)
    return [name, *connection.scalars(query.order_by(columns.name))]


def _read(connection: Connection, *conditions: sa.ColumnElement[bool]) -> list[Account]:
    own = [column for column in tables.account.columns if column.name != "wait_until"]
    waits_until = sa.func.coalesce(tables.organisation.c.wait_until, 0.0)
    query = (
        sa.select(*own, waits_until.label("wait_until"))
        .outerjoin(tables.organisation, tables.organisation.c.name == organisations.NAME)
        .where(*conditions)
        .order_by(tables.account.c.name)
    )
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


def note_refused(connection: Connection, name: str, reason: str, *, times: int = 1) -> int:
    """Note that the API refused the account's key, as `times` refusals; returns how many they are
    in a row."""
    at = now(connection)
    known = get_account(connection, name).refused or {"since": at, "at": at, "times": 0}
    if at - known["at"] > LONGEST_WAIT_SECONDS:
        # Nothing was asked for an hour: what happened before belongs to another time.
        known = {"since": at, "at": at, "times": 0}
    found = {"since": known["since"], "at": at, "times": known["times"] + times}
    _update(connection, name, refused={**found, "reason": reason[:500]})
    return int(found["times"])


def note_accepted(connection: Connection, name: str) -> None:
    """Note that the API takes the account's key; where it was refused before, a pause is probed at
    once, since the refusal was its likely cause."""
    if get_account(connection, name).refused is not None:
        _update(connection, name, refused=None)
        probe_at_once(connection, name)


def likely(connection: Connection, declared: str) -> str:
    """The owner of what a key sends that the API has told nothing of: the declared one, unless the
    ledger knows one other alone."""
    columns = tables.account.c
    owner = sa.func.coalesce(columns.owner, columns.name)
    known = list(connection.scalars(sa.select(owner).where(columns.sends).distinct()))
    return known[0] if len(known) == 1 else declared


def note_workspace(connection: Connection, name: str, seen: str, *, in_flight: bool) -> None:
    """Note the workspace that the API names to the present key.

    It is the account's own, unless batches are in flight that were made in another one.
    """
    known, seen = get_account(connection, name), seen[:WORKSPACE_CHARACTERS]
    own = known.workspace if in_flight and known.workspace is not None else seen
    if (own, seen) != (known.workspace, known.key_workspace):
        _update(connection, name, workspace=own, key_workspace=seen)


def note_ids(
    connection: Connection,
    names: AccountNames,
    organisation_id: str | None,
    workspace_id: str | None,
    *,
    others: Collection[str] = (),
) -> None:
    """Note the organisation and the workspace that the API names to the key of an account; None:
    its answer named none, and there is nothing to compare.

    A name of accounts.yaml is bound to the first ids that were seen: a key may be replaced, and
    only by one of the same workspace. `others` are the names of the other declared organisations.
    Raises AccountError where the key belongs to another organisation or workspace than declared, or
    than at the last run, and where two organisations are one. Without the file a key of another
    workspace is warned of while batches are in flight (`note_workspace`), and nothing is refused.
    """
    known = get_account(connection, names.name)
    organisation = organisations.get(connection, names.organisation)
    shown = names.declared
    if shown is None:
        if organisation_id not in (None, known.organisation_id):
            found = (organisation_id or "")[:WORKSPACE_CHARACTERS]
            _update(connection, names.name, organisation_id=found)
            organisations.note_id(connection, organisation.name, found)
        return
    if organisation_id is not None:
        organisation_id = organisation_id[:WORKSPACE_CHARACTERS]
        _compare(shown, "organisation", organisation_id, names.organisation_id, organisation.api_id)
        for other in others:
            if organisations.get(connection, other).api_id == organisation_id:
                raise AccountError(
                    f"The organisations {names.organisation} and {other} of accounts.yaml are one "
                    f"at the API ({organisation_id}), and would overrun their common queue: give "
                    "the accounts of both the same `organisation`."
                )
        if organisation.api_id is None:
            organisations.note_id(connection, organisation.name, organisation_id)
        if known.organisation_id != organisation_id:
            _update(connection, names.name, organisation_id=organisation_id)
    if workspace_id is not None:
        workspace_id = workspace_id[:WORKSPACE_CHARACTERS]
        _compare(shown, "workspace", workspace_id, names.workspace_id, known.workspace)
        if (known.workspace, known.key_workspace) != (workspace_id, workspace_id):
            _update(connection, names.name, workspace=workspace_id, key_workspace=workspace_id)


def _compare(name: str, what: str, seen: str, declared: str | None, before: str | None) -> None:
    if declared is not None and seen != declared:
        raise AccountError(
            f"The key of account {name} is one of {what} {seen}, accounts.yaml says {declared}. "
            "Set a key of that one, or correct the file."
        )
    if before is not None and seen != before:
        raise AccountError(
            f"The key of account {name} is one of {what} {seen}; it was one of {before} at the "
            "last run, and a key may be replaced only by one of the same workspace. Set such a "
            "key, give the new one an account of its own, or run `batch-pipeline accounts --rebind "
            f"{name}` once nothing of it is in flight."
        )


def forget_ids(connection: Connection, name: str) -> None:
    """Bind an account, and its organisation, to the ids of the next answer of the API."""
    account = get_account(connection, name)
    _update(connection, name, workspace=None, key_workspace=None, organisation_id=None)
    organisations.note_id(connection, account.organisation_name, None)


def _update(connection: Connection, name: str, **values: Any) -> None:
    connection.execute(
        sa.update(tables.account).where(tables.account.c.name == name).values(values)
    )
