"""Requests of turns, examples and documents: what is sent, measured, streamed and marked."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.flow.dataset.documents.reference import Document
from batch_pipeline.flow.dataset.reading.row_json import places_of, row_of_json
from batch_pipeline.flow.dataset.requests import cache_marks
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.document_blocks import PIECE_BYTES
from batch_pipeline.flow.dataset.requests.further import Further
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.planning.variants import Ways
from batch_pipeline.jobs.prompts.template import is_blank
from batch_pipeline.pricing.documents import PAGE_TOKENS
from batch_pipeline_tests.support import job

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
MARK = {"type": "ephemeral", "ttl": "1h"}
EXAMPLES = [{"user": f"Question {n}", "answer": {"n": n}} for n in range(6)]
PDF = b"%PDF-1.7 " + bytes(range(256)) * 3_000
CONTENTS = {hashlib.sha256(data).hexdigest(): data for data in (PDF, b"\x89PNG", b"GIF89a, a one")}


class Contents:
    """Opens documents that are in memory, in pieces of this size."""

    def __init__(self, size: int = 1_000_001) -> None:
        self._size = size

    def open(self, document: Document) -> Iterator[bytes]:
        data = CONTENTS[document.sent_sha256 or document.sha256]
        for at in range(0, len(data), self._size):
            yield data[at : at + self._size]


def document(data: bytes = PDF, media_type: str = "application/pdf", **more: Any) -> Document:
    known_by = hashlib.sha256(data).hexdigest()
    return Document(path="a.pdf", size=len(data), sha256=known_by, media_type=media_type, **more)


NATIVE = document(pages=3, text_bytes=500)
IMAGE = document(b"\x89PNG", "image/png", width=280, height=56)
AS_TEXT = document(extractor="pdf/1", text='The "text"\n', pages=3)


def declared(**changes: Any) -> Declaration:
    return Declaration.of(job("in.jsonl", **changes))


def builder(user: str = "{text}", **changes: Any) -> RequestBuilder:
    prompt = {"user": user, **changes.pop("prompt", {})}
    return RequestBuilder(declared(prompt=prompt, **changes))


def messages(params: bytes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(params)["messages"]
    return found


# --- turns and examples --------------------------------------------------------------------------


@given(
    turns=st.lists(
        st.lists(TEXTS | st.sampled_from(["{text}", "{title}", "{x:pdf}"]), max_size=4),
        min_size=1,
        max_size=3,
    ),
    examples=st.lists(st.tuples(TEXTS, TEXTS), max_size=2),
    values=st.fixed_dictionaries({"text": TEXTS, "title": TEXTS}),
    is_document=st.booleans(),
)
def test_a_request_says_what_a_plain_construction_says(
    turns: list[list[str]],
    examples: list[tuple[str, str]],
    values: dict[str, str],
    is_document: bool,
) -> None:
    texts = [
        "".join(p if p in SLOTS else p.replace("{", "{{").replace("}", "}}") for p in turn)
        for turn in turns
    ]
    given = {**declared().to_json(), "user": "", "examples": {"turns": list(map(list, examples))}}
    given["messages"] = [{"role": "user", "text": text} for text in texts]
    one = RequestBuilder(Declaration.from_json(given))
    cells = {"id": "1", **values, **({"x": NATIVE.as_cell()} if is_document else {"x:pdf": "y"})}
    row = row_of_json(orjson.dumps(cells))
    parts = one.parts_of(row)
    if "x:pdf" in one.columns or not is_document:
        assert parts.documents == ({"x": NATIVE} if is_document else {})
    made = one.build(parts.values, parts.documents, opener=Contents())
    expected = [
        {"role": role, "content": text}
        for pair in examples
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    expected += [{"role": "user", "content": _plainly(turn, cells, is_document)} for turn in turns]
    assert messages(made) == expected
    size = one.measure(parts.values, parts.documents)
    assert size.request_bytes == len(made)
    assert one.rebuild(row.text, opener=Contents()) == made
    places = places_of(row, one.columns)
    if places is not None:
        assert one.splice(row.text, places) == made
        assert one.fingerprint_and_size(row.text, places) == size[:2]
    if not parts.documents:
        assert one.fingerprint(made) == size.fingerprint


SLOTS = ("{text}", "{title}", "{x:pdf}")


def _plainly(turn: list[str], cells: dict[str, Any], is_document: bool) -> Any:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": ""}]
    for part in turn:
        if part == "{x:pdf}" and is_document:
            data = base64.b64encode(PDF).decode()
            source = {"type": "base64", "media_type": "application/pdf", "data": data}
            blocks += [{"type": "document", "source": source}, {"type": "text", "text": ""}]
        else:
            blocks[-1]["text"] += cells[part[1:-1]] if part in SLOTS else part
    if len(blocks) == 1:
        return blocks[0]["text"]
    return [block for block in blocks if block["type"] != "text" or not is_blank(block["text"])]


def test_turns_come_in_their_order_and_braces_are_undone() -> None:
    turns = [
        {"role": "user", "text": "A contract: {text}"},
        {"role": "assistant", "text": "Read. {{sic}}"},
        {"role": "user", "text": "Its title is {title}. What is it?"},
    ]
    one = RequestBuilder(declared(prompt={"messages": turns, "system": [{"text": "Be brief."}]}))
    values = {"text": "a lease", "title": "Lease"}
    made = orjson.loads(one.build(values))
    assert made["system"] == [{"type": "text", "text": "Be brief."}]
    assert [turn["content"] for turn in made["messages"]] == [
        "A contract: a lease", "Read. {sic}", "Its title is Lease. What is it?",
    ]  # fmt: skip
    assert one.problem(values) is None
    assert one.problem({"text": " ", "title": " "}) == "blank document"
    follow = RequestBuilder(
        declared(prompt={"messages": [*turns[:2], {**turns[0], "text": "{x}"}]})
    )
    assert follow.problem({"text": "a lease", "x": "\n"}) == "a turn of the prompt is blank"


def test_fixed_examples_are_the_first_and_fill_the_template() -> None:
    items = [{"input": {"text": "ten {days}"}, "answer": {"days": 10}}, *EXAMPLES]
    one = builder("Of: {text}", prompt={"examples": {"items": items, "count": 2}})
    sent = messages(one.build({"text": "a year"}))
    assert [turn["content"] for turn in sent] == [
        "Of: ten {days}", '{"days":10}', "Question 0", '{"n":0}', "Of: a year",
    ]  # fmt: skip
    assert [turn["role"] for turn in sent] == ["user", "assistant"] * 2 + ["user"]


def test_random_examples_differ_by_row_and_are_the_same_for_the_same_texts() -> None:
    def chosen(text: str, seed: int = 0) -> list[str]:
        examples = {"items": EXAMPLES, "count": 2, "choose": "random", "seed": seed}
        one = builder("Of: {text}", prompt={"examples": examples})
        row = orjson.dumps({"id": text, "text": text})
        places = places_of(row_of_json(row), one.columns)
        assert places is not None
        made = one.rebuild(row, places)
        assert one.fingerprint_and_size(row, places) == (one.fingerprint(made), len(made))
        assert one.measure({"text": text})[:2] == (one.fingerprint(made), len(made))
        return [turn["content"] for turn in messages(made)[:-1:2]]

    texts = [f"text {n}" for n in range(40)]
    found = {text: chosen(text) for text in texts}
    assert found == {text: chosen(text) for text in texts}
    assert all(len(set(each)) == 2 and each == sorted(each) for each in found.values())
    assert {question for each in found.values() for question in each} == {
        f"Question {n}" for n in range(6)
    }
    assert found != {text: chosen(text, seed=1) for text in texts}
    # Pinned: another choice would buy all answers again.
    assert [found[text] for text in texts[:3]] == PINNED


PINNED = [["Question 2", "Question 5"], ["Question 0", "Question 2"], ["Question 2", "Question 4"]]


# --- documents -----------------------------------------------------------------------------------


def test_documents_become_blocks_in_the_order_of_the_template() -> None:
    one = builder(
        "Read {document}, look at {scan:image}{n}",
        prompt={"citations": True, "titles": {"document": "{id} {n}"}},
    )
    values = {"id": "7", "n": " "}
    made = one.build(values, {"document": NATIVE, "scan": IMAGE}, opener=Contents(7))
    data = base64.b64encode(PDF).decode()
    pdf = {"type": "base64", "media_type": "application/pdf", "data": data}
    png = {"type": "base64", "media_type": "image/png", "data": "iVBORw=="[:8]}
    png["data"] = base64.b64encode(b"\x89PNG").decode()
    [turn] = messages(made)
    assert turn["content"] == [
        {"type": "text", "text": "Read "},
        {"type": "document", "source": pdf, "title": "7  ", "citations": {"enabled": True}},
        {"type": "text", "text": ", look at "},
        {"type": "image", "source": png},
    ]
    size = one.measure(values, {"document": NATIVE, "scan": IMAGE})
    shown = 3 * PAGE_TOKENS + 10 * 2
    assert size.request_bytes == len(made)
    assert size.visual_tokens == shown
    base64_length = len(data) + len(png["data"])
    assert size.prompt_size == len(made) - base64_length + 500 + shown
    assert one.problem(values, {"document": NATIVE, "scan": IMAGE}) is None


def test_extracted_text_is_a_document_of_plain_text() -> None:
    one = builder("{document}")
    [turn] = messages(one.build({}, {"document": AS_TEXT}))
    source = {"type": "text", "media_type": "text/plain", "data": 'The "text"\n'}
    assert turn["content"] == [{"type": "document", "source": source}]
    in_column = replace(AS_TEXT, text=None, text_column="text")
    row = {"id": "1", "text": AS_TEXT.text, "document": in_column.as_cell()}
    assert one.rebuild(orjson.dumps(row)) == one.build({}, {"document": AS_TEXT})
    size = one.measure({}, {"document": AS_TEXT})
    assert (size.prompt_size, size.visual_tokens) == (size.request_bytes, 0)


def test_a_fingerprint_knows_a_document_by_its_source_and_how_it_is_sent() -> None:
    one = builder("{document}")

    def known(**changes: Any) -> str:
        return one.measure({}, {"document": replace(NATIVE, **changes)}).fingerprint

    same = {"path": "b.pdf", "name": "x", "stored": True, "pages": 4, "text_bytes": 1}
    assert known(**same) == known()
    others: list[dict[str, Any]] = [
        {"sha256": "0" * 64},
        {"media_type": "image/png"},
        {"sent_pages": "1-2", "sent_size": 9, "sent_sha256": "1" * 64},
        {"extractor": "pdf/1", "text": "x"},
        {"extractor": "pdf/2", "text": "x"},
    ]
    assert len({known(), *(known(**each) for each in others)}) == 6
    # The bytes of a cut are not the same on each machine, and a library's text may change.
    cut = {"sent_pages": "1-2", "sent_size": 10, "sent_sha256": "2" * 64}
    assert known(**others[2]) == known(**cut)
    assert known(**others[3]) == known(extractor="pdf/1", text="otherwise read")
    # So is a text in the middle of a turn that was taken out of a document.
    inline = builder("Of {text}.")
    read = replace(AS_TEXT, text=None, text_column="text")
    first, second, typed = (
        inline.measure({"text": text}, documents).fingerprint
        for text, documents in (("a", {"document": read}), ("b", {"document": read}), ("a", {}))
    )
    assert first == second != typed
    # Pinned: another form would buy all answers again.
    assert [known(), known(**others[2]), known(**others[3]), first] == PINNED_FINGERPRINTS


PINNED_FINGERPRINTS = [
    "5a7eebfe8c4e2afb6281ee193cc6cbea",
    "38509379f81754fce894ddb57f0abb10",
    "3fffcf1d123ce35f4f98fb818a116e9c",
    "002f849e7853479203be98532254c1b4",
]


@pytest.mark.parametrize("size", [1_000, 100_000, 196_608, 1 << 20])
def test_a_document_streams_in_small_pieces(size: int) -> None:
    one = builder("Read {document}")
    pieces = list(one.pieces({}, {"document": NATIVE}, opener=Contents(size)))
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert len(pieces) >= 4
    assert b"".join(pieces) == one.build({}, {"document": NATIVE}, opener=Contents())


@pytest.mark.parametrize(
    ("cells", "texts", "documents"),
    [
        ({"x": "a"}, (), ("document", "x:pdf")),
        ({"document": "a text", "x": "a"}, ("document",), ("x:pdf",)),
        ({"document": None, "x:pdf": 7}, ("document", "x:pdf"), ()),
        ({"document": NATIVE.as_cell(), "x:pdf": ""}, ("x:pdf",), ("document",)),
        ({"document": {"$document": {}, "more": 1}}, ("document",), ("x:pdf",)),
    ],
)
def test_a_column_of_exactly_the_placeholders_name_wins(
    cells: dict[str, Any], texts: tuple[str, ...], documents: tuple[str, ...]
) -> None:
    found = builder("{document}{x:pdf}{text}").prompt.split(cells)
    assert (found[0], tuple(slot.name for slot in found[1])) == ((*texts, "text"), documents)


def test_a_column_may_be_a_document_and_its_path() -> None:
    one = builder("{x}: {x:pdf}")
    row = row_of_json(orjson.dumps({"id": 1, "x": NATIVE.as_cell()}))
    parts = one.parts_of(row)
    titled = builder("{x:pdf}", prompt={"titles": {"x": "{x}"}}).parts_of(row)
    assert (titled.values, titled.documents) == ({"x": "a.pdf"}, {"x": NATIVE})
    assert (parts.values, parts.documents, parts.problem) == ({"x": "a.pdf"}, {"x": NATIVE}, None)
    missing = one.parts_of(row_of_json(b'{"id":1,"x":null}'))
    assert missing.problem == "no document in column 'x'"


# --- further turns, limits of rows ---------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"container": {"id": "old", "skills": []}}])
@pytest.mark.parametrize("container", [None, "container_1"])
def test_further_turns_follow_and_grow_a_request_by_what_is_said(
    params: dict[str, Any], container: str | None
) -> None:
    one = builder("Of {document}: {text}", params=params)
    said = b',{"role":"assistant","content":"A"},{"role":"user","content":"B"}'
    further = Further(said, container)
    for documents in ({}, {"document": NATIVE}):
        values = {"text": "t", **({} if documents else {"document": "d"})}
        before = one.build(values, documents, opener=Contents())
        after = one.build(values, documents, further, Contents())
        assert messages(after)[1:] == [
            {"role": "assistant", "content": "A"}, {"role": "user", "content": "B"},
        ]  # fmt: skip
        assert len(after) - len(before) == one.growth(further)
        assert one.measure(values, documents, further).request_bytes == len(after)
        sent = orjson.loads(after).get("container")
        assert sent == (
            {**params["container"], "id": container} if params and container
            else container or params.get("container")
        )  # fmt: skip


def test_a_rows_own_limit_is_sent_and_changes_no_length() -> None:
    one = builder(max_tokens=4_000, per_row={"max_tokens": "n"})
    assert one.columns == ("text", "n")
    made = {}
    for n in ("7", "4000", "90.0"):
        values = {"text": "t", "n": n}
        assert one.problem(values) is None
        made[n] = one.build(values)
        row = orjson.dumps({"id": 1, **values})
        assert one.rebuild(row, places_of(row_of_json(row), one.columns)) == made[n]
        assert len(made[n]) == one.constant_bytes + 1
    assert [orjson.loads(each)["max_tokens"] for each in made.values()] == [7, 4_000, 90]
    known = {n: one.measure({"text": "t", "n": n}).fingerprint for n in made}
    assert len(set(known.values())) == 3
    # A row that asks for the declared limit asks what a job without the key asks, and a higher
    # limit of the job changes nothing for the others.
    plain = builder(max_tokens=4_000)
    assert known["4000"] == plain.measure({"text": "t"}).fingerprint
    higher = builder(max_tokens=12_000, per_row={"max_tokens": "n"})
    assert known["7"] == higher.measure({"text": "t", "n": "7"}).fingerprint
    for n in ("0", "4001", "7.5", "-1", "many", ""):
        problem = one.problem({"text": "t", "n": n})
        assert problem == "max_tokens in column 'n' is no whole number from 1 to 4000"


def test_more_room_is_given_whatever_the_rows_own_limit() -> None:
    spec = job(
        "in.jsonl",
        per_row={"max_tokens": "n"},
        max_tokens=500,
        retry={"truncated_max_tokens": 12_000},
    )
    declaration = Declaration.of(spec)
    row = b'{"id":1,"text":"t","n":"9"}'
    [variant] = Ways(spec.retry, declaration).definitions()
    plain, roomy = RequestBuilder(declaration), RequestBuilder(variant.declared_as(declaration))
    assert orjson.loads(plain.rebuild(row))["max_tokens"] == 9
    assert orjson.loads(roomy.rebuild(row))["max_tokens"] == 12_000
    assert len(roomy.rebuild(row)) - len(plain.rebuild(row)) == 2


# --- cache marks ---------------------------------------------------------------------------------

TURNS = [
    {"role": "user", "text": "Two things."},
    {"role": "assistant", "text": "Go ahead."},
    {"role": "user", "text": "{a} and {b}"},
]


@pytest.mark.parametrize(
    ("prompt", "place", "turn"),
    [
        ({"user": "Of {text}", "examples": {"items": EXAMPLES}}, "message", 12),
        ({"user": "{text}", "examples": {"items": EXAMPLES}}, "turns", 11),
        ({"messages": TURNS}, "turns", 1),
        ({"messages": [{"role": "user", "text": "Of {a}."}, *TURNS[1:]]}, "turns", 0),
        (
            {"user": "{document} Of {text}", "system": [{"text": "s"}, {"text": "t"}]},
            "system",
            None,
        ),
        ({"user": "Of {document} and {text}"}, "message", 0),
        (
            {
                "user": "Of {text}",
                "system": "s",
                "examples": {"items": EXAMPLES, "count": 2, "choose": "random"},
            },
            "system",
            None,
        ),
    ],
)
@given(text=TEXTS, is_document=st.booleans(), known=st.booleans())
def test_a_mark_stands_at_the_end_of_what_is_shared_and_adds_a_constant(
    prompt: dict[str, Any], place: str, turn: int | None, text: str, is_document: bool, known: bool
) -> None:
    declaration = declared(prompt=prompt)
    assert cache_marks.place_of(declaration) == place
    plain, marked = RequestBuilder(declaration), RequestBuilder(declaration, "1h")
    cells: dict[str, Any] = {"id": 1, "text": text, "a": text, "b": "b", "document": "d"}
    if is_document:
        cells["document"] = NATIVE.as_cell()
    row = row_of_json(orjson.dumps(cells))
    places = places_of(row, plain.columns) if known else None
    before = plain.rebuild(row.text, places, opener=Contents())
    after = marked.rebuild(row.text, places, opener=Contents())
    assert len(after) - len(before) == marked.constant_bytes - plain.constant_bytes
    assert _unmarked(after) == _unmarked(before)
    count = after.count(b'"cache_control"')
    # A mark with blanks alone after it would make a block that the API refuses.
    assert count == 1 or (count == 0 and is_blank(text))
    if count and turn is not None:
        first = messages(after)[turn]["content"][0]
        assert first["cache_control"] == MARK
        assert (
            orjson.loads(cache_marks.prefix_params(declaration))["messages"][turn]["content"]
            == first["text"]
        )
    elif count:
        assert orjson.loads(after)["system"][-1]["cache_control"] == MARK


def _unmarked(params: bytes) -> Any:
    """What a request says, however its texts are divided into blocks."""
    found = orjson.loads(params)
    if isinstance(found.get("system"), str):
        found["system"] = [{"type": "text", "text": found["system"]}]
    for block in found.get("system", ()):
        block.pop("cache_control", None)
    for turn in found["messages"]:
        blocks = turn["content"]
        if isinstance(blocks, str):
            blocks = [{"type": "text", "text": blocks}]
        joined: list[Any] = []
        for block in blocks:
            if block["type"] == "text" and joined and isinstance(joined[-1], str):
                joined[-1] += block["text"]
            else:
                joined.append(block["text"] if block["type"] == "text" else block)
        turn["content"] = joined
    return found


def test_the_prefix_of_a_conversation_ends_with_a_users_turn() -> None:
    declaration = declared(prompt={"user": "{text}", "examples": {"items": EXAMPLES}})
    prefix = orjson.loads(cache_marks.prefix_params(declaration))["messages"]
    assert len(prefix) == 13
    assert prefix[-1] == {"role": "user", "content": "."}
