"""Metrics of all jobs of a home, for those who run it: read from the ledger in one transaction.

Belongs here: which figures there are and where each comes from. Labels are names of declarations
and of states, never a partition, an id or a text: their number does not grow with the nights. No
API is asked and no file is read.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from batch_pipeline.flow.status import night_state, progress
from batch_pipeline.flow.status.progress import Progress
from batch_pipeline.jobs.accounts import accounts_file
from batch_pipeline.jobs.accounts.accounts_file import Accounts
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger import nights, ticks
from batch_pipeline.ledger.accounts import accounts, organisations
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.admission import budget, senders
from batch_pipeline.ledger.admission.night_state import Kind
from batch_pipeline.ledger.alerts import AlertState
from batch_pipeline.ledger.database import tables
from batch_pipeline.ledger.database.ledger import Ledger, now
from batch_pipeline.ledger.submissions.submissions import IN_QUEUE, LIVE, State
from batch_pipeline.safe_text import get_logger
from batch_pipeline.settings import Settings

log = get_logger(__name__)

PREFIX = "batch_pipeline_"
# Complete nights count among documents, errors and dead letters for this time.
RECENT_SECONDS = 86_400.0
# The label of what waits: which account sends it is decided when it goes.
NO_ACCOUNT = ""
# Within this time the same figures are given again: reading a year of nights takes a second.
CACHED_SECONDS = 5.0

_FAMILIES = {
    "queue_limit_requests": ("Requests that may be in the API's queue at once.", ("organisation",)),
    "queue_used_requests": ("Requests in the API's queue, or perhaps there.", ("organisation",)),
    "queue_room_requests": ("Room that the queue has by our own count.", ("organisation",)),
    "account_paused": (
        "1: nothing is sent, the API refuses to work for it.",
        ("account", "organisation"),
    ),
    "account_refused": ("1: the API refuses the account's key.", ("account", "organisation")),
    "account_unanswered_seconds": (
        "For how long the API has not answered; 0: it does.",
        ("account", "organisation"),
    ),
    "account_spent_usd": (
        "USD of this calendar month (UTC), by kind: billed, or reserved for what is in flight.",
        ("account", "organisation", "kind"),
    ),
    "account_ceiling_usd": (
        "The account's ceiling of a month, where it has one.",
        ("account", "organisation"),
    ),
    "requests": (
        "Requests of open nights: waiting here, without an account, or by state of their batch.",
        ("job", "account", "state"),
    ),
    "requests_waiting": (
        "Requests that wait here, by the reason for which they do.",
        ("job", "reason"),
    ),
    "nights": ("Nights by state, as `status` names it.", ("job", "state")),
    "night_failures": (
        "Nights whose last step ended with an error, by its code.",
        ("job", "code"),
    ),
    "items": (
        "Documents by outcome, of nights that are not complete or were within 24 hours.",
        ("job", "status"),
    ),
    "error_rate": ("Of these documents, the answered ones that are set aside.", ("job",)),
    "dead_letter_rate": ("Of these documents, the dead letters.", ("job",)),
    "cost_usd": ("USD billed this calendar month (UTC), by way.", ("job", "mode")),
    "oldest_batch_age_seconds": (
        "Age of the oldest batch that has not ended; it expires after 86400.",
        ("job", "account"),
    ),
    "oldest_uncollected_seconds": (
        "For how long the first batch has ended that is not collected.",
        ("job", "account"),
    ),
    "tick_age_seconds": ("Since the last tick of the job's sensor.", ("job",)),
    "successful_tick_age_seconds": (
        "Since the last tick of the job's sensor that met with no trouble.",
        ("job",),
    ),
    "alerts_unsent": ("Alerts that wait for their targets to take them.", ()),
    "up": ("1: the ledger could be read.", ()),
}


@dataclass
class Family:
    """A metric: its values by the values of its labels."""

    name: str
    help: str
    labels: tuple[str, ...]
    values: dict[tuple[str, ...], float] = field(default_factory=dict)


class _Found:
    """Collects values by name of a metric; all of them are gauges."""

    def __init__(self) -> None:
        self.families = {name: Family(name, *about) for name, about in _FAMILIES.items()}

    def set(self, name: str, value: float | Decimal, *labels: str) -> None:
        self.families[name].values[labels] = float(value)

    def add(self, name: str, value: float | Decimal, *labels: str) -> None:
        values = self.families[name].values
        values[labels] = values.get(labels, 0.0) + float(value)


def read(
    connection: Connection, declared: Accounts, limits: Mapping[str, AlertsSpec]
) -> list[Family]:
    """All figures as they are now; `limits` are the alert limits of the declared jobs, by name."""
    found = _Found()
    at = now(connection)
    _of_accounts(found, connection, declared, at)
    _of_nights(found, connection, limits, at)
    _of_batches(found, connection, at)
    _of_ticks(found, connection, limits, at)
    states = [AlertState.WAITING.value, AlertState.SENDING.value]
    unsent = sa.select(sa.func.count()).where(tables.alert.c.state.in_(states))
    found.set("alerts_unsent", connection.scalar(unsent) or 0)
    found.set("up", 1)
    return list(found.families.values())


def _of_accounts(found: _Found, connection: Connection, declared: Accounts, at: float) -> None:
    every = accounts.list_accounts(connection)
    submission = tables.submission.c
    used = _sums(connection, sa.func.sum(submission.requests), IN_QUEUE, submission.account)
    limits: dict[str, int] = {}
    for account in every:
        name = declared.declared_as(account.name)
        labels = (account.name, account.organisation_name)
        found.set("account_paused", account.paused_at is not None, *labels)
        found.set("account_refused", account.key_refused is not None, *labels)
        found.set("account_unanswered_seconds", _unanswered(account, at), *labels)
        spent = budget.account_month(connection, account.name)
        found.set("account_spent_usd", spent.billed, *labels, "billed")
        found.set("account_spent_usd", spent.reserved, *labels, "reserved")
        if name is None:
            continue
        [sender] = senders.declared(connection, declared, [name], simulated=account.simulated)
        limits[sender.organisation] = sender.queue_limit
        if sender.max_usd_per_month is not None:
            found.set("account_ceiling_usd", sender.max_usd_per_month, *labels)
    of = organisations.accounts_of(connection, limits)
    for organisation, limit in limits.items():
        queued = sum(used.get((name,), 0.0) for name in of if of[name] == organisation)
        found.set("queue_limit_requests", limit, organisation)
        found.set("queue_used_requests", queued, organisation)
        found.set("queue_room_requests", max(0.0, limit - queued), organisation)


def _unanswered(account: Account, at: float) -> float:
    return 0.0 if account.unanswered is None else max(0.0, at - account.unanswered["since"])


def _of_nights(
    found: _Found, connection: Connection, limits: Mapping[str, AlertsSpec], at: float
) -> None:
    answered: Counter[str] = Counter()
    set_aside: Counter[str] = Counter()
    items: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    for night in nights.worth_showing(nights.list_nights(connection)):
        done = night.completed_at
        if done is not None and done < at - RECENT_SECONDS:
            found.add("nights", 1, night.job, Kind.COMPLETE.value)
            continue
        state = progress.of_night(connection, night.id)
        kind = night_state.of_progress(state, limits.get(night.job, AlertsSpec())).kind
        found.add("nights", 1, night.job, kind.value)
        for status, count in state.statuses.items():
            found.add("items", count, night.job, status)
        items[night.job] += state.settled
        dead[night.job] += state.dead_letter
        answered[night.job] += state.answered
        set_aside[night.job] += round(state.error_rate * state.answered)
        if not state.complete:
            _of_waiting(found, state, kind)
    for job, count in items.items():
        found.set("dead_letter_rate", dead[job] / count if count else 0.0, job)
        rate = set_aside[job] / answered[job] if answered[job] else 0.0
        found.set("error_rate", rate, job)


def _of_waiting(found: _Found, state: Progress, kind: Kind) -> None:
    night = state.night
    if night.failure is not None:
        found.add("night_failures", 1, night.job, night.failure["code"])
    if state.waiting:
        found.add("requests", state.waiting, night.job, NO_ACCOUNT, "waiting")
        found.add("requests_waiting", state.waiting, night.job, kind.value)


def _of_batches(found: _Found, connection: Connection, at: float) -> None:
    submission, job = tables.submission.c, tables.night.c.job
    by = (job, submission.account)
    flying = _sums(connection, sa.func.sum(submission.requests), LIVE, *by, submission.state)
    for labels, requests in flying.items():
        found.set("requests", requests, *labels)
    sent = sa.func.min(sa.func.coalesce(submission.accepted_at, submission.intent_at))
    for labels, first in _sums(connection, sent, IN_QUEUE, *by).items():
        found.set("oldest_batch_age_seconds", max(0.0, at - first), *labels)
    ended = sa.func.min(submission.ended_at)
    for labels, first in _sums(connection, ended, (State.ENDED,), *by).items():
        found.set("oldest_uncollected_seconds", max(0.0, at - first), *labels)
    for name, mode, usd in budget.billed_by_job(connection):
        found.set("cost_usd", usd, name, mode)


def _sums(
    connection: Connection,
    value: sa.ColumnElement[Any],
    states: Iterable[State],
    *by: sa.ColumnElement[str],
) -> dict[tuple[str, ...], float]:
    """An aggregate over the submissions in some states, by some columns."""
    query = (
        sa.select(*by, value)
        .join(tables.night, tables.night.c.id == tables.submission.c.night_id)
        .where(tables.submission.c.state.in_([state.value for state in states]))
        .group_by(*by)
    )
    return {
        tuple(labels): float(amount)
        for *labels, amount in connection.execute(query)
        if amount is not None
    }


def _of_ticks(
    found: _Found, connection: Connection, limits: Mapping[str, AlertsSpec], at: float
) -> None:
    for tick in ticks.every(connection):
        if tick.job in limits:
            found.set("tick_age_seconds", max(0.0, at - tick.at), tick.job)
            if tick.ok_at is not None:
                found.set("successful_tick_age_seconds", max(0.0, at - tick.ok_at), tick.job)


class Collector:
    """Prometheus' view of the figures: read when asked for, one reading at a time."""

    def __init__(
        self, ledger: Ledger, settings: Settings, limits: Callable[[], Mapping[str, AlertsSpec]]
    ) -> None:
        self._ledger, self._settings, self._limits = ledger, settings, limits
        self._reading = threading.Lock()
        self._families: list[Family] = []
        self._read_at = -CACHED_SECONDS

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415  # for metrics alone

        with self._reading:
            if time.monotonic() - self._read_at >= CACHED_SECONDS:
                self._families = self._read()
                self._read_at = time.monotonic()
            families = self._families
        for family in families:
            made = GaugeMetricFamily(PREFIX + family.name, family.help, labels=family.labels)
            for labels, value in sorted(family.values.items()):
                made.add_metric(labels, value)
            yield made

    def _read(self) -> list[Family]:
        try:
            declared, limits = accounts_file.load(self._settings), self._limits()
            with self._ledger.read() as connection:
                return read(connection, declared, limits)
        except Exception as error:  # noqa: BLE001  # told by `up`; the next reading may succeed
            log.warning("no metrics: %s", error)
            about, labels = _FAMILIES["up"]
            return [Family("up", about, labels, {(): 0.0})]


def openmetrics(collector: Collector) -> str:
    """The figures as OpenMetrics text."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415
    from prometheus_client.openmetrics.exposition import generate_latest  # noqa: PLC0415

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return text.decode()
