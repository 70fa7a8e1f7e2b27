"""What an answer that is no success leads to, and the turns of a request that sends it back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pytest

from batch_pipeline.flow.answers.outcomes import Action, Outcome, Status, settle
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.further import Further
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.planning import further_turns
from batch_pipeline.flow.planning.further_turns import Said, turns_of
from batch_pipeline.flow.planning.variants import MOST_CONTINUATIONS, Asked, Ways
from batch_pipeline.jobs.spec import RetrySpec
from batch_pipeline.pricing.documents import MAX_REQUEST_BYTES
from batch_pipeline_tests.support import documents, job

BROKEN = Outcome(Status.INVALID_OUTPUT, Action.SET_ASIDE, "schema_violation", "no")
NOT_JSON = replace(BROKEN, error_type="not_json")
EMPTY = replace(BROKEN, error_type="empty_answer")
CUT_OFF = Outcome(Status.TRUNCATED, Action.SET_ASIDE, "max_tokens", "cut off")
PAUSED = Outcome(Status.INVALID_OUTPUT, Action.SET_ASIDE, "stop_reason:pause_turn", "paused")
REFUSED = Outcome(Status.REFUSED, Action.SET_ASIDE, "refusal", "no")
BUSY = Outcome(Status.ERRORED, Action.RETRY, "overloaded_error", "busy")
ALL: dict[str, Any] = {
    "explain": True,
    "truncated_max_tokens": 900,
    "escalate": {"model_id": "claude-opus-4-6", "outcomes": ["invalid_output", "truncated"]},
}
LARGE = 2**40


def ways(**retry: Any) -> Ways:
    spec = job("in.jsonl", max_tokens=500)
    return Ways(RetrySpec.model_validate(retry), Declaration.of(spec))


@pytest.mark.parametrize(
    ("retry", "asked", "outcome", "turn_bytes", "action"),
    [
        ({}, None, BROKEN, 10, Action.SET_ASIDE),
        ({"explain": True}, None, BROKEN, 10, Action.EXPLAIN),
        ({"explain": True}, None, NOT_JSON, 10, Action.EXPLAIN),
        # A call of a tool, no text, and what is too large cannot be sent back.
        ({"explain": True}, None, BROKEN, 0, Action.SET_ASIDE),
        ({"explain": True}, None, EMPTY, 0, Action.SET_ASIDE),
        ({"explain": True}, None, BROKEN, LARGE, Action.SET_ASIDE),
        ({"explain": True}, None, REFUSED, 10, Action.SET_ASIDE),
        ({"explain": True}, None, BUSY, 10, Action.RETRY),
        ({"explain": True}, "explain", BROKEN, 10, Action.SET_ASIDE),
        ({"explain": True}, "explain+continue", BROKEN, 10, Action.SET_ASIDE),
        ({"explain": True}, "continue", BROKEN, 10, Action.EXPLAIN),
        # Explained before a stronger model is asked, and with the room that an answer had.
        (ALL, None, BROKEN, 10, Action.EXPLAIN),
        (ALL, "explain", BROKEN, 10, Action.ESCALATE),
        (ALL, "escalate", BROKEN, 10, Action.SET_ASIDE),
        (ALL, "more_room", BROKEN, 10, Action.EXPLAIN),
        (ALL, "explain", CUT_OFF, 0, Action.MORE_ROOM),
        (ALL, "more_room+explain", CUT_OFF, 0, Action.ESCALATE),
        # Whatever is asked may pause.
        ({}, None, PAUSED, 10, Action.CONTINUE),
        (ALL, "continue", PAUSED, 10, Action.CONTINUE),
        (ALL, "escalate+continue", PAUSED, 10, Action.CONTINUE),
        (ALL, "explain", PAUSED, 10, Action.CONTINUE),
        ({}, None, PAUSED, 0, Action.SET_ASIDE),
        ({}, None, PAUSED, LARGE, Action.SET_ASIDE),
    ],
)
def test_what_follows_an_answer(
    retry: dict[str, Any], asked: str | None, outcome: Outcome, turn_bytes: int, action: Action
) -> None:
    found = ways(**retry).after(Asked(asked, None, 1_000), outcome, turn_bytes)
    assert found.action is action
    again = (Action.EXPLAIN, Action.CONTINUE, Action.MORE_ROOM, Action.ESCALATE, Action.RETRY)
    assert settle(found, 1, max_attempts=2) is (action not in again)
    if action in (Action.EXPLAIN, Action.CONTINUE):
        assert not settle(found, 99, max_attempts=1)


@pytest.mark.parametrize(
    ("continuations", "action"),
    [(n, Action.CONTINUE) for n in range(MOST_CONTINUATIONS)]
    + [(MOST_CONTINUATIONS, Action.SET_ASIDE)],
)
def test_an_answer_is_continued_ten_times(continuations: int, action: Action) -> None:
    asked = Asked("continue", None, 1_000, continuations=continuations)
    outcome = ways().after(asked, PAUSED, 10)
    assert outcome.action is action
    if action is Action.SET_ASIDE:
        assert outcome.error_message == "the answer paused 11 times without an end"


EMPTY_TEXT = {"type": "text", "text": ""}
TEXT, SEARCH = {"type": "text", "text": 'say "ä"\n'}, {"type": "server_tool_use", "id": "s"}


def paused(*blocks: dict[str, Any], container: str | None = None) -> Said:
    message = {"stop_reason": "pause_turn", "content": blocks, "container": {"id": container}}
    return Said(*further_turns.pause_of(orjson.loads(orjson.dumps(message))))


def explained(text: str = "{}", message: str = "no 'a'") -> Said:
    return Said(None, None, text, message)


@pytest.mark.parametrize(
    ("said", "turns", "blocks"),
    [
        ([paused(TEXT, EMPTY_TEXT, SEARCH)], [("assistant", [TEXT, SEARCH])], [TEXT, SEARCH]),
        (
            [paused(TEXT, SEARCH), paused(SEARCH), paused(TEXT)],
            [("assistant", [TEXT, SEARCH, SEARCH, TEXT])],
            [TEXT, SEARCH, SEARCH, TEXT],
        ),
        ([explained('{"b": "ä"}')], [("assistant", '{"b": "ä"}'), ("user", None)], []),
        # What was paused is part of the text that is explained.
        ([paused(TEXT), explained()], [("assistant", "{}"), ("user", None)], []),
        (
            [explained(), paused(SEARCH)],
            [("assistant", "{}"), ("user", None), ("assistant", [SEARCH])],
            [SEARCH],
        ),
    ],
)
def test_turns(said: list[Said], turns: list[tuple[str, Any]], blocks: list[Any]) -> None:
    text = turns_of(said)
    found = orjson.loads(f"[{text[1:]}]")
    assert [turn["role"] for turn in found] == [role for role, _ in turns]
    assert [t["content"] for t in found if t["role"] == "assistant"] == [
        content for role, content in turns if role == "assistant"
    ]
    for turn in found:
        if turn["role"] == "user":
            assert turn["content"] == (
                "Your answer does not fit the required format: no 'a'. Answer again, with the "
                "corrected JSON alone."
            )
    assert further_turns.paused_blocks(text) == blocks
    assert further_turns.paused_blocks(None) == []


@pytest.mark.parametrize(
    "message",
    [
        None,
        {"stop_reason": "end_turn", "content": [TEXT]},
        *(
            {"stop_reason": "pause_turn", "content": odd}
            for odd in (None, [], "text", [1], [EMPTY_TEXT])
        ),
    ],
)
def test_what_has_not_paused_does_not_go_on(message: object) -> None:
    assert further_turns.pause_of(message) == (None, None)
    assert further_turns.pause_bytes(None, None) == 0


def units(*rows: dict[str, Any]) -> pa.Table:
    unset: dict[str, Any] = {
        "route": None, "request_bytes": 1_000, "prompt_size": None,
        "visual_tokens": None, "cut_off": False, "escalate": False, "turns": None,
        "container": None, "continuations": None, "explained": None,
    }  # fmt: skip
    types = {"route": pa.string(), "prompt_size": pa.int64(), "turns": pa.string()}
    types |= {
        "visual_tokens": pa.int64(),
        "container": pa.string(),
        "continuations": pa.int64(),
        "explained": pa.bool_(),
    }
    full = [{**unset, **row} for row in rows]
    return pa.table(
        {name: pa.array([row[name] for row in full], types.get(name)) for name in unset}
    )


def test_a_request_is_as_long_as_its_turns_make_it() -> None:
    declaration = Declaration.of(job("in.jsonl", max_tokens=500, output_schema={}))
    spec = RetrySpec.model_validate(ALL)
    turns, longer = turns_of([explained()]), turns_of([paused(TEXT, SEARCH)])
    reason = {"turns": turns, "continuations": 0, "explained": True}
    pause = {"turns": longer, "container": "c", "continuations": 2, "explained": False}
    both = {**pause, "explained": True}
    asked = units(
        {},
        reason,
        pause,
        {**both, "prompt_size": 7},
        {**reason, "cut_off": True},
        {**pause, "escalate": True},
        {**pause, "request_bytes": MAX_REQUEST_BYTES - 5},
    )
    given = Ways(spec, declaration).given_to(asked)
    names = given.column("variant").to_pylist()
    assert names == [
        None, "explain", "continue", "explain+continue", "more_room+explain", "escalate+continue",
        None,
    ]  # fmt: skip
    assert given.column("turns").to_pylist()[-1] is None
    row = orjson.dumps(documents(1)[0])
    definitions = {each.name: each for each in Ways(spec, declaration).definitions(names)}
    for name, size, text, container in zip(
        *(given.column(c).to_pylist() for c in ("variant", "request_bytes", "turns", "container")),
        strict=True,
    ):
        if text is None:
            continue
        declared = definitions[name].declared_as(declaration)
        plain = RequestBuilder(declaration).rebuild(row)
        made = RequestBuilder(declared).rebuild(row, None, Further(text.encode(), container))
        assert len(made) - len(plain) == size - 1_000
        params = orjson.loads(made)
        assert params["messages"][1:] == orjson.loads(f"[{text[1:]}]")
        assert params.get("container") == container
    assert given.column("prompt_size").to_pylist()[3] == given["request_bytes"][3].as_py() - 993
    # A job that explains no more asks as declared, and still goes on with what was paused.
    without = Ways(RetrySpec(), declaration).given_to(asked)
    assert without.column("variant").to_pylist() == [None, None, "continue", None, None, None, None]
    assert without.column("request_bytes").to_pylist()[1] == 1_000


def test_units_are_read_with_few_that_were_sent_back_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(further_turns, "_UNITS_AT_ONCE", 3)
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE said AS SELECT 'u' || n AS unit, k AS attempt, NULL::VARCHAR AS turn, "
            "NULL::VARCHAR AS container, 'answer ' || n AS content, 'no' AS error_message "
            "FROM range(0, 20, 2) AS found(n), range(2) AS tries(k)"
        )
        table = pa.table({"unit": [f"u{n}" for n in range(25)]})
        streamed = (table.slice(start, 10) for start in range(0, 25, 10))
        parts = list(further_turns.given_to(connection, streamed))
    found = pa.concat_tables(parts)
    assert found.column("unit").to_pylist() == table.column("unit").to_pylist()
    assert all(part.num_rows - part.column("explained").null_count <= 3 for part in parts)
    for unit, turns in zip(*(found.column(n).to_pylist() for n in ("unit", "turns")), strict=True):
        number = int(unit[1:])
        assert (turns is None) is (number % 2 == 1 or number >= 20)
        assert turns is None or f'answer {number}"' in turns
