"""What the PDFs of a night cost as pages, and what they cost as their text alone.

Belongs here: the two ways beside each other, by arithmetic from the counts of a snapshot. What a
page costs is in `pricing.documents`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from batch_pipeline.flow.planning.unbought import Unbought
from batch_pipeline.jobs.spec import JobSpec
from batch_pipeline.ledger.snapshots import NewSnapshot
from batch_pipeline.pricing.documents import PAGE_TOKENS
from batch_pipeline.pricing.tokens import RULE_BYTES_PER_TOKEN
from batch_pipeline.wording import usd

PDF = "application/pdf"


@dataclass(frozen=True)
class DocumentWays:
    """The PDFs of an input, their pages, and USD of what is still to be bought either way.

    `without_text` of them could not be asked about as text.
    """

    declared: str
    pdfs: int
    pages: int
    native_usd: Decimal
    text_usd: Decimal
    without_text: int

    def told(self) -> str:
        """`412 PDFs, 9,870 pages: native $11.84, as text $4.02; …`, in one sentence."""
        said = (
            f"{self.pdfs:,} PDFs, {self.pages:,} pages: native {usd(self.native_usd)}, as text "
            f"{usd(self.text_usd)} (declared: {self.declared})"
        )
        if self.without_text:
            said += f"; {self.without_text:,} have no text and could not go as text"
        return said

    def as_json(self) -> dict[str, Any]:
        amounts = {"native_usd": self.native_usd, "text_usd": self.text_usd}
        return {
            "declared": self.declared,
            "pdfs": self.pdfs,
            "pages": self.pages,
            **{name: round(float(amount), 6) for name, amount in amounts.items()},
            "without_text": self.without_text,
        }


def compare(
    spec: JobSpec, snapshot: NewSnapshot, left: Unbought, priced: Callable[[Unbought], Decimal]
) -> DocumentWays | None:
    """Both ways for what is `left` to be bought; None: the input has no PDFs. `priced` returns USD
    as the job is declared."""
    counts: Mapping[str, int] = (snapshot.documents or {}).get(PDF, {})
    if not counts.get("files"):
        return None
    pages, declared = counts["pages"], spec.input.pdf.sent_as
    visual, other_visual = visual_tokens(snapshot, pages, declared)
    texts = (snapshot.size_of_prompts - (snapshot.visual_tokens or 0)) / RULE_BYTES_PER_TOKEN
    # What the input has the other way, for each token that it has as declared.
    factor = (texts + other_visual) / max(1.0, texts + visual)
    own, other = priced(left), priced(_scaled(left, factor))
    native, text = (own, other) if declared == "native" else (other, own)
    return DocumentWays(
        declared, counts["files"], pages, native, text, counts.get("without_text", 0)
    )


def visual_tokens(snapshot: NewSnapshot, pages: int, declared: str) -> tuple[int, int]:
    """The tokens of all pages and images of an input as declared, and the other way."""
    own, of_pages = snapshot.visual_tokens or 0, pages * PAGE_TOKENS
    return own, max(0, own - of_pages) if declared == "native" else own + of_pages


def _scaled(left: Unbought, factor: float) -> Unbought:
    """The same requests with prompts of other lengths, at the tokens a byte of the declared way."""
    return replace(
        left,
        sizes=left.sizes.scaled(factor),
        lengths=[(requests, size * factor) for requests, size in left.lengths],
        visual=left.visual * factor,
        routes={route: _scaled(part, factor) for route, part in left.routes.items()},
    )
