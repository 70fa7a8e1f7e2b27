"""The text of an answer as blocks, with citations where documents ask for them."""

from __future__ import annotations

from typing import Any

from batch_pipeline.simulator.checking.documents import content_of, media_blocks, pdf_of

CITED_CHARACTERS = 150


def text_blocks(text: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    """An answer's text as blocks: one block if no document has citations enabled.

    Else an opening like `Summary: ` is a block of its own, and the rest cites the first document
    that has a text.
    """
    whole = {"type": "text", "text": text}
    if (citation := _citation(params)) is None:
        return [whole]
    opening, colon, rest = text.partition(": ")
    if not colon or not rest:
        return [{**whole, "citations": [citation]}]
    return [
        {"type": "text", "text": opening + colon},
        {"type": "text", "text": rest, "citations": [citation]},
    ]


def _citation(params: dict[str, Any]) -> dict[str, Any] | None:
    documents = [block for _, _, block in media_blocks(params) if block["type"] == "document"]
    for index, block in enumerate(documents):
        if (block.get("citations") or {}).get("enabled") and (place := _place(block["source"])):
            title = block.get("title")
            return {**place, "document_index": index, "document_title": title, "file_id": None}
    return None


def _place(source: dict[str, Any]) -> dict[str, Any] | None:
    """The location and text that a citation quotes; None for a document without text, such as a
    scan."""
    if source["type"] == "base64":
        if (quoted := pdf_of(source["data"]).quoted) is None:
            return None
        page, text = quoted
        return {
            "type": "page_location",
            "cited_text": text[:CITED_CHARACTERS],
            "start_page_number": page,
            "end_page_number": page + 1,
        }
    content = content_of(source)
    if isinstance(content, list):
        return next(
            (
                {
                    "type": "content_block_location",
                    "cited_text": block["text"],
                    "start_block_index": number,
                    "end_block_index": number + 1,
                }
                for number, block in enumerate(content)
                if block["type"] == "text"
            ),
            None,
        )
    cited = content[:CITED_CHARACTERS]
    return {
        "type": "char_location",
        "cited_text": cited,
        "start_char_index": 0,
        "end_char_index": len(cited),
    }
