"""The parts of a declaration that spend less: what is not asked, and what was answered before.

Belongs here: their keys and the rules within one of them. Rules between keys are in `spec`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from batch_pipeline.jobs.declared_model import DeclaredModel

MOST_NIGHTS = 3_660
"""The longest window of reuse: ten years of days."""


class ReuseSpec(DeclaredModel):
    """Answers of the job's earlier partitions are taken over, of this number of partitions back."""

    nights: int = Field(ge=1, le=MOST_NIGHTS)


class NearDuplicatesSpec(DeclaredModel):
    """What is done with documents that are nearly the same as an earlier one of their night.

    `threshold` is the share of their texts that two documents have in common at least. `filter`
    does not ask for the later document. `reuse` gives it the answer of the earlier one, if the
    pilot shows that at least `min_agreement` of such pairs have equal answers.
    """

    threshold: float = Field(default=0.9, ge=0.5, le=1)
    action: Literal["filter", "reuse"] = "filter"
    min_agreement: float = Field(default=0.95, gt=0, lt=1)
