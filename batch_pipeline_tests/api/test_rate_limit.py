"""The limiter against a server in virtual time: it reaches what it is given and rarely trips."""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.api.protocol import RateLimit
from batch_pipeline.api.rate_limit import (
    FIRST_WINDOW,
    INPUT,
    LONGEST_PAUSE_SECONDS,
    OUTPUT,
    REQUESTS,
    Limiter,
    Ticket,
)

BYTES, TOKENS, OUTPUT_TOKENS = 3_000, 750, 150


@dataclass
class Server:
    """Token buckets like the API's; `stamped` says when its headers look: at the call or the
    answer."""

    limits: Mapping[str, float]
    chance: random.Random
    stamped: str = "call"
    named: bool = True
    retry_after: float | None = 1.0
    levels: dict[str, float] = field(default_factory=dict)
    at: float = 0.0
    refused: int = 0

    def __post_init__(self) -> None:
        self.levels = dict(self.limits)

    def headers(self, now: float) -> dict[str, RateLimit]:
        self._refill(now)
        if not self.named:
            return {}
        return {n: RateLimit(v, max(0, self.levels[n])) for n, v in self.limits.items()}

    def admits(self, now: float, tokens: int) -> bool:
        self._refill(now)
        wanted = {REQUESTS: 1, INPUT: tokens, OUTPUT: 1}
        if any(level < wanted[name] for name, level in self.levels.items()):
            self.refused += 1
            return False
        for name in self.levels.keys() - {OUTPUT}:
            self.levels[name] -= wanted[name]
        return True

    def answers(self, now: float, tokens: int) -> None:
        self._refill(now)
        if OUTPUT in self.levels:
            self.levels[OUTPUT] -= tokens

    def _refill(self, now: float) -> None:
        for name, limit in self.limits.items():
            refilled = self.levels[name] + limit / 60 * (now - self.at)
            self.levels[name] = min(limit, refilled)
        self.at = now


@dataclass(order=True)
class Ending:
    at: float
    order: int
    ok: bool = field(compare=False)
    client: int = field(compare=False)
    ticket: Ticket = field(compare=False)
    tokens: tuple[int, int] = field(compare=False)
    headers: dict[str, RateLimit] = field(compare=False)


def seconds_for(
    server: Server, calls: int, *, latency: float, concurrency: int, clients: int = 1
) -> float:
    """How long `clients` with a limiter each take for so many calls, refusals repeated."""
    limiters = [Limiter(server.chance.random) for _ in range(clients)]
    now, left, order = 0.0, calls, 0
    endings: list[Ending] = []
    while left or endings:
        wake = float("inf")
        for number, limiter in enumerate(limiters):
            while left and limiter.flying < concurrency:
                wait = limiter.wait(now, BYTES)
                if wait is None or wait > 0:
                    wake = min(wake, now + wait + 1e-9) if wait is not None else wake
                    break
                left, order = left - 1, order + 1
                ticket = limiter.sent(now, BYTES)
                tokens = int(TOKENS * server.chance.uniform(0.8, 1.2))
                output = int(OUTPUT_TOKENS * server.chance.expovariate(1)) + 1
                ok = server.admits(now, tokens)
                ends = now + (latency * server.chance.uniform(0.5, 1.5) if ok else 0.01)
                said = server.headers(now)
                heapq.heappush(
                    endings, Ending(ends, order, ok, number, ticket, (tokens, output), said)
                )
        if not endings or endings[0].at > wake:
            assert wake < float("inf"), "nothing is under way, and nothing may leave"
            now = wake
            continue
        ending = heapq.heappop(endings)
        now, limiter = ending.at, limiters[ending.client]
        if not ending.ok:
            limiter.throttled(now, ending.ticket, server.retry_after, server.headers(now))
            left += 1
            continue
        server.answers(now, ending.tokens[1])
        said = ending.headers if server.stamped == "call" else server.headers(now)
        limiter.answered(now, ending.ticket, *ending.tokens, said)
    return now


