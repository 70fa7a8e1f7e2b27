"""What becomes of a call that failed: it is tried again, its document is set aside, or all stop.

Belongs here: the bounds on tries, the pauses between them, and what the rate limiter learns from a
failure. The loop that makes the calls is `engine`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.api.rate_limit import Limiter, Ticket
from batch_pipeline.flow.answers.outcomes import (
    Action,
    Outcome,
    is_page_for_a_call,
    is_refused_as_busy,
    of_call_failure,
)
from batch_pipeline.flow.realtime.shard import Call
from batch_pipeline.safe_text import get_logger
from batch_pipeline.wording import duration

log = get_logger(__name__)

# Tries of one call in a row: refused because the API is busy (for minutes, often) or turned away by
# a gateway, or failed.
BUSY_TRIES = 8
ERROR_TRIES = 3
# After this many refusals a call that is estimated to be larger than a rate limit is given up. The
# estimate of its tokens may be too high, so that one refusal proves nothing.
TOO_LARGE_TRIES = 3
FIRST_RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 60.0
# Longer pauses are logged, and shown by `status`.
TOLD_PAUSE_SECONDS = 10.0
# This number of documents with a gateway's page in place of an answer, and no answer of the API
# since the first of these pages, shows that the gateway is at fault and not the documents.
MOST_PAGES = 3


@dataclass(frozen=True)
class TryAgain:
    """The call is made again at a time of the monotonic clock."""

    at: float


@dataclass(frozen=True)
class SetAside:
    """The call's document is set aside; `attempted`: the API may have worked on it."""

    outcome: Outcome
    attempted: bool = True


@dataclass(frozen=True)
class Stop:
    """No call can succeed now: the failure concerns the account, all calls, or the gateway."""

    failure: ApiFailure


class CallFailures:
    """Judges the failures of an engine's calls, and tells the rate limiter of their model."""

    def __init__(self, limiter_of: Callable[[str, str], Limiter]) -> None:
        self._limiter_of = limiter_of
        # When a gateway's page first arrived, for each call that had one in place of an answer, and
        # when the latest call left that the API itself answered.
        self._pages: list[float] = []
        self._api_answered = float("-inf")
        # Until when the last pause that was logged lasts.
        self._told_until = float("-inf")

    def answered(self, ticket: Ticket) -> None:
        """The API itself has answered a call, with an error perhaps."""
        self._api_answered = max(self._api_answered, ticket.sent_at)

    def judge(
        self, call: Call, ticket: Ticket, failure: ApiFailure, now: float
    ) -> TryAgain | SetAside | Stop:
        """What becomes of a call that has just failed; its tries are counted in it."""
        outcome = of_call_failure(failure)
        page = is_page_for_a_call(failure)
        if failure.error_type is not None:
            self.answered(ticket)
        elif page and call.paged_at is None:
            call.paged_at = now
            self._pages.append(now)
        limiter = self._limiter_of(*call.way)
        if outcome.action is Action.STOP:
            limiter.rejected(now, ticket, failure.limits)
            return Stop(failure)
        if is_refused_as_busy(failure) or not failure.connected:
            return self._not_taken_in(call, ticket, failure, outcome, now)
        if outcome.action is not Action.RETRY:
            limiter.rejected(now, ticket, failure.limits)
            return SetAside(outcome)
        return self._failed(call, ticket, failure, outcome, now, page=page)

    def _failed(
        self,
        call: Call,
        ticket: Ticket,
        failure: ApiFailure,
        outcome: Outcome,
        now: float,
        *,
        page: bool,
    ) -> TryAgain | SetAside | Stop:
        """Judge a call that failed for a reason that passes, and that may have been answered."""
        limiter = self._limiter_of(*call.way)
        if page:
            # It says nothing of the API's load.
            limiter.rejected(now, ticket, failure.limits)
        else:
            limiter.failed(now, ticket)
        call.failed += 1
        turned_away = page and failure.status is not None and failure.status >= 300
        # Unless the API reported an error, or a gateway turned the call away, it may have been
        # answered and billed.
        if failure.error_type is None and not turned_away:
            call.lost += 1
            call.shard.count_lost(call.number, 1)
        if page and call.failed >= ERROR_TRIES and self._is_behind_gateway():
            return Stop(failure)
        if call.failed < (BUSY_TRIES if turned_away else ERROR_TRIES):
            return _again(now, call.failed, failure.retry_after)
        return SetAside(outcome)

    def _is_behind_gateway(self) -> bool:
        """Whether a gateway answers all calls with its page: no call that left after the first of
        these pages was answered by the API.

        Otherwise the page is about the one document, as that of a firewall which takes offence.
        """
        self._pages = [at for at in self._pages if at > self._api_answered]
        return len(self._pages) >= MOST_PAGES

    def _not_taken_in(
        self, call: Call, ticket: Ticket, failure: ApiFailure, outcome: Outcome, now: float
    ) -> TryAgain | SetAside:
        """Judge a call whose request the API did not take in: too busy, or not connected."""
        call.busy += 1
        limit, limiter = None, self._limiter_of(*call.way)
        if failure.status == 429:
            limiter.throttled(now, ticket, failure.retry_after, failure.limits)
            self._tell_pause(limiter, now)
            limit = limiter.over(ticket, failure.limits)
        else:
            limiter.overloaded(now, ticket)
        if limit is not None and call.busy >= TOO_LARGE_TRIES:
            message = f"larger than the account's limit of {limit}: {outcome.error_message}"
            return SetAside(replace(outcome, error_message=message))
        if call.busy < BUSY_TRIES or not failure.connected:
            # Without a connection the request was not refused: it is tried until there is one.
            return _again(now, call.busy, failure.retry_after)
        return SetAside(outcome, attempted=False)

    def _tell_pause(self, limiter: Limiter, now: float) -> None:
        """Log a long pause of a limiter; calls that are refused together are one pause."""
        left = limiter.pause_left(now)
        if left > TOLD_PAUSE_SECONDS and now > self._told_until:
            self._told_until = now + left
            log.warning("the API asks real-time calls to wait: they go on in %s", duration(left))


def _again(now: float, tries: int, retry_after: float | None) -> TryAgain:
    pause = min(FIRST_RETRY_SECONDS * 2 ** (tries - 1), LONGEST_RETRY_SECONDS)
    pause *= 0.5 + 0.5 * random.random()  # noqa: S311  # no secret, only spread
    return TryAgain(now + max(pause, min(retry_after or 0.0, LONGEST_RETRY_SECONDS)))
