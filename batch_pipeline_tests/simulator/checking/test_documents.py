"""Documents and images: what is refused, what is billed, what is answered and cited."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batch_pipeline.simulator import Simulator, running_simulator
from batch_pipeline.simulator.answers.tokens import count_image
from batch_pipeline.simulator.batches.settlement import Responder
from batch_pipeline.simulator.books.books import content_digest
from batch_pipeline.simulator.checking.checks import check_message
from batch_pipeline.simulator.checking.documents import Picture
from batch_pipeline.simulator.models import MODELS
from batch_pipeline_tests import document_files as files
from batch_pipeline_tests.simulator.conftest import MODEL, params, sdk

SHARP = "claude-opus-5"
PAGES = ("The first page names a fox.", "", "The last page names a dog.")
CITED = {"citations": {"enabled": True}}
SCHEMA = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
HAIKU_PAGES = 100


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    """One for all: most is refused, and the rest does not depend on what was asked before."""
    with running_simulator(turnaround=0.0) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def client(sim: Simulator) -> Iterator[Anthropic]:
    """The SDK, which speaks with the simulator."""
    with sdk(sim) as client:
        yield client


def asked(*blocks: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Params with these blocks and a question after them."""
    content = [*blocks, {"type": "text", "text": "What is it about?"}]
    return params(messages=[{"role": "user", "content": content}], **changes)


