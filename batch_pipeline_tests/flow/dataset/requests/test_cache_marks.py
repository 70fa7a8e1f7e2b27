"""Cache marks: where they stand, and that a request says the same with and without them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.flow.dataset.reading.row_json import places_of, row_of_json
from batch_pipeline.flow.dataset.requests import cache_marks
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder, mark_bytes
from batch_pipeline.simulator import content_hash
from batch_pipeline.simulator.checking.checks import check_message
from batch_pipeline_tests.support import job

TOOLS: list[dict[str, Any]] = [
    {"name": "a", "input_schema": {"type": "object"}},
    {"name": "b", "defer_loading": True},
]
MARK = {"type": "ephemeral", "ttl": "1h"}
SYSTEM = {"system": "Be brief. ä", "user": "{text}"}
# What is declared, where the mark stands, and the part of the request that has it.
PLACES: list[tuple[dict[str, Any], str, Any]] = [
    (
        {
            "prompt": {"system": "Be brief.", "user": 'Sum "up" ä: {text}!'},
            "params": {"tools": TOOLS},
        },
        "message",
        [
            {"type": "text", "text": 'Sum "up" ä: ', "cache_control": MARK},
            {"type": "text", "text": "A text.!"},
        ],
    ),
    (
        {"prompt": SYSTEM, "params": {"tools": TOOLS}, "output_schema": {"type": "object"}},
        "system",
        [{"type": "text", "text": "Be brief. ä", "cache_control": MARK}],
    ),
    (
        {"prompt": {"user": " {text}"}, "params": {"tools": TOOLS}},
        "tools",
        [{**TOOLS[0], "cache_control": MARK}, TOOLS[1]],
    ),
    (
        {"prompt": {"user": "Say {{something}}."}, "deduplicate": False},
        "message",
        [{"type": "text", "text": "Say {something}.", "cache_control": MARK}],
    ),
]


def declared(changes: dict[str, Any]) -> Declaration:
    return Declaration.of(job("in.jsonl", **changes))


@pytest.mark.parametrize(("changes", "place", "marked"), PLACES)
def test_the_last_shared_part_alone_has_the_mark(
    changes: dict[str, Any], place: str, marked: Any
) -> None:
    declaration = declared(changes)
    assert cache_marks.place_of(declaration) == place
    raw = RequestBuilder(declaration, "1h").build({"text": "A text."})
    params = orjson.loads(raw)
    part = params["messages"][0]["content"] if place == "message" else params[place]
    assert part == marked
    assert raw.count(b"cache_control") == 1
    assert check_message(params, "2026-10-21") is None


@pytest.mark.parametrize("changes", [changes for changes, _, _ in PLACES])
@given(text=st.text(st.characters(codec="utf-8"), min_size=1), known=st.booleans())
def test_a_marked_request_says_the_same_and_is_longer_by_a_constant(
    changes: dict[str, Any], text: str, known: bool
) -> None:
    spec = job("in.jsonl", caching="5m", **changes)
    declaration = Declaration.of(spec)
    row = orjson.dumps({"id": "x", "text": text})
    plain, marked = RequestBuilder(declaration), RequestBuilder(declaration, "5m")
    places = places_of(row_of_json(row), plain.columns) if known else None
    before, after = plain.rebuild(row, places), marked.rebuild(row, places)
    assert content_hash(orjson.loads(after)) == content_hash(orjson.loads(before))
    assert len(after) - len(before) == mark_bytes(spec) > 0


def test_the_prefix_is_the_same_for_all_rows_and_another_for_another_prompt() -> None:
    found = [declared(changes) for changes, _, _ in PLACES]
    assert len({cache_marks.prefix_key(declaration) for declaration in found}) == len(found)
    more = declared({**PLACES[0][0], "max_tokens": 99, "betas": ()})
    assert cache_marks.prefix_key(more) == cache_marks.prefix_key(found[0])
    for declaration in found:
        params = orjson.loads(cache_marks.prefix_params(declaration))
        assert check_message(params, "2026-10-21") is None
        assert b"{text}" not in cache_marks.prefix_params(declaration)


def test_caching_is_no_part_of_a_declaration_that_ledgers_know() -> None:
    hashes = {declared({"caching": caching}).hash for caching in ("off", "auto", "5m", "1h")}
    assert hashes == {declared({}).hash}
    assert "caching" not in declared({"caching": "1h"}).to_json()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prompt": {"user": " {text} sum it up"}}, "nothing to cache"),
        ({"prompt": {"user": "{text}"}, "params": {"tools": TOOLS[1:]}}, "nothing to cache"),
        ({"params": {"tools": [{**TOOLS[0], "cache_control": MARK}]}}, "cache_control of its own"),
        ({"params": {"cache_control": MARK}}, "cache_control of its own"),
    ],
)
@pytest.mark.parametrize("caching", ["auto", "5m"])
def test_caching_is_refused_where_it_cannot_work(
    changes: dict[str, Any], problem: str, caching: str
) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        job("in.jsonl", caching=caching, **changes)
    assert "caching" in str(caught.value)
    assert job("in.jsonl", caching="off", **changes)
