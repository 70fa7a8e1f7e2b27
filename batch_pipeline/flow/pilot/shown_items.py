"""The items of a pilot as its page shows them: document, request, answer and attempts of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson

from batch_pipeline.flow.answers.outcomes import Status, Undecided
from batch_pipeline.flow.dataset.reading.row_json import row_of_json
from batch_pipeline.flow.dataset.requests import rendered
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.dataset.requests.request_builder import RequestBuilder
from batch_pipeline.flow.dataset.snapshot import Input
from batch_pipeline.flow.pilot.thumbnails import Thumbnails
from batch_pipeline.flow.planning.variants import CONTINUED, ESCALATED, EXPLAINED, MORE_ROOM
from batch_pipeline.pricing.tokens import PROMPT_TOKENS
from batch_pipeline.reporting import parsed_fields, shown_request
from batch_pipeline.reporting.pilot_page import Attempt, ShownDocument, ShownItem
from batch_pipeline.reporting.shown_request import Text

# What the details of an answer are called on the page.
_EXTRAS = {
    "citations": "Citations",
    "thinking": "Thinking",
    "tool_calls": "Calls of tools",
    "stop_details": "Why it stopped",
    "refusal_category": "Category of the refusal",
}


@dataclass(frozen=True)
class Sampled:
    """A unit of the sample: its row in the snapshot, its route, and its answers in their order."""

    unit: str
    id: str
    ordinal: int
    route: str | None
    answers: list[dict[str, Any]]

    @property
    def stands(self) -> dict[str, Any] | None:
        """The answer that stands: the last one, or the one before where that was in vain."""
        former: dict[str, Any] | None = None
        for answer in self.answers:
            if former is None or answer["escalate"] != Undecided.STANDS:
                former = answer
        return former

    @property
    def billed_usd(self) -> Decimal:
        return sum((each["cost_usd"] or Decimal(0) for each in self.answers), Decimal(0))

    @property
    def good(self) -> bool:
        return self.stands is not None and self.stands["status"] == Status.SUCCEEDED


class Items:
    """Makes the items of one snapshot. Of a `confidential` job there are figures alone."""

    def __init__(
        self, declaration: Declaration, thumbnails: Thumbnails, *, confidential: bool
    ) -> None:
        self._thumbnails = thumbnails
        self._builders = {
            route: RequestBuilder(asked) for route, asked in declaration.by_route().items()
        }
        self._confidential = confidential

    def of(self, number: int, sampled: Sampled, row: Input) -> ShownItem:
        """An item with its row of the snapshot."""
        answer, hidden = sampled.stands or {}, self._confidential
        status = str(answer.get("status", Status.ERRORED))
        content = answer.get("content")
        return ShownItem(
            number=number,
            id=sampled.id,
            status=status,
            good=sampled.good,
            documents=() if hidden else self._documents(sampled.route, row),
            request=None if hidden else self._request(sampled.route, row),
            answer=None if hidden or not content else Text.of(content),
            fields=() if hidden else _fields(answer.get("parsed")),
            extras=() if hidden else extras_of(answer.get("details")),
            attempts=tuple(_attempt(each, hidden=hidden) for each in sampled.answers),
            message=_message(answer, hidden=hidden),
        )

    def _request(self, route: str | None, row: Input) -> shown_request.ShownRequest:
        return shown_request.of(rendered.of_row(self._builders[route], row))

    def _documents(self, route: str | None, row: Input) -> tuple[ShownDocument, ...]:
        """What a row brings into its prompt: documents, and the texts of its placeholders."""
        parts = self._builders[route].parts_of(row_of_json(row.text))
        found = [
            ShownDocument(
                document.path.rpartition("/")[2] or document.path,
                rendered.described(document),
                Text.of(document.text) if document.as_text and document.text else None,
                self._thumbnails.of(document),
            )
            for document in parts.documents.values()
        ]
        found += [
            ShownDocument(name, f"{len(text):,} characters", Text.of(text))
            for name, text in parts.values.items()
            if name in self._builders[route].prompt.columns
        ]
        return tuple(found)


def _fields(parsed: str | None) -> tuple[tuple[str, str], ...]:
    return () if parsed is None else tuple(parsed_fields.of(orjson.loads(parsed)))


def extras_of(details: str | None) -> tuple[tuple[str, Text], ...]:
    """The details of an answer by the names that people know."""
    if not details:
        return ()
    found: Mapping[str, Any] = orjson.loads(details)
    return tuple(
        (_EXTRAS.get(name, name.replace("_", " ").capitalize()), Text.of(_as_text(value)))
        for name, value in found.items()
        if value is not None
    )


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _attempt(answer: Mapping[str, Any], *, hidden: bool) -> Attempt:
    return Attempt(
        what=how_asked(answer["variant"], answer["model"], answer["mode"]),
        status=answer["status"],
        message=_message(answer, hidden=hidden),
        input_tokens=sum(answer[name] or 0 for name in PROMPT_TOKENS),
        output_tokens=answer["output_tokens"] or 0,
        usd=answer["cost_usd"] or Decimal(0),
    )


_WAYS = {
    ESCALATED: "of the stronger model",
    MORE_ROOM: "with more room",
    EXPLAINED: "with what was wrong",
    CONTINUED: "continued",
}


def how_asked(variant: str | None, model: str | None, mode: str | None) -> str:
    """`as declared, claude-haiku-4-5, in real time`."""
    names = [_WAYS.get(part, f"as route {part}") for part in (variant or "").split("+") if part]
    way = {"realtime": "in real time", "batch": "as a batch"}.get(mode or "", mode)
    return ", ".join(filter(None, (*(names or ["as declared"]), model, way)))


def _message(answer: Mapping[str, Any], *, hidden: bool) -> str:
    kind, said = answer.get("error_type"), answer.get("error_message")
    if hidden:
        return kind or ""
    return said or kind or ""
