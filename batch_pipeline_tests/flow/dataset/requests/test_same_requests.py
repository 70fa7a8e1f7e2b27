"""Jobs of text alone make the requests that former versions have bought.

Bytes, fingerprints and declaration hashes were written down before prompts could hold turns,
examples and documents. A release that changes one of them would buy answered nights again.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import orjson
import pytest

from batch_pipeline.flow.dataset.reading.row_json import places_of, row_of_json
from batch_pipeline.flow.dataset.requests import cache_marks
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline_tests.support import job

ROW = {
    "id": "Akte 7/ä",
    "text": 'Ünter "braces" {title}\n\\ \u2028 \U0001f600 </script>',
    "title": "{{Fees}}",
    "document": "a column of this name",
    "text:pdf": "and of this",
    "pages": 1.50,
}
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
TOOLS = [
    {"name": "a", "input_schema": {"type": "object"}},
    {"name": "b", "input_schema": {"type": "object"}, "defer_loading": True},
]


class Kept(NamedTuple):
    """What must stay: hashes of the request (16 hex characters of SHA-256) plain and with a mark,
    its fingerprint, and hash and shared prefix of the declaration."""

    request: str
    marked: str
    fingerprint: str
    declaration: str
    prefix: str


CASES: dict[str, tuple[dict[str, Any], Kept]] = {
    "plain": (
        {},
        Kept(
            "cd54dde94fa99d7d",
            "c9b83700f7e95749",
            "4a5bb274ac799e61d88e8db963bf3ab3",
            "caccae3fd1114a10c75b688a3ef09918ff89f2a582211cbcf622bc0960c91aa0",
            "dae8fdd5ff7777a046db11bc3b8adaa1",
        ),
    ),
    "full": (
        {
            "prompt": {"system": "Be brief. ä", "user": "{text}: {title} {text} {{x}}"},
            "params": {"stop_sequences": ["END"], "metadata": {"user_id": "7", "a": 1}},
            "betas": ["some-beta-2026-01-01"],
            "output_schema": SCHEMA,
            "deduplicate": False,
        },
        Kept(
            "bdad91d33e3f1e9e",
            "cca04abc68cee316",
            "68499d9a94a9166f640b5c3446054e16",
            "f335b8187ab6884de913450ea2d5265d881f2d7ba218c096b179f5c1ba02a0da",
            "8866bc8e331cd3f17cfdd6d26e6d38bd",
        ),
    ),
    "tools": (
        {"prompt": {"user": "{text}"}, "params": {"tools": TOOLS}},
        Kept(
            "8301a6206d9ec843",
            "c3965d6de7b2b55d",
            "fe7321aa2ef8ebed357ccc79035bfff4",
            "39fc1712dd682d7c05817e819746ca7b5ef5d5cb6739ea06e04624bf5907d7e9",
            "3251792f244043e717c1394c9cd47537",
        ),
    ),
    "columns of new names": (
        {"prompt": {"user": "Of {document} and {text:pdf}: {title}."}},
        Kept(
            "6c4d3986f1d7a6b5",
            "2395bcaa0cf72377",
            "65b4fc33a7fe237792279b3ca57e44c6",
            "4bcc1ad6176d72f0e580b414b16e2c3e5c5b80e9ca87dc88d3c1d36403716be3",
            "65310867b58ee8eacdc6c0ebf8daf221",
        ),
    ),
    "a number": (
        {"prompt": {"user": "{pages} pages: {text}"}},
        Kept(
            "33dd50c37736c026",
            "33dd50c37736c026",
            "d063af9bca0d49030d314208964e6dd3",
            "3d29f8ccca5a0fa9584591dfbcce77937c3d19caea84c2d45fc4ed5afa69d5e2",
            "17eea04b8ee4e1c1b0198600d0612cdc",
        ),
    ),
    "routes and filters": (
        {
            "routes": [{"where": "length(text) > 9", "model_id": "claude-opus-4-6"}],
            "filters": {"min_words": 2},
            "near_duplicates": {"threshold": 0.9, "action": "filter"},
        },
        Kept(
            "cd54dde94fa99d7d",
            "c9b83700f7e95749",
            "4a5bb274ac799e61d88e8db963bf3ab3",
            "04f436113789fa30fa84c369b063b1533cdf8f90ef9e8f54caeada1484c46b0f",
            "dae8fdd5ff7777a046db11bc3b8adaa1",
        ),
    ),
    "no placeholder": (
        {"prompt": {"system": "s", "user": "Say {{something}}."}, "deduplicate": False},
        Kept(
            "a0478d56f2b37021",
            "4781e171c855fdc3",
            "59aaec74f47f0a76480a5540c5e77aa0",
            "a7657f266a904bbdf77be8717c96e3d2dec4095fc20f7b9ca9b7e4dd355f4d83",
            "1aa676c22064ff1d7f9a3474bc726873",
        ),
    ),
}


def short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@pytest.mark.parametrize("name", CASES)
def test_requests_of_text_stay_the_same_to_the_byte(name: str) -> None:
    changes, kept = CASES[name]
    declaration = Declaration.of(job("in.jsonl", **changes))
    found = Declaration.from_json(orjson.loads(orjson.dumps(declaration.to_json())))
    assert found == declaration
    plain, marked = RequestBuilder(found), RequestBuilder(found, "1h")
    row = row_of_json(orjson.dumps(ROW))
    places = places_of(row, plain.columns)
    request = plain.rebuild(row.text, places)
    assert plain.rebuild(row.text) == request
    if places is not None:
        assert plain.fingerprint_and_size(row.text, places)[0] == plain.fingerprint(request)
    assert kept == Kept(
        short(request),
        short(marked.rebuild(row.text, places)),
        plain.fingerprint(request),
        found.hash,
        cache_marks.prefix_key(found),
    )
