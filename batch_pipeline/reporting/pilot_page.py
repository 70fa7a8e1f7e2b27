"""The pilot's page: what was asked, what came back, what is wrong, what it would cost, what to do.

Written for the person who decides whether the rest of a night is bought. Pure: dataclasses in, HTML
out. The page needs no script, no font and no other file; what comes from data is escaped by the
template engine, and its content security policy forbids to load or run anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from batch_pipeline.reporting import pages
from batch_pipeline.reporting.shown_request import ShownRequest, Text, Turn
from batch_pipeline.reporting.value_distribution import Field

TEMPLATE = "pilot.html.jinja"


@dataclass(frozen=True)
class ShownDocument:
    """What a row brings into its prompt: `name` is a column or a file, `facts` what is known of it.

    `thumbnail` is a picture of its first page as a `data:` URI.
    """

    name: str
    facts: str
    text: Text | None = None
    thumbnail: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One billed or failed try at an item; `what` says how it was asked."""

    what: str
    status: str
    message: str
    input_tokens: int
    output_tokens: int
    usd: Decimal


@dataclass(frozen=True)
class ShownItem:
    """An item of the sample. `fields` are those of its parsed answer; `extras` what the answer
    holds beside its text, by name."""

    number: int
    id: str
    status: str
    good: bool
    documents: tuple[ShownDocument, ...]
    request: ShownRequest | None
    answer: Text | None
    fields: tuple[tuple[str, str], ...]
    extras: tuple[tuple[str, Text], ...]
    attempts: tuple[Attempt, ...]
    message: str

    @property
    def input_tokens(self) -> int:
        return sum(each.input_tokens for each in self.attempts)

    @property
    def output_tokens(self) -> int:
        return sum(each.output_tokens for each in self.attempts)

    @property
    def usd(self) -> Decimal:
        return sum((each.usd for each in self.attempts), Decimal(0))


@dataclass(frozen=True)
class Failure:
    """Items that failed for one reason; `items` are their numbers on the page."""

    status: str
    message: str
    count: int
    items: tuple[int, ...]


@dataclass(frozen=True)
class AskedPrompt:
    """The prompt as it is declared, the same for all documents of the night; `models` says which
    are asked."""

    turns: tuple[Turn, ...]
    examples: int
    models: str
    max_tokens: int
    schema: str
    rest: str


@dataclass(frozen=True)
class Decision:
    """Where the gate stands: `state` is open, review, closed or approved, `headline` says it, and
    `steps` are what a person does, each with a command (or none)."""

    state: str
    headline: str
    reasons: tuple[str, ...]
    steps: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class PilotPage:
    """All that the page shows. `items` holds the failed ones first, as many as keep the page
    small; `hidden` says how many are left out, `confidential` that documents and answers are.
    """

    job: str
    partition: str
    made_at: datetime
    simulated: bool
    decision: Decision
    sample: int
    good: int
    night_items: int
    rest: int
    way: str
    pilot_usd: Decimal
    projected_usd: Decimal | None
    low_usd: Decimal | None
    high_usd: Decimal | None
    ceilings: tuple[str, ...]
    notes: tuple[str, ...]
    asked: AskedPrompt
    fields: tuple[Field, ...]
    failures: tuple[Failure, ...]
    items: tuple[ShownItem, ...]
    hidden: int
    confidential: bool

    @property
    def failed(self) -> int:
        return self.sample - self.good


def render(page: PilotPage) -> str:
    """The page as text."""
    return pages.template(TEMPLATE).render(page=page, widest=_widest(page.fields))


def _widest(fields: Sequence[Field]) -> dict[str, int]:
    """The largest count of each field, by which its bars are drawn."""
    return {field.path: max((bar.count for bar in field.bars), default=1) for field in fields}
