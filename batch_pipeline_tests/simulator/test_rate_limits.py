"""The buckets of real-time messages, by a clock of the test, and over the wire."""

from __future__ import annotations

import httpx2
import pytest

from batch_pipeline.simulator import MessageLimits, Simulator
from batch_pipeline.simulator.rate_limits import RateLimiter
from batch_pipeline.simulator.wire import ApiError
from batch_pipeline_tests.simulator.conftest import params


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def admitted(limiter: RateLimiter, tokens: int, most: int) -> int:
    """The number of requests of `tokens` input tokens that are let in before one is refused."""
    for count in range(most):
        try:
            limiter.admit(tokens)
        except ApiError:
            return count
    return most


@pytest.mark.parametrize(
    ("limits", "tokens", "at_once", "after_ten_seconds"),
    [
        (MessageLimits(), 10_000, 100, 100),
        (MessageLimits(requests=60), 10_000, 60, 10),
        (MessageLimits(input_tokens=6_000), 100, 60, 10),
        # The scarcer of two decides.
        (MessageLimits(requests=12, input_tokens=6_000), 100, 12, 2),
        # Larger than a minute: never.
        (MessageLimits(input_tokens=6_000), 6_001, 0, 0),
    ],
)
def test_a_full_bucket_goes_at_once_and_then_as_it_is_refilled(
    limits: MessageLimits, tokens: int, at_once: int, after_ten_seconds: int
) -> None:
    clock = Clock()
    limiter = RateLimiter(limits, clock)
    assert admitted(limiter, tokens, 100) == at_once
    clock.now += 10
    assert admitted(limiter, tokens, 100) == after_ten_seconds


def test_output_counts_once_it_is_known_and_may_run_below_nothing() -> None:
    clock = Clock()
    limiter = RateLimiter(MessageLimits(output_tokens=600), clock)
    limiter.admit(1)
    limiter.spend(1_000)
    assert limiter.headers()["anthropic-ratelimit-output-tokens-remaining"] == "0"
    clock.now += 40
    assert admitted(limiter, 1, 1) == 0
    clock.now += 1
    assert admitted(limiter, 1, 1) == 1


def test_a_refusal_says_when_to_come_back_and_takes_nothing() -> None:
    clock = Clock()
    limiter = RateLimiter(MessageLimits(requests=2, input_tokens=600), clock)
    limiter.admit(500)
    for _ in range(3):
        with pytest.raises(ApiError) as refused:
            limiter.admit(500)
        assert (refused.value.status, refused.value.kind) == (429, "rate_limit_error")
        assert refused.value.headers["retry-after"] == "40"
    clock.now += 40
    limiter.admit(500)


def test_over_the_wire_it_is_the_api_s_429(sim: Simulator, http: httpx2.Client) -> None:
    sim.set_message_limits(MessageLimits(requests=1))
    good = http.post("/v1/messages", json=params())
    assert good.status_code == 200
    assert good.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert good.headers["anthropic-ratelimit-requests-remaining"] == "0"
    refused = http.post("/v1/messages", json=params())
    assert refused.status_code == 429
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert int(refused.headers["retry-after"]) > 50
    assert (sim.books.billed_requests, sim.books.rate_limited_messages) == (1, 1)
