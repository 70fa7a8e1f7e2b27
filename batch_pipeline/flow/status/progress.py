"""The progress of a night, from the ledger alone: no file is read, the API is not asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from batch_pipeline.flow.answers.outcomes import Status
from batch_pipeline.flow.dataset.requests.cache_marks import prefix_key
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates import breaker
from batch_pipeline.flow.gates.first_attempts import FirstAttempts
from batch_pipeline.jobs.spec import AlertsSpec
from batch_pipeline.ledger import (
    answers_files,
    cache_prefixes,
    cache_use,
    nights,
    shards,
    snapshots,
    sums,
)
from batch_pipeline.ledger.accounts import accounts
from batch_pipeline.ledger.accounts.accounts import Account
from batch_pipeline.ledger.admission.night_state import ClosedGate
from batch_pipeline.ledger.answers_files import Stands
from batch_pipeline.ledger.cache_prefixes import CachePrefix
from batch_pipeline.ledger.cache_use import NOTHING_CACHED, CacheSums
from batch_pipeline.ledger.control import actions, approvals
from batch_pipeline.ledger.control.actions import Action
from batch_pipeline.ledger.control.approvals import Approval
from batch_pipeline.ledger.database.ledger import now
from batch_pipeline.ledger.nights import Night
from batch_pipeline.ledger.snapshots import Snapshot
from batch_pipeline.ledger.submissions import refusals, submissions
from batch_pipeline.ledger.submissions.submissions import IN_QUEUE, LIVE, State, Submission
from batch_pipeline.ledger.sums import Fee, Sums
from batch_pipeline.pricing.tokens import TOKENS
from batch_pipeline.wording import moment, usd

# The latest collected submissions are shown one by one, at most this number of them.
LATEST = 50

# Keys of a night's forecast that say why something stays with batches although it is late.
NOT_TAKEN_OVER = "not_taken_over"
KEPT_AS_BATCHES = "kept_as_batches"


@dataclass(frozen=True)
class Progress:
    """A night in numbers.

    `accounts` are those that may send it. `items` are input rows; `statuses` counts those that are
    settled. Of the requests, `waiting` are not sent yet, `in_flight` are at the API or may be
    (`unknown` of them have an unknown outcome), and `to_collect` have ended and are not collected
    yet. `collected` are the sums of what is collected; `submissions` are all that are not
    collected, and the latest that are (`with_all` has every one). `fees` are in the costs, unless
    they have no price. `cached` is what the prompt cache did, `caches` the same by model,
    `prefixes` what is known of the prompts' shared prefixes where they were counted, the declared
    model's first. `first` is what the breaker counts, `approvals` are gates that a person
    overruled. Cost in USD, `at` in seconds since the epoch.
    """

    night: Night
    accounts: tuple[Account, ...]
    snapshot: Snapshot | None
    items: int
    statuses: dict[str, int]
    waiting: int
    in_flight: int
    unknown: int
    to_collect: int
    batches: int
    batches_ended: int
    cost_usd: dict[str, Decimal]
    usage: dict[str, int]
    submissions: tuple[Submission, ...]
    first: FirstAttempts
    approvals: tuple[Approval, ...]
    at: float
    collected: tuple[Sums, ...] = ()
    fees: tuple[Fee, ...] = ()
    # Requests that keep a former answer which might have been escalated, by cause; and answers of
    # which the rule does not tell whether they are sure.
    stands: Mapping[Stands, int] = field(default_factory=dict)
    unjudged: int = 0
    cached: CacheSums = NOTHING_CACHED
    # What people did to the night; in `with_all` alone.
    actions: tuple[Action, ...] = ()
    caches: Mapping[str, CacheSums] = field(default_factory=dict)
    prefixes: tuple[CachePrefix, ...] = ()

    @property
    def account(self) -> Account:
        """The account that sends the night; of several, what keeps all of them from it."""
        return together(self.night.owner, self.accounts)

    @property
    def prefix(self) -> CachePrefix | None:
        """What is known of the shared prefix of the declared model's prompts."""
        return self.prefixes[0] if self.prefixes else None

    @property
    def live(self) -> tuple[Submission, ...]:
        """Submissions that are neither collected nor given up."""
        return tuple(s for s in self.submissions if s.state in LIVE)

    @property
    def collectable(self) -> int:
        """Of the requests to collect, those whose results are to be downloaded now."""
        ended = (s for s in self.live if s.state is State.ENDED)
        return sum(s.requests for s in ended if not s.until_download(self.at))

    @property
    def called(self) -> int:
        """Real-time calls that are answered and not collected yet."""
        return sum(s.progress["answered"] for s in self.live if s.progress is not None)

    @property
    def called_usd(self) -> Decimal:
        """USD that the calls of `called` have cost."""
        found = (s.progress["cost_usd"] for s in self.live if s.progress is not None)
        return sum(map(Decimal, found), Decimal(0))

    @property
    def calls_per_second(self) -> float:
        """Answers a second by the latest checkpoints, over all processes that make calls."""
        by_owner = {
            s.holder: float(s.progress["per_second"])
            for s in self.live
            if s.state is State.CALLING and s.progress is not None
        }
        return sum(by_owner.values())

    @property
    def gone_requests(self) -> int:
        """Requests whose results can never be had."""
        return sum(part.gone_requests for part in self.collected)

    @property
    def gone_usd_bound(self) -> Decimal:
        """USD that the requests of `gone_requests` may have cost at most."""
        return sum((part.gone_usd for part in self.collected), Decimal(0))

    @property
    def settled(self) -> int:
        return sum(self.statuses.values())

    @property
    def succeeded(self) -> int:
        return self.statuses.get(Status.SUCCEEDED, 0)

    @property
    def filtered(self) -> int:
        return self.statuses.get(Status.FILTERED, 0)

    @property
    def dead_letter(self) -> int:
        return self.settled - self.succeeded - self.filtered

    @property
    def reused(self) -> int:
        """Requests that answers of earlier nights answer."""
        return 0 if self.snapshot is None else self.snapshot.reused

    @property
    def answered(self) -> int:
        """Items that were sent and are settled by an answer."""
        return self.settled - self._unsent - self.filtered

    @property
    def error_rate(self) -> float:
        """The share of the answered items that was set aside."""
        return (self.dead_letter - self._unsent) / self.answered if self.answered else 0.0

    @property
    def _unsent(self) -> int:
        return sum(self.statuses.get(s, 0) for s in (Status.INVALID_INPUT, Status.TOO_LARGE))

    @property
    def caching(self) -> str:
        """What is known of the prompt cache, in a clause; empty where it was not asked for."""
        done = self.cached.describe()
        if len(self.caches) > 1:
            by_model = (f"{name}: {used.brief()}" for name, used in sorted(self.caches.items()))
            done += f" ({'; '.join(by_model)})"
        known = dict.fromkeys(prefix.describe() for prefix in self.prefixes)
        return "; ".join(filter(None, (*known, done)))

    @property
    def total_cost_usd(self) -> Decimal:
        return sum(self.cost_usd.values(), Decimal(0))

    @property
    def at_work(self) -> bool:
        """Requests are at the API, or may be, or are to be collected."""
        return self.in_flight > 0 or self.to_collect > 0

    @property
    def complete(self) -> bool:
        return self.night.completed_at is not None

    @property
    def sent_everything(self) -> bool:
        """No request waits, is at the API or is to be collected."""
        return (
            self.snapshot is not None
            and not self.waiting
            and not self.in_flight
            and not self.to_collect
        )

    def breaker(self, alert_limits: AlertsSpec) -> ClosedGate | None:
        """Why the breaker holds back what waits; None while it does not."""
        return breaker.judge(alert_limits, self.snapshot, self.first, self.approvals)

    def describe(self) -> str:
        """One line for logs, skip reasons and observations."""
        if self.snapshot is None:
            return "its input has not been taken yet"
        share = self.settled / self.items if self.items else 1.0
        parts = [f"{share:.0%} complete: {self.settled:,} of {self.items:,} items"]
        if self.batches:
            parts.append(f"{self.batches_ended} of {self.batches} batches ended")
        if self.called:
            calling = sum(s.requests for s in self.live if s.progress is not None)
            pace = f"{self.calls_per_second:,.1f} a second"
            parts.append(f"{self.called:,} of {calling:,} calls answered, {pace}")
        if self.waiting:
            parts.append(f"{self.waiting:,} requests wait")
        if self.unknown:
            parts.append(f"{self.unknown:,} of unknown outcome")
        if self.filtered:
            parts.append(f"{self.filtered:,} filtered")
        if self.reused:
            parts.append(f"{self.reused:,} requests answered by earlier nights")
        if self.dead_letter:
            parts.append(f"{self.dead_letter:,} set aside")
        parts.append(usd(self.total_cost_usd))
        wanted = deadline(self.night, self.at)
        if wanted is not None:
            parts.append(wanted)
        return ", ".join(parts)