def sent(block: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A block with changes of its source."""
    return {**block, "source": {**block["source"], **changes}}


def tokens(client: Anthropic, *blocks: dict[str, Any], model: str = MODEL) -> int:
    """What blocks cost beside the question."""
    with_blocks, without = (
        client.messages.count_tokens(model=model, messages=made["messages"]).input_tokens
        for made in (asked(*blocks), asked())
    )
    return with_blocks - without


PNG = files.image("PNG")
SMALL = files.image_block(PNG)
PDF = files.pdf_block(files.pdf(PAGES))


@pytest.mark.parametrize(
    ("blocks", "changes", "message"),
    [
        ([files.pdf_block(b"PK\x03\x04" + b"x" * 500)], {}, "The PDF specified was not valid."),
        ([files.pdf_block(b"%PDF-1.7\nno more")], {}, "The PDF specified was not valid."),
        ([files.pdf_block(files.pdf(()))], {}, "The PDF specified was not valid."),
        ([files.pdf_block(files.LOCKED_PDF)], {}, "is password protected."),
        # After it: pypdfium2 would tell that error again.
        ([files.pdf_block(files.pdf(()) + b"%")], {}, "The PDF specified was not valid."),
        ([files.pdf_block(files.OWNED_PDF)], {}, "is password protected."),
        ([files.pdf_block(b"")], {}, "source.base64.data: PDF cannot be empty"),
        ([sent(PDF, data="%%%")], {}, "content.0.document.source.base64.data: Invalid base64"),
        ([sent(PDF, media_type="text/html")], {}, "Input should be 'application/pdf'"),
        ([sent(PDF, type="url", url="https://x")], {}, "takes no source of type 'url'"),
        ([files.pdf_block(files.blank_pdf(HAIKU_PAGES + 1))], {}, "A maximum of 100 PDF pages"),
        ([PDF, *[SMALL] * 98], {}, "Too much media: 3 document pages + 98 images > 100"),
        ([files.image_block(b"")], {}, "source.base64.data: image cannot be empty"),
        ([files.image_block(b"no image")], {}, "Could not process image"),
        ([files.image_block(PNG, "image/jpeg")], {}, "appears to be a image/png image"),
        ([files.image_block(PNG, "image/tiff")], {}, "'image/gif' or 'image/webp'"),
        ([files.image_block(files.png(8_001, 10))], {}, "max allowed size: 8000 pixels"),
        ([files.image_block(files.png(30_000, 30_000))], {}, "max allowed size: 8000 pixels"),
        (
            [files.image_block(files.png(2_001, 10)), *[SMALL] * 20],
            {},
            "for many-image requests: 2000 pixels",
        ),
        (
            [files.image_block(PNG + b"\0" * 7_900_000)],
            {},
            "bytes > 10485760 bytes",
        ),
        ([files.text_block(" \n")], {}, "source.text.data: text content must be non-empty"),
        ([files.text_block("a", title=7)], {}, "content.0.document.title: Input should be"),
        ([files.text_block("a", **CITED), PDF], {}, "on all documents of a request or on none"),
        ([files.text_block("a", **CITED)], {"output_config": SCHEMA}, "together with citations"),
        ([], {"system": [SMALL]}, "system.0.type: Input should be 'text'"),
    ],
)
def test_refused_documents(
    client: Anthropic, blocks: list[dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**asked(*blocks, **changes))
    assert message in refused.value.message


def test_the_size_of_an_image_has_a_code(client: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(**asked(files.image_block(files.png(8_001, 10))))
    body: Any = refused.value.body
    assert body["error"]["details"] == {"error_code": "image_dimensions_too_large"}


def test_what_is_within_the_limits_is_taken(client: Anthropic) -> None:
    for blocks, model in (
        ([files.pdf_block(files.blank_pdf(HAIKU_PAGES))], MODEL),
        ([files.pdf_block(files.blank_pdf(HAIKU_PAGES + 1))], SHARP),
        ([files.image_block(files.png(8_000, 8_000))], MODEL),
        ([files.image_block(files.png(2_000, 10))] * 21, MODEL),
        ([files.pdf_block(files.pdf(("x",), "/OpenAction << /S /JavaScript /JS (x) >>"))], MODEL),
        ([files.image_block(files.image("JPEG"), "image/jpeg")], MODEL),
        ([files.image_block(files.image("GIF"), "image/gif")], MODEL),
        ([files.image_block(files.image("WEBP"), "image/webp")], MODEL),
    ):
        changes = {"model": model, "max_tokens": 20}
        assert client.messages.create(**asked(*blocks, **changes)).content


def test_the_last_turn_is_the_users_from_4_6_on(client: Anthropic) -> None:
    begun = [
        {"role": "user", "content": "Give JSON."},
        {"role": "assistant", "content": "{"},
    ]
    for name, model in MODELS.items():
        if model.id.endswith(("0929", "1101", "1001")):
            assert client.messages.create(**params(model=name, messages=begun)).content
            continue
        with pytest.raises(anthropic.BadRequestError, match="must end with a user message"):
            client.messages.create(**params(model=name, messages=begun))


@pytest.mark.parametrize(
    ("width", "height", "standard", "high"),
    [
        (28, 28, 1, 1),
        (29, 28, 2, 2),
        (1_000, 1_000, 1_296, 1_296),
        (1_568, 784, 1_568, 1_568),
        (2_000, 1_000, 1_568, 2_592),
        (2_000, 100, 168, 288),
        (8_000, 8_000, 1_568, 4_784),
    ],
)
def test_images_cost_by_their_pixels(width: int, height: int, standard: int, high: int) -> None:
    """Counted by hand: sides over 28, rounded up, after scaling to 1,568 or 2,576 pixels."""
    picture = Picture("image/png", width, height)
    assert count_image(picture, MODELS[MODEL]) == standard
    assert count_image(picture, MODELS["claude-opus-4-6"]) == standard
    assert count_image(picture, MODELS["claude-opus-4-7"]) == high
    assert count_image(picture, MODELS[SHARP]) == high


def test_pdfs_cost_by_their_pages_and_text(client: Anthropic) -> None:
    """Counted by hand: 1,600 a page, and a token for 4 bytes of text (27 + 0 + 26 of three pages).

    Never by bytes: a file that is 500 times as large costs the same.
    """
    text = sum(map(len, PAGES))
    assert text == 53
    assert tokens(client, PDF) == 3 * 1_600 + 14
    assert tokens(client, files.pdf_block(files.pdf(PAGES, " " * 1_000_000))) == 3 * 1_600 + 14
    assert tokens(client, files.pdf_block(files.blank_pdf(600)), model=SHARP) == 600 * 1_600
    # Of ten pages three are read: 8 bytes each.
    assert tokens(client, files.pdf_block(files.pdf(("12345678",) * 10))) == 16_000 + 20
    assert tokens(client, {**PDF, "title": "12345678"}) == 3 * 1_600 + 14 + 2
    assert tokens(client, files.text_block("12345678")) == 2
    assert tokens(client, files.image_block(files.png(56, 28))) == 2


def test_what_unpacks_to_much_is_not_read_and_to_too_much_not_opened(
    client: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PDFium would need 15 times the bytes that a page unpacks to."""
    monkeypatch.setattr("batch_pipeline.simulator.checking.documents.MOST_READ_BYTES", 2 << 20)
    monkeypatch.setattr("batch_pipeline.simulator.checking.documents.MOST_UNPACKED_BYTES", 4 << 20)
    small = files.pdf_bomb(1)
    # A stream of one object after that of another, each packed once.
    broken = small.replace(b" 0 obj", b"\n0\nobj")
    further = (
        b"9\n0\nobj\n<< /Filter /FlateDecode >>\nstream\n" + zlib.compress(b"") + b"\nendstream"
    )
    for single in (small, broken + further):
        assert tokens(client, files.pdf_block(single)) == 1_600 + 2
    assert tokens(client, files.pdf_block(files.pdf_bomb(3))) == 1_600
    for bomb in (files.pdf_bomb(5), files.pdf_bomb(1, "[/FlateDecode /FlateDecode]")):
        with pytest.raises(anthropic.BadRequestError, match="not valid"):
            tokens(client, files.pdf_block(bomb))


def test_a_request_of_more_than_32_mb(
    sim: Simulator, client: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("app", "batches.settlement"):
        monkeypatch.setattr(f"batch_pipeline.simulator.{module}.MAX_BYTES_PER_REQUEST", 10_000)
    large = asked(files.text_block("x" * 10_000))
    with pytest.raises(anthropic.ContentTooLargeError, match="exceeds the maximum size"):
        client.messages.create(**large)
    results = in_batch(client, large, asked(PDF))
    assert results[0]["error"]["error"]["type"] == "request_too_large"
    assert results[1]["type"] == "succeeded"


def in_batch(client: Anthropic, *contents: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of requests of one batch, in their order."""
    entries: Any = [{"custom_id": f"r{n}", "params": made} for n, made in enumerate(contents)]
    batch = client.messages.batches.create(requests=entries)
    lines = sorted(client.messages.batches.results(batch.id), key=lambda line: line.custom_id)
    return [line.result.to_dict(warnings=False) for line in lines]


def test_a_batch_with_documents_is_answered_and_billed(client: Anthropic) -> None:
    with running_simulator(turnaround=0.0) as sim, sdk(sim) as own:
        good, bad, scan = in_batch(
            own, asked(PDF), asked(files.pdf_block(b"PK")), asked(SMALL, PDF, PDF)
        )
        assert bad["error"]["error"]["type"] == "invalid_request_error"
        assert bad["error"]["error"]["message"].endswith("The PDF specified was not valid.")
        texts = [good["message"]["content"][0]["text"], scan["message"]["content"][0]["text"]]
        assert any("page names" in text for text in texts)
        question = tokens_of_question(own)
        assert good["message"]["usage"]["input_tokens"] == question + 3 * 1_600 + 14
        assert scan["message"]["usage"]["input_tokens"] == question + 1 + 2 * (3 * 1_600 + 14)
        # Haiku 4.5: 1 USD per million tokens in, 5 out; a batch costs half.
        used = [each["message"]["usage"] for each in (good, scan)]
        usd = sum(each["input_tokens"] + 5 * each["output_tokens"] for each in used) / 2e6
        assert float(sim.books.batch_cost_usd) == pytest.approx(usd)


def tokens_of_question(client: Anthropic) -> int:
    return client.messages.count_tokens(model=MODEL, messages=asked()["messages"]).input_tokens


def test_answers_come_from_the_document(client: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"animal": {"type": "string", "enum": ["cat", "dog", "cow"]}},
        "required": ["animal"],
        "additionalProperties": False,
    }
    wanted = {"format": {"type": "json_schema", "schema": schema}}
    for block in (PDF, files.text_block("It barks: a dog.")):
        answer = client.messages.create(**asked(block, output_config=wanted))
        assert answer.content[0].text == '{"animal":"dog"}'


@pytest.mark.parametrize(
    ("block", "place"),
    [
        (
            files.pdf_block(files.pdf(("", "A fox.", "")), title="Foxes", **CITED),
            {"type": "page_location", "cited_text": "A fox.", "start_page_number": 2,
             "end_page_number": 3},
        ),
        (
            files.text_block("A fox.", title="Foxes", **CITED),
            {"type": "char_location", "cited_text": "A fox.", "start_char_index": 0,
             "end_char_index": 6},
        ),
        (
            {"type": "document", "title": "Foxes", **CITED, "source": {
                "type": "content", "content": [SMALL, {"type": "text", "text": "A fox."}]}},
            {"type": "content_block_location", "cited_text": "A fox.", "start_block_index": 1,
             "end_block_index": 2},
        ),
    ],
)  # fmt: skip
def test_citations(client: Anthropic, block: dict[str, Any], place: dict[str, Any]) -> None:
    scan = files.pdf_block(files.blank_pdf(1), **CITED)
    answer = client.messages.create(**asked(scan, block))
    citations = [each for part in answer.content for each in part.citations or ()]
    assert len(citations) == 1
    told = {**place, "document_index": 1, "document_title": "Foxes", "file_id": None}
    assert citations[0].model_dump() == told
    plain = client.messages.create(**asked(scan))
    assert all(not part.citations for part in plain.content)


def test_documents_within_results_of_tools_count(client: Anthropic) -> None:
    called: list[dict[str, Any]] = [
        {"role": "user", "content": "Read it."},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [PDF, SMALL]}]},
    ]  # fmt: skip
    used = client.messages.create(**params(messages=called)).usage.input_tokens
    assert 3 * 1_600 < used < 3 * 1_600 + 100
    called[1]["content"] = [SMALL]
    with pytest.raises(anthropic.BadRequestError, match="can only be in `user` messages"):
        client.messages.create(**params(messages=called))


WORDS = ("document", "image", "text", "content", "base64", "tool_result", "application/pdf")
KEYS = ("type", "source", "content", "data", "media_type", "text", "title", "citations", "enabled")
BLOCKS = st.recursive(
    st.sampled_from([PDF, SMALL, files.text_block("A fox.", **CITED), None, True, 7, *WORDS]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
    ),
    max_leaves=6,
)


@settings(deadline=None)  # a document that comes for the first time is read
@given(st.lists(BLOCKS, max_size=3))
@example([{"type": "document", "source": {"type": "content", "content": "x", "data": 7}}])
@example([{"type": "tool_result", "content": {"type": "document"}}])
@example([{"type": "tool_result", "content": [{"type": "image", "source": []}, 7]}])
@example([{"type": "document", "source": {"type": "content", "content": [7]}}])
@example([{"type": "document", "source": {"type": "base64", "media_type": []}}])
def test_what_passes_the_checks_can_be_answered(blocks: list[Any]) -> None:
    """No odd block gets past the checks and then breaks the answer, which would stall a batch."""
    made = params(messages=[{"role": "user", "content": blocks}])
    if check_message(made, "2026-10-21") is None:
        got = Responder(0).message(made, content_digest(made), "msg_01", "batch")
        assert got["usage"]["input_tokens"] > 0
