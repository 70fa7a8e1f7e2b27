"""The prompt cache: writes, reads, lifetimes, minimum lengths, and the order within a batch."""

from __future__ import annotations

from typing import Any

import pytest
from anthropic import Anthropic

from batch_pipeline.simulator import Simulator
from batch_pipeline.simulator.answers.prompt_cache import PromptCache, Split, Work, parts_of
from batch_pipeline.simulator.answers.tokens import count_input
from batch_pipeline.simulator.books.content_digest import content_digest
from batch_pipeline.simulator.checking.checks import check_message
from batch_pipeline_tests.simulator.conftest import params

HAIKU, OPUS = "claude-haiku-4-5-20251001", "claude-opus-5"
SHARED = "The contract. " * 400
TOKENS = 1_400


def mark(ttl: str = "5m") -> dict[str, Any]:
    return {"cache_control": {"type": "ephemeral", "ttl": ttl}}


def cached(
    text: str = SHARED, ttl: str = "5m", question: str = "And?", model: str = OPUS
) -> dict[str, Any]:
    return params(question, model=model, system=[{"type": "text", "text": text, **mark(ttl)}])


def at(begin: float, seconds: float = 1.0, **changes: Any) -> Work:
    return Work(begin, begin + seconds, **changes)


def test_a_cached_prefix_is_written_once_and_then_read() -> None:
    cache = PromptCache()
    asked = [cached(ttl="1h", question="First?"), cached(ttl="1h", question="Second question?")]
    first, again = (cache.split(each, at(n)) for n, each in enumerate(asked))
    other = cache.split(cached(SHARED.upper()), at(9))

    assert (first.written_5m, first.written_1h, first.read) == (0, TOKENS, 0)
    assert (again.written_5m, again.written_1h, again.read) == (0, 0, TOKENS)
    assert (other.written_5m, other.read) == (TOKENS, 0)
    for split, each in zip((first, again), asked, strict=True):
        assert sum(split) == count_input(each)


@pytest.mark.parametrize(
    ("model", "tokens", "written"),
    [(OPUS, 511, 0), (OPUS, 512, 512), (HAIKU, 4_095, 0), (HAIKU, 4_096, 4_096)],
)
def test_a_prefix_below_the_models_minimum_is_not_cached(
    model: str, tokens: int, written: int
) -> None:
    cache = PromptCache()
    for begin in (0, 10):
        split = cache.split(cached("abcd" * tokens, model=model), at(begin))
        assert (split.written_5m, split.read) == (written if begin == 0 else 0, written - split[1])


@pytest.mark.parametrize(
    ("second", "read"),
    [
        (at(0.5), False),  # the first has not ended yet
        (at(1.0), True),
        (at(300.9), True),
        (at(301.0), False),
        (at(1.0, workspace="team-b"), False),
        (at(1.0, hits=0.0), False),
    ],
)
def test_an_entry_is_read_from_the_end_of_its_write_until_it_expires(
    second: Work, read: bool
) -> None:
    cache = PromptCache()
    cache.split(cached(), at(0))
    assert bool(cache.split(cached(question="Then?"), second).read) is read


def test_a_read_makes_an_entry_last_as_long_again() -> None:
    cache = PromptCache()
    for begin in (0, 299, 598):
        split = cache.split(cached(question=f"{begin}?"), at(begin))
        assert bool(split.read) is (begin > 0)
    cache.pass_time(301)
    assert not cache.split(cached(), at(598)).read


def test_another_schema_or_thinking_finds_nothing_and_max_tokens_changes_nothing() -> None:
    cache = PromptCache()
    cache.split(cached(), at(0))
    schema = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert not cache.split({**cached(), "output_config": schema}, at(2)).read
    assert not cache.split({**cached(), "thinking": {"type": "disabled"}}, at(2)).read
    assert cache.split({**cached(), "max_tokens": 999}, at(2)).read


def test_a_mark_finds_entries_of_blocks_before_it() -> None:
    """What a mark at the system prompt has written is read by a mark at the message after it."""
    cache = PromptCache()
    cache.split(cached(), at(0))
    asked = cached()
    del asked["system"][0]["cache_control"]
    asked["messages"][0]["content"] = [{"type": "text", "text": "abcd" * 100, **mark()}]
    split = cache.split(asked, at(2))
    assert (split.read, split.written_5m) == (TOKENS, 104)


def test_the_parts_of_a_batch_follow_each_other() -> None:
    cache = PromptCache()
    splits: list[Split] = []
    for number, (begin, end) in enumerate(parts_of(50.0, 50.0, 8)):
        splits.append(cache.split(cached(question=f"{number}?"), Work(begin, end)))
    assert [bool(split.read) for split in splits] == [False] * 2 + [True] * 6


@pytest.mark.parametrize(
    ("marks", "problem"),
    [
        (["1h", "5m", "5m", "5m"], None),
        (["5m"] * 5, "A maximum of 4"),
        (["5m", "1h"], "must not come after"),
        (["2h"], "Input should be '5m' or '1h'"),
    ],
)
def test_marks_are_checked(marks: list[str], problem: str | None) -> None:
    blocks = [{"type": "text", "text": "x", **mark(ttl)} for ttl in marks]
    found = check_message(params(system=blocks), "2026-10-21")
    assert (found is None) is (problem is None)
    assert found is None or str(problem) in found.message


def test_marks_and_blocks_are_no_content() -> None:
    plain = params("One. Two.", system="Be brief.", tools=[{"name": "a"}])
    marked = params(
        "",
        system=[{"type": "text", "text": "Be brief.", **mark()}],
        tools=[{"name": "a", **mark()}],
    )
    blocks = [{"type": "text", "text": "One. ", **mark()}, {"type": "text", "text": "Two."}]
    marked["messages"][0]["content"] = blocks
    assert content_digest(marked) == content_digest(plain)
    blocks[1]["text"] = "Three."
    assert content_digest(marked) != content_digest(plain)


def test_a_batch_is_billed_by_what_it_wrote_and_read(client: Anthropic, sim: Simulator) -> None:
    """A warm prefix is read by all of a batch that finds it; a cold one is written by its first
    part, and a mark of another workspace finds nothing."""
    sim.set_cache_hits(1.0)
    sim.set_turnaround(0.0)
    usages = []
    for _ in range(2):
        requests: Any = [
            {"custom_id": f"r{n}", "params": cached(ttl="1h", question=f"{n}?")} for n in range(8)
        ]
        batch = client.messages.batches.create(requests=requests)
        client.messages.batches.retrieve(batch.id)
        lines = list(client.messages.batches.results(batch.id))
        usages.append([line.result.message.usage for line in lines])  # type: ignore[union-attr]
    cold, warm = usages
    assert sum(u.cache_creation_input_tokens or 0 for u in cold) == 2 * TOKENS
    assert sum(u.cache_read_input_tokens or 0 for u in warm) == 8 * TOKENS
    other = client.with_options(api_key="any@team-b")
    message = other.messages.create(**cached(question="Who?"))
    assert message.usage.cache_read_input_tokens == 0
    sim.age_cache(3_601)
    assert client.messages.create(**cached(question="9?")).usage.cache_read_input_tokens == 0