def least(limits: Mapping[str, float], calls: int, latency: float, concurrency: int) -> float:
    """The seconds that nobody can be faster than: full buckets, then what is refilled."""
    use = {REQUESTS: 1, INPUT: TOKENS, OUTPUT: OUTPUT_TOKENS}
    found = [(calls * use[name] - limit) / (limit / 60) for name, limit in limits.items()]
    return max([*found, calls * latency / concurrency])


@pytest.mark.parametrize("stamped", ["call", "answer"])
@pytest.mark.parametrize(
    ("limits", "latency", "concurrency", "calls"),
    [
        ({REQUESTS: 2_000}, 0.05, 100, 4_000),
        ({REQUESTS: 2_000}, 2.0, 150, 4_000),
        ({REQUESTS: 50_000, INPUT: 1_000_000}, 2.0, 100, 3_000),
        ({REQUESTS: 50_000, INPUT: 1_000_000, OUTPUT: 200_000}, 4.0, 150, 3_000),
        ({REQUESTS: 50, INPUT: 50_000, OUTPUT: 10_000}, 3.0, 20, 200),
    ],
)
def test_it_reaches_the_limit_it_is_given_and_does_not_trip_over_it(
    limits: dict[str, float], latency: float, concurrency: int, calls: int, stamped: str
) -> None:
    server = Server(limits, random.Random(1), stamped)
    took = seconds_for(server, calls, latency=latency, concurrency=concurrency)
    best = least(limits, calls, latency, concurrency)
    # The first calls find out, and the last ones take their time.
    assert took <= 1.05 * best + 3 * latency
    assert server.refused <= 0.05 * calls


def test_processes_that_share_an_account_share_its_limits() -> None:
    server = Server({REQUESTS: 3_000}, random.Random(1))
    took = seconds_for(server, 5_000, latency=0.5, concurrency=50, clients=2)
    assert took <= 1.05 * least({REQUESTS: 3_000}, 5_000, 0.5, 100) + 1.5
    assert server.refused <= 100


@pytest.mark.parametrize("retry_after", [1.0, None])
def test_without_headers_refusals_are_what_it_goes_by(retry_after: float | None) -> None:
    server = Server({REQUESTS: 3_000}, random.Random(1), named=False, retry_after=retry_after)
    took = seconds_for(server, 5_000, latency=0.5, concurrency=50)
    assert took <= 1.2 * least({REQUESTS: 3_000}, 5_000, 0.5, 50)
    assert server.refused <= 500


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    rpm=st.integers(30, 3_000),
    latency=st.floats(0.01, 5),
    concurrency=st.integers(1, 100),
    stamped=st.sampled_from(["call", "answer"]),
)
def test_whatever_the_limit_all_is_answered_about_as_soon_as_it_can_be(
    seed: int, rpm: int, latency: float, concurrency: int, stamped: str
) -> None:
    calls = min(2 * rpm, 500)
    server = Server({REQUESTS: rpm}, random.Random(seed), stamped)
    took = seconds_for(server, calls, latency=latency, concurrency=concurrency)
    best = least({REQUESTS: rpm}, calls, latency, concurrency)
    assert took <= 1.3 * best + 8 * latency + 4
    assert server.refused <= 0.3 * calls + 10


def flying(limiter: Limiter, count: int, now: float = 0.0) -> list[Ticket]:
    tickets = []
    for _ in range(count):
        assert limiter.wait(now, BYTES) == 0
        tickets.append(limiter.sent(now, BYTES))
    return tickets


def test_before_anything_is_known_few_calls_leave() -> None:
    limiter = Limiter()
    [first, *_] = flying(limiter, FIRST_WINDOW)
    assert limiter.wait(0, BYTES) is None
    limiter.answered(1, first, TOKENS, OUTPUT_TOKENS, {REQUESTS: RateLimit(1_000, 900)})
    assert limiter.wait(1, BYTES) == 0