def of_night(connection: Connection, night_id: int) -> Progress:
    """The progress of a night in one consistent view."""
    night = nights.get_night(connection, night_id)
    snapshot = (
        None if night.snapshot_id is None else snapshots.get_snapshot(connection, night.snapshot_id)
    )
    live = submissions.of_night(connection, night_id, *LIVE)
    latest = submissions.latest_collected(connection, night_id, LATEST)
    collected = sums.of_night(connection, night_id)
    cached = cache_use.of_night(connection, night_id)
    overruled = approvals.of_night(connection, night_id)
    statuses: Counter[str] = Counter()
    first = FirstAttempts()
    if snapshot is not None:
        statuses.update(snapshot.settled)
        statuses.update(sums.settled_items(connection, snapshot.id))
        first = breaker.first_attempts(connection, night_id, snapshot, overruled)
        for submission in live:
            if submission.published is not None and submission.snapshot_id == snapshot.id:
                statuses.update(submission.published["counts"]["items"])
    cost = {"batch": Decimal(0), "realtime": Decimal(0)}
    for submission in live:
        cost[submission.engine] += submission.published_usd
        if submission.progress is not None:
            # What calls have cost by their last checkpoint; what they are billed for follows.
            cost[submission.engine] += Decimal(submission.progress["cost_usd"])
    for part in collected:
        cost[part.engine] += part.cost_usd
    batches = [submission for submission in live if submission.batch_id is not None]
    ended = sum(part.submissions for part in collected if part.engine == "batch")
    # Refused documents were set aside without a batch.
    ended -= refusals.count_set_aside(connection, night_id)
    return Progress(
        night=night,
        accounts=_accounts(connection, night),
        snapshot=snapshot,
        items=snapshot.items if snapshot else 0,
        statuses=dict(statuses),
        waiting=shards.requests_waiting(connection, night) + night.unplanned,
        in_flight=_requests(live, *IN_QUEUE, State.CALLING),
        unknown=_requests(live, State.UNKNOWN),
        to_collect=_requests(live, State.ENDED),
        batches=ended + len(batches),
        batches_ended=ended + sum(s.state is State.ENDED for s in batches),
        cost_usd=cost,
        usage={name: sum(part.tokens[name] for part in collected) for name in TOKENS},
        submissions=tuple(sorted([*latest, *live], key=lambda submission: submission.id)),
        first=first,
        approvals=overruled,
        at=now(connection),
        collected=tuple(collected),
        fees=sums.fees(connection, night_id),
        stands=answers_files.standing(connection, night_id),
        unjudged=sums.unjudged(connection, night_id),
        cached=cached,
        caches=cache_use.by_model(connection, night_id) if cached.requests else {},
        prefixes=() if snapshot is None else _prefixes(connection, night, snapshot),
    )


