"""Two nights of a job that declares all there is to spend less, in which each of it happens.

Rows are filtered, near duplicates wait for their leaders' answers, routes and escalations ask other
models, the second night reuses answers of the first, and prompts carry cache marks.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

NIGHTS = ("2026-01-01", "2026-01-02")
OWN, ROUTED, STRONG = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"
DOCUMENTS = 90
MAX_TOKENS = 400
BUDGET_USD = 4.0
MAX_SHARE = 0.34
# With it neither night has a pilot that asks more than that of the stronger model.
PILOT_SEED = 3
# Longer than the shortest prefix that the API's cache takes.
SYSTEM = "Read the whole document, and answer with its kind. " * 70
_SCHEMA = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["contract"]}},
    "required": ["kind"],
    "additionalProperties": False,
}
_SENTENCES = (
    "the licence fee is due each year and may be paid in advance by either party to this agreement "
    "unless a notice of termination was given before the end of the month in which it would have "
    "been owed under law or equity including all taxes which a court could find are not refundable"
)
_FRENCH = (
    "Le présent contrat est conclu pour une durée indéterminée ; chacune des parties peut le "
    "résilier par lettre recommandée, sous réserve d'un préavis de trois mois."
)


def declared(caching: str) -> dict[str, Any]:
    """The keys of the job that are not those of a plain one."""
    languages = {"languages": ["en"]} if find_spec("fasttext") else {}
    return {
        "partitions": {"start": NIGHTS[0]},
        "prompt": {"system": SYSTEM, "user": "Sum up: {text}"},
        "model_id": OWN,
        "max_tokens": MAX_TOKENS,
        "output_schema": _SCHEMA,
        "filters": {"where": "kind <> 'draft'", "min_words": 5, **languages},
        "near_duplicates": {"threshold": 0.8, "action": "reuse", "min_agreement": 0.2},
        "reuse": {"nights": 5},
        "routes": [
            {"where": "kind = 'merger'", "model_id": ROUTED},
            {"where": "kind = 'short'", "max_tokens": 1},
        ],
        "retry": {
            "escalate": {
                "model_id": STRONG,
                "where": "(input_tokens + cache_read_tokens + cache_write_5m_tokens"
                " + cache_write_1h_tokens) % 3 = 0",
                "max_share": MAX_SHARE,
            },
        },
        "caching": caching,
        "budget": {"max_usd_per_partition": BUDGET_USD},
    }


def documents_of(nights: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The documents of each night; two in three of a night are in the next one too."""
    step = DOCUMENTS // 3
    return {
        night: [_document(number * step + n) for n in range(DOCUMENTS)]
        for number, night in enumerate(nights)
    }


def _document(number: int) -> dict[str, Any]:
    digit = number % 10
    # As plain ones begin, so that the same of them fail. Of a leader that fails there is a twin.
    begin = f"document number {number} about"
    kinds = {1: "merger", 3: "draft", 6: "short"}
    leader = _leader_of(number)
    words = random.Random(number if leader is None else leader).choices(_SENTENCES.split(), k=160)
    text = f"{begin} {' '.join(words)}"
    if number % 20 == 5:
        text = f"document number {number}"
    elif number % 20 == 15:
        text = f"{_FRENCH} {number}"
    kind = kinds.get(digit, "letter")
    return {"id": _id_of(number), "number": str(number), "text": text, "kind": kind}


def _leader_of(number: int) -> int | None:
    return {4: number - 2, 0: number - 1}.get(number % 10)


def _id_of(number: int) -> str:
    return f"Akte {number}/ä"


def why_filtered(document: Mapping[str, Any]) -> str | None:
    """The filter that a document does not pass."""
    number = int(document["number"])
    if document["kind"] == "draft":
        return "where"
    if number % 20 == 5:
        return "min_words"
    if number % 20 == 15 and find_spec("fasttext"):
        return "language:fr"
    return None


def leader_of(document: Mapping[str, Any]) -> str | None:
    """The id of the document of which this one is a near duplicate."""
    number = int(document["number"])
    leader = _leader_of(number)
    return None if leader is None else _id_of(leader)


def asked_as(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters of all requests that may be made for a document, in their order."""
    ways = {
        "merger": [(ROUTED, MAX_TOKENS)],
        "short": [(OWN, 1)],
    }.get(document["kind"], [(OWN, MAX_TOKENS)])
    return [
        {
            "model": model,
            "max_tokens": max_tokens,
            "system": SYSTEM,
            "messages": [{"role": "user", "content": f"Sum up: {document['text']}"}],
            "output_config": {"format": {"type": "json_schema", "schema": _SCHEMA}},
        }
        for model, max_tokens in [*ways, (STRONG, MAX_TOKENS)]
    ]