def test_a_refusal_keeps_everybody_waiting_for_as_long_as_it_says() -> None:
    limiter = Limiter(chance=lambda: 1.0)
    [ticket] = flying(limiter, 1)
    limiter.throttled(10, ticket, 7.0, {})
    assert limiter.wait(10, BYTES) == pytest.approx(7.7)
    assert limiter.wait(18, BYTES) == 0
    [ticket] = flying(limiter, 1, now=18)
    limiter.throttled(18, ticket, 9_999, {})
    assert limiter.wait(18, BYTES) == pytest.approx(1.1 * LONGEST_PAUSE_SECONDS)


def test_an_overloaded_api_is_asked_by_fewer_and_then_by_more_again() -> None:
    limiter = Limiter()
    now = 0.0
    tickets = flying(limiter, FIRST_WINDOW)
    for ticket in tickets[: FIRST_WINDOW // 2]:
        limiter.answered(now, ticket, TOKENS, OUTPUT_TOKENS, {})
    for ticket in tickets[FIRST_WINDOW // 2 :]:
        limiter.overloaded(now, ticket)
    narrowed = 0
    while limiter.wait(now, BYTES) == 0:
        tickets = [*tickets, limiter.sent(now, BYTES)]
        narrowed += 1
    assert 1 <= narrowed <= FIRST_WINDOW // 2
    for ticket in tickets[-narrowed:]:
        limiter.answered(now, ticket, TOKENS, OUTPUT_TOKENS, {})
    widened = 0
    while limiter.wait(now, BYTES) == 0:
        limiter.sent(now, BYTES)
        widened += 1
    assert widened > narrowed


def test_while_nothing_but_faults_comes_back_one_call_finds_out_when_that_ends() -> None:
    limiter = Limiter(chance=lambda: 1.0)
    now = 0.0
    for ticket in flying(limiter, 5, now):
        limiter.failed(now + 1, ticket)  # under way together: one outage so far
    assert limiter.wait(now + 1, BYTES) == 0
    pauses = []
    for _ in range(8):
        now += 100
        [ticket] = flying(limiter, 1, now)
        limiter.failed(now + 1, ticket)
        pauses.append(limiter.wait(now + 1, BYTES))
    assert pauses == sorted(pauses, key=lambda pause: pause or 0)
    assert pauses[0] == pytest.approx(2)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE_SECONDS)
    now += 200
    [probe] = flying(limiter, 1, now)
    assert limiter.wait(now, BYTES) is None  # one at a time
    limiter.answered(now, probe, TOKENS, OUTPUT_TOKENS, {})
    assert len(flying(limiter, 10, now)) == 10


def test_single_faults_among_answers_change_nothing() -> None:
    limiter = Limiter()
    now = 0.0
    for _ in range(50):
        now += 1
        good, bad = flying(limiter, 2, now)
        limiter.failed(now, bad)
        limiter.answered(now, good, TOKENS, OUTPUT_TOKENS, {})
        assert limiter.wait(now, BYTES) == 0


def test_tokens_are_estimated_from_what_was_seen() -> None:
    limiter = Limiter()
    [ticket] = flying(limiter, 1)
    limits = {INPUT: RateLimit(60_000, 60_000)}
    for _ in range(200):
        limiter.answered(0, ticket, 6_000, 10, limits)
        ticket = limiter.sent(0, BYTES)
    # Twice as many tokens as bytes here: a tenth of the limit is one call.
    limiter.answered(0, ticket, 6_000, 10, {INPUT: RateLimit(60_000, 1_200)})
    assert limiter.wait(0, BYTES) == pytest.approx(6, abs=0.5)


def test_a_call_larger_than_a_limit_waits_for_it_to_be_whole() -> None:
    limiter = Limiter()
    [ticket] = flying(limiter, 1)
    limiter.answered(0, ticket, TOKENS, 1, {INPUT: RateLimit(1_000, 0)})
    wait = limiter.wait(0, 10**6)
    assert wait is not None
    assert 0 < wait <= 60
    assert limiter.wait(60, 10**6) == 0
