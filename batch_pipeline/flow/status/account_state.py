"""Where an account stands: room at its organisation's queue, spending, and what is wrong with it.

From the ledger and accounts.yaml alone: the API is not asked. Command line, report, sensor and
Dagster's metadata show accounts as this module reads them; why a night waits for one is decided in
`ledger.admission`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.ledger import waits
from batch_pipeline.ledger.accounts import accounts, organisations
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.accounts.organisations import Organisation
from batch_pipeline.ledger.admission import budget
from batch_pipeline.ledger.admission.budget import Spending
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.submissions.submissions import LIVE, State
from batch_pipeline.wording import iso, iso_or_none, moment, usd

READY = "ready"


@dataclass(frozen=True)
class AtApi:
    """What an account has at the API: requests in the queue and in real-time calls, those that
    have ended and are not collected, batches in the queue, and since when the oldest of them is
    there (seconds since the epoch)."""

    queued: int = 0
    calling: int = 0
    to_collect: int = 0
    batches: int = 0
    oldest_at: float | None = None

    @property
    def anything(self) -> bool:
        return bool(self.queued or self.calling or self.to_collect)


@dataclass(frozen=True)
class AccountState:
    """An account at a time; its name, owner and organisation are the ledger's.

    `used` are all requests in the queue of the organisation, those of its other accounts included.
    The queue may hold `limit` requests: the smaller one of `limit_set`, by the setting
    `limit_setting`, and `limit_read`, by the API. `declared` is False where accounts.yaml does not
    have the account any more. `spent` is of the present month, under a
    `ceiling` in USD, if there is one.
    """

    account: Account
    at_api: AtApi
    limit: int
    limit_set: int | None
    limit_read: int | None
    limit_setting: str
    used: int
    spent: Spending
    ceiling: Decimal | None
    declared: bool
    at: float

    @property
    def name(self) -> str:
        return self.account.name

    @property
    def organisation(self) -> str:
        return self.account.organisation_name

    @property
    def room(self) -> int:
        """Requests that may join the queue of the organisation."""
        return max(0, self.limit - self.used)

    @property
    def waits_until(self) -> float | None:
        """Until when nothing joins the queue, because the API said that it is full."""
        until = self.account.wait_until
        return until if waits.lasts(until, self.at) else None

    @property
    def word(self) -> str:
        """Its state in a word or two."""
        found = (
            ("key refused", self.account.refused is not None),
            ("paused", self.account.paused_reason is not None),
            ("no answer", self.account.unanswered is not None),
            ("not declared", not self.declared),
            ("ceiling reached", self.ceiling is not None and self.spent.total >= self.ceiling),
            ("queue full", self.waits_until is not None or not self.room),
        )
        return next((word for word, holds in found if holds), READY)

    @property
    def month(self) -> str:
        """What it has spent in this month, and its ceiling, for people."""
        spent = usd(self.spent.total)
        return spent if self.ceiling is None else f"{spent} of {usd(self.ceiling)}"

    def __str__(self) -> str:
        return (
            f"account {self.name}: {self.word}, room for {self.room:,} requests, "
            f"{self.month} this month"
        )

    def troubles(self) -> Iterator[str]:
        """What keeps it from sending, or is wrong with it, each with its remedy."""
        account = self.account
        if account.refused is not None:
            yield (
                f"its key has been refused since {moment(account.refused['since'])} "
                f"({account.refused['reason']}); set a good one: what it has sent is fetched then"
            )
        if account.paused_reason is not None:
            probe = f"; it is tried at {moment(account.probe_at)}" if account.probe_at else ""
            yield f"nothing is sent: {account.paused_reason}{probe}"
        if account.unanswered is not None:
            since, reason = account.unanswered["since"], account.unanswered["reason"]
            yield f"the API has not answered since {moment(since)} ({reason})"
        if self.waits_until is not None:
            yield f"the API's queue is full; it is asked again at {moment(self.waits_until)}"
        if waits.lasts(account.reads_wait_until, self.at):
            until = moment(account.reads_wait_until)
            yield f"the API asked not to be asked for batches before {until}"
        if not self.declared and self.at_api.anything:
            yield (
                "it has sent what is not collected yet, and accounts.yaml does not have it any "
                "more: declare it until then"
            )
        yield from self.limit_troubles()

    @property
    def is_set_too_high(self) -> bool:
        """Whether the queue limit that is set is above the one that the API gives."""
        said, read = self.limit_set, self.limit_read
        return said is not None and read is not None and said > read

    @property
    def limit_trouble(self) -> str:
        """What is said of a queue limit that is set too high."""
        return (
            f"{self.limit_setting} is {self.limit_set:,}, and the API gives organisation "
            f"{self.organisation} {self.limit_read:,}, which counts: nothing is lost, batches go "
            "out more slowly; correct the setting, or ask the API for a higher limit"
        )

    def limit_troubles(self) -> Iterator[str]:
        """The limits and ceilings among `troubles`, which no warning of a night tells."""
        if self.is_set_too_high:
            yield self.limit_trouble
        if self.ceiling is not None and self.spent.total >= self.ceiling:
            yield (
                f"{usd(self.spent.total)} of {usd(self.ceiling)} a month are billed or reserved; "
                "raise max_usd_per_month, or wait for the next month"
            )

    def as_json(self) -> dict[str, Any]:
        account, at_api = self.account, self.at_api
        unanswered = account.unanswered
        return {
            "name": self.name,
            "owner": account.owned_by,
            "organisation": self.organisation,
            "simulated": account.simulated,
            "declared": self.declared,
            "state": self.word,
            "troubles": list(self.troubles()),
            "organisation_id": account.organisation_id,
            "workspace_id": account.workspace,
            "queue_limit": self.limit,
            "queue_limit_set": self.limit_set,
            "queue_limit_read": self.limit_read,
            "queue_used": self.used,
            "queue_room": self.room,
            "queued": at_api.queued,
            "calling": at_api.calling,
            "to_collect": at_api.to_collect,
            "batches": at_api.batches,
            "oldest_batch_at": iso_or_none(at_api.oldest_at),
            "waits_until": iso_or_none(self.waits_until),
            "paused_reason": account.paused_reason,
            "probe_at": iso_or_none(account.probe_at),
            "key_refused": None if account.refused is None else account.refused["reason"],
            "unanswered_since": None if unanswered is None else iso(unanswered["since"]),
            "month_usd": {
                "billed": float(self.spent.billed),
                "reserved": float(self.spent.reserved),
                "unproven": float(self.spent.unproven),
                "ceiling": None if self.ceiling is None else float(self.ceiling),
            },
        }


def troubles_of(states: Collection[AccountState]) -> list[str]:
    """What is wrong with accounts, a line each, with the account's name.

    Of one alone its limits: the warnings of its nights tell the rest.
    """
    return [
        f"account {state.name}: {trouble}"
        for state in states
        for trouble in (state.troubles() if len(states) > 1 else state.limit_troubles())
    ]


def look(pipeline: Pipeline, owner: str) -> list[AccountState]:
    """The accounts of an owner; none where accounts.yaml has a single one, of which the warnings of
    its nights tell everything."""
    if len(pipeline.accounts.by_name) < 2:
        return []
    with pipeline.ledger.read() as connection:
        return of_owners(connection, pipeline, {owner})


def every(connection: Connection, pipeline: Pipeline) -> list[AccountState]:
    """All accounts of the ledger, and those of accounts.yaml that it does not know yet."""
    found = accounts.list_accounts(connection)
    known = {each.name for each in found}
    for declared in pipeline.accounts.by_name:
        real, simulated = (
            pipeline.accounts.names(declared, simulated=simulated) for simulated in (False, True)
        )
        if known.isdisjoint((real.name, simulated.name)):
            new = Account(
                real.name, simulated=False, owner=real.owner, organisation=real.organisation
            )
            found.append(new)
    return _states(connection, pipeline, found)


def of_owners(
    connection: Connection, pipeline: Pipeline, owners: Collection[str]
) -> list[AccountState]:
    """The accounts of owners of nights, by name, those that are not declared any more included."""
    found = accounts.list_accounts(connection)
    return _states(connection, pipeline, [each for each in found if each.owned_by in owners])


def _states(
    connection: Connection, pipeline: Pipeline, found: Collection[Account]
) -> list[AccountState]:
    at = now(connection)
    of = organisations.accounts_of(connection, {each.organisation_name for each in found})
    at_api = _at_api(connection, {*of, *(each.name for each in found)})
    known = organisations.list_organisations(connection)
    states = []
    for account in found:
        name = account.organisation_name
        organisation = known.get(name, Organisation(name))
        declared = pipeline.accounts.declared_as(account.name)
        limit_set = ceiling = None
        limit_setting = ""
        if declared is not None:
            limits = pipeline.accounts.organisation_of(declared)
            limit_set = pipeline.accounts.queue_limit(limits)
            limit_setting = pipeline.accounts.queue_limit_setting(limits)
            ceiling, _ = pipeline.accounts.ceiling(declared)
        states.append(
            AccountState(
                account=account,
                at_api=at_api.get(account.name, AtApi()),
                limit=organisation.queue_limit(limit_set),
                limit_set=limit_set,
                limit_read=organisation.limit_read,
                limit_setting=limit_setting,
                used=sum(at_api[each].queued for each in of if of[each] == name and each in at_api),
                spent=budget.account_month(connection, account.name),
                ceiling=ceiling,
                declared=declared is not None,
                at=at,
            )
        )
    return states


def _at_api(connection: Connection, names: Collection[str]) -> dict[str, AtApi]:
    submission = tables.submission.c
    query = (
        sa.select(
            submission.account,
            submission.state,
            sa.func.count().label("number"),
            sa.func.sum(submission.requests).label("requests"),
            sa.func.min(sa.func.coalesce(submission.accepted_at, submission.intent_at)).label("at"),
        )
        .where(
            submission.account.in_(names),
            submission.state.in_([state.value for state in LIVE]),
        )
        .group_by(submission.account, submission.state)
    )
    found: defaultdict[str, AtApi] = defaultdict(AtApi)
    for row in connection.execute(query):
        before, requests = found[row.account], int(row.requests)
        if row.state == State.CALLING:
            after = replace(before, calling=requests)
        elif row.state == State.ENDED:
            after = replace(before, to_collect=requests)
        else:
            after = replace(
                before,
                queued=before.queued + requests,
                batches=before.batches + int(row.number),
                oldest_at=min(filter(None, (before.oldest_at, row.at))),
            )
        found[row.account] = after
    return dict(found)
