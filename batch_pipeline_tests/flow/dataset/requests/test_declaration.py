"""Requests to the byte: fingerprints that never change, bodies of the announced length."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.flow.dataset.reading.row_json import places_of, row_of_json, with_places
from batch_pipeline.flow.dataset.requests.declaration import (
    FINGERPRINT_VERSION,
    Declaration,
    custom_id,
    parse_custom_id,
    unit_of,
)
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.submissions.transitions import new_token
from batch_pipeline_tests.support import job

API_RULE = re.compile(r"^[a-zA-Z0-9_-]{1,64}\Z")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"b": {"type": "string"}, "a": {"type": "integer"}},
}
TEXTS = st.text(st.characters(codec="utf-8"))


def builder(**changes: Any) -> RequestBuilder:
    return RequestBuilder(Declaration.of(job("in.jsonl", **changes)))


def built(text: str = "A text.", **changes: Any) -> bytes:
    return builder(**changes).build({"text": text})


FULL: dict[str, Any] = {
    "prompt": {"system": "Be brief. ä", "user": "Sum up: {text}"},
    "params": {"stop_sequences": ["END"], "metadata": {"user_id": "7", "a": 1}},
    "betas": ["some-beta-2026-01-01"],
    "output_schema": SCHEMA,
}


def test_what_is_sent_and_its_fingerprint_never_change() -> None:
    """Pinned: a release that changes either would buy every night again that is run once more.

    Whoever has to change this raises FINGERPRINT_VERSION and keeps the old algorithm for ledgers
    that were written with it.
    """
    plain, full = builder(), builder(**FULL)
    assert built() == (
        b'{"model":"claude-haiku-4-5-20251001","max_tokens":4000,'
        b'"messages":[{"role":"user","content":"Sum up: A text."}]}'
    )
    assert (
        built(**FULL)
        == (
            '{"model":"claude-haiku-4-5-20251001","max_tokens":4000,"system":"Be brief. ä",'
            '"messages":[{"role":"user","content":"Sum up: A text."}],'
            '"metadata":{"user_id":"7","a":1},"stop_sequences":["END"],'
            '"output_config":{"format":{"type":"json_schema","schema":{"type":"object","properties":'
            '{"b":{"type":"string"},"a":{"type":"integer"}}}}}}'
        ).encode()
    )
    assert FINGERPRINT_VERSION == 1
    assert plain.fingerprint(built()) == "a79f7f078fe10e78a5182a62bf397234"
    assert full.fingerprint(built(**FULL)) == "8ae7cfeb38711af244c7f572ca34b22b"
    fingerprint = plain.fingerprint(built())
    assert unit_of(fingerprint, "id", deduplicate=True) == fingerprint
    assert unit_of(fingerprint, "id", deduplicate=False) == "56d5286e145dbbbcc34df00d99d64321"


def test_the_fingerprint_covers_the_betas() -> None:
    assert builder(betas=["x"]).fingerprint(built()) != builder().fingerprint(built())
    assert builder(betas=["x", "y"]).fingerprint(b"") != builder(betas=["xy"]).fingerprint(b"")


def test_the_order_of_top_level_params_does_not_matter_but_that_inside_does() -> None:
    one: dict[str, Any] = {"stop_sequences": ["E"], "metadata": {"user_id": "7"}}
    other = dict(reversed(one.items()))
    assert built(params=one) == built(params=other)
    turned = {"type": "object", "properties": dict(reversed(SCHEMA["properties"].items()))}
    assert built(output_schema=SCHEMA) != built(output_schema=turned)


def test_structured_output_joins_what_params_say_of_output() -> None:
    sent = orjson.loads(built(output_schema=SCHEMA, params={"output_config": {"effort": "low"}}))
    assert sent["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": SCHEMA},
    }


@given(text=TEXTS)
def test_a_text_arrives_as_it_is(text: str) -> None:
    wanted = f'{{"q":"{text}"}}'
    sent = builder(prompt={"user": '{{"q":"{text}"}}'}).build({"text": text})
    assert orjson.loads(sent)["messages"] == [{"role": "user", "content": wanted}]


@given(text=TEXTS.filter(lambda text: text.strip()))
def test_a_snapshots_row_gives_the_same_request_again(text: str) -> None:
    row = orjson.dumps({"id": "x", "text": text})
    one = builder(prompt={"user": "{text}"})
    assert one.rebuild(row) == one.build({"text": text})


WRITERS = st.sampled_from(
    [
        orjson.dumps,
        lambda row: json.dumps(row).encode(),
        lambda row: json.dumps(row, ensure_ascii=False).encode(),
    ]
)


@given(
    cells=st.dictionaries(
        st.sampled_from(["id", "text", "te", 'a"text', "ä", "note"]),
        TEXTS
        | st.sampled_from(["text", "text:", '"text":"', 'x","text":"y', "\x7f", "a/b\n"])
        | st.dictionaries(st.just("text"), TEXTS, max_size=1)
        | st.integers(0, 99),
    ),
    text=TEXTS,
    title=TEXTS,
    write=WRITERS,
)
def test_a_request_put_together_from_places_is_the_one_that_is_built(
    cells: dict[str, Any], text: str, title: str, write: Any
) -> None:
    one = builder(prompt={"user": 'Say "\n{text}\\: {title} {text}!'})
    row = row_of_json(write({**cells, "text": text, "title": title}))
    places = places_of(row, one.columns)
    built = one.build({"text": text, "title": title})
    assert one.rebuild(row.text, places) == built
    if places is not None:
        found = one.fingerprint_and_size(row.text, places)
        assert found == (one.fingerprint(built), len(built))
    assert with_places(row, one.columns)[1] is not None
    if write is orjson.dumps:
        assert places is not None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"id":"x","text":"a \xc3\xa4"}', b"a \xc3\xa4"),
        (b'{"id" : "x", "text" : "spaced"}', None),
        (b'{"text": "spaced after"}', b"spaced after"),
        (b'{"kind":"text","text":"after its name as a cell"}', b"after its name as a cell"),
        (b'{"text":"first","text":"the last one counts"}', b"the last one counts"),
        (b'{"meta":{"text":"nested"},"text":"own"}', b"own"),
        (rb'{"text":"a line\nanother, \"quoted\""}', rb"a line\nanother, \"quoted\""),
        (rb'{"text":"caf\u00e9"}', None),
        (rb'{"text":"a\/b"}', None),
        (rb'{"a\"text":"b","text":"a name that ends like it"}', b"a name that ends like it"),
        (b'{"text":7}', None),
        (b'{"text":null}', None),
    ],
)
def test_where_a_text_lies_in_its_row(line: bytes, text: bytes | None) -> None:
    places = places_of(row_of_json(line), ("text",))
    assert (None if places is None else line[slice(*places)]) == text


@pytest.mark.parametrize("user", ["{text}", "Summarize this: {text}{text}."])
@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u2003", "\u00a0", "\u200b\ufeff", "\u2060\0"])
def test_a_document_without_a_visible_character_is_a_problem(user: str, text: str) -> None:
    assert builder(prompt={"user": user}).problem({"text": text}) == "blank document"


def test_a_document_is_all_columns_of_the_template_together() -> None:
    made = builder(prompt={"user": "{title}: {body}"})
    assert made.problem({"title": "A title", "body": ""}) is None
    assert made.problem({"title": " ", "body": "x"}) is None
    assert made.problem({"title": " ", "body": "\u200d"}) == "blank document"


@given(number=st.integers(min_value=0, max_value=99_999))
def test_custom_ids_fit_the_rule_and_map_back(number: int) -> None:
    token = new_token()
    wire = custom_id(token, number)
    assert API_RULE.match(wire)
    assert parse_custom_id(wire) == (token, number)


@pytest.mark.parametrize(
    "wire",
    [
        None,
        7,
        "",
        "req_1",
        "request-000001",
        "aaaaaaaaaaaaaaaa",
        "aaaaaaaaaaaaaaaa_",
        "AAAAAAAAAAAAAAAA_1",
        "aaaaaaaaaaaaaaaa_-1",
        "aaaaaaaaaaaaaaaa_1 ",
        "xaaaaaaaaaaaaaaaa_1",
        "aaaaaaaaaaaaaaaa_1\n",
        "aaaaaaaaaaaaaaaa_\u0661",
    ],
)
def test_ids_of_others_are_not_ours(wire: object) -> None:
    assert parse_custom_id(wire) is None


def test_tokens_do_not_repeat() -> None:
    tokens = {new_token() for _ in range(1_000)}
    assert len(tokens) == 1_000
    assert all(re.fullmatch(r"[a-z2-7]{16}", token) for token in tokens)


def test_a_declaration_survives_the_ledger() -> None:
    declaration = Declaration.of(job("in.jsonl", **FULL))
    stored = orjson.loads(orjson.dumps(declaration.to_json()))
    assert Declaration.from_json(stored) == declaration
    assert Declaration.from_json(stored).hash == declaration.hash


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({"max_tokens": 5}, True),
        ({"prompt": {"user": "{text}!"}}, True),
        ({"output_schema": SCHEMA}, True),
        ({"betas": ["x"]}, True),
        ({"deduplicate": False}, True),
        ({"retry": {"max_attempts": 9}}, False),
        ({"pilot": {"size": 9}}, False),
        ({"description": "other words"}, False),
        ({"limits": {"max_requests_per_batch": 5}}, False),
    ],
)
def test_what_counts_as_another_declaration(change: dict[str, Any], changes: bool) -> None:
    def digest(spec: JobSpec) -> str:
        return Declaration.of(spec).hash

    assert (digest(job("in.jsonl", **change)) != digest(job("in.jsonl"))) is changes


def test_the_hash_of_a_declaration_is_that_of_ledgers_in_use() -> None:
    """A job that declares nothing new has the hash that former versions have stored."""
    spec = JobSpec(
        name="a",
        input={"path": "/x.jsonl"},
        prompt={"user": "{t}", "system": "s"},
        model_id="claude-haiku-4-5",
        max_tokens=5,
        params={"metadata": {}},
        betas=["b-1"],
    )
    stored = "4e9af0e77cb4d311cd590cb99bcf8cb6f290f31c966cda8412df096f6215b27b"
    assert Declaration.of(spec).hash == stored