def _accounts(connection: Connection, night: Night) -> tuple[Account, ...]:
    known = accounts.of_names(connection, night.sent_by)
    return tuple(known or [accounts.get_account(connection, night.owner)])


def together(owner: str, every: Sequence[Account]) -> Account:
    """Accounts as one: paused, refused, unanswered or without room where all of them are."""
    if len(every) == 1:
        return every[0]
    paused = all(each.paused_reason is not None for each in every)
    soonest = min(every, key=lambda each: each.probe_at or 0.0) if paused else None
    return Account(
        owner,
        every[0].simulated,
        paused_reason=None if soonest is None else soonest.paused_reason,
        paused_at=None if soonest is None else soonest.paused_at,
        probe_at=None if soonest is None else soonest.probe_at,
        lifted_at=max((each.lifted_at for each in every if each.lifted_at), default=None),
        wait_until=min(each.wait_until for each in every),
        reads_wait_until=min(each.reads_wait_until for each in every),
        unanswered=_of_all([each.unanswered for each in every]),
        refused=_of_all([each.refused for each in every]),
    )


def _of_all(said: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """What is said of the last of accounts of which it began to be said; None: not of each."""
    told = [each for each in said if each is not None]
    return max(told, key=lambda each: each["since"]) if len(told) == len(said) else None


def _prefixes(connection: Connection, night: Night, snapshot: Snapshot) -> tuple[CachePrefix, ...]:
    if not cache_prefixes.are_known(connection, night.owner):
        return ()
    asked = Declaration.from_json(snapshot.declaration).by_route().values()
    keys = dict.fromkeys(map(prefix_key, asked))
    found = (cache_prefixes.find(connection, night.owner, key) for key in keys)
    return tuple(prefix for prefix in found if prefix is not None)


def with_all(connection: Connection, state: Progress) -> Progress:
    """The same with every submission that the night has had, those given up included, and with what
    people did to it."""
    night = state.night
    return replace(
        state,
        submissions=tuple(submissions.of_night(connection, night.id)),
        actions=tuple(actions.of_night(connection, night.job, night.partition)),
    )


def wants_plan(state: Progress, full_shard: int) -> bool:
    """Whether open requests are to be cut into shards, at the first plan or for a retry round.

    They are, unless they failed and rest for a time, once the night has nothing else left to do, or
    once they fill a shard of `full_shard` requests. What is not decided is decided at the former.
    """
    if state.night.resting(state.at) is not None:
        return False
    idle = not state.in_flight and not state.to_collect and state.waiting == state.night.unplanned
    return (idle and state.night.unplanned > 0) or state.night.open_requests >= full_shard


def _requests(found: list[Submission], *states: State) -> int:
    return sum(submission.requests for submission in found if submission.state in states)


def as_json(progress: Progress) -> dict[str, Any]:
    """The keys that the JSON of `status`, `run` and `report` have in common."""
    night = progress.night
    return {
        "job": night.job,
        "partition": night.partition,
        "account": night.owner,
        "items": progress.items,
        "succeeded": progress.succeeded,
        "dead_letter": progress.dead_letter,
        "filtered": progress.filtered,
        "reused": progress.reused,
        "batches": progress.batches,
        "simulated": progress.account.simulated,
        "complete": progress.complete,
    }


def caching_as_json(progress: Progress) -> dict[str, Any] | None:
    """What the prompt cache did; None where it was not asked for."""
    if not progress.caching:
        return None
    found = progress.cached.as_json()
    return {
        **found,
        "saved_usd": float(found["saved_usd"]),
        "prefix_tokens": None if progress.prefix is None else progress.prefix.tokens,
        "summary": progress.caching,
        "models": {
            name: {**used.as_json(), "saved_usd": float(used.saved_usd)}
            for name, used in progress.caches.items()
        },
    }


def deadline(night: Night, at: float) -> str | None:
    """Whether a night meets its deadline, in a few words; None where it has none."""
    if night.deadline_at is None:
        return None
    if night.completed_at is not None:
        how = "met" if night.completed_at <= night.deadline_at else "missed"
    elif at > night.deadline_at:
        how = "missed"
    elif night.forecast is None or "meets" not in night.forecast:
        how = "not forecast yet"
    else:
        how = "expected to be met" if night.forecast["meets"] else "expected to be missed"
    return f"deadline {moment(night.deadline_at)} {how}"


def deadline_details(night: Night, at: float) -> str | None:
    """The same with the forecast, and with what could not be moved to real time."""
    brief = deadline(night, at)
    if brief is None or night.forecast is None or night.completed_at is not None:
        return brief
    late = [
        f"{what.replace('_', ' ')}: {night.forecast[what]}"
        for what in (NOT_TAKEN_OVER, KEPT_AS_BATCHES)
        if night.forecast.get(what) is not None
    ]
    return "; ".join(filter(None, [brief, night.forecast.get("reason"), *late]))
