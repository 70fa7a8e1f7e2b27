"""What `reuse` and `near_duplicates` of a declaration are refused for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline_tests.support import job

DAILY = {"partitions": {"start": "2026-01-01"}}
SCHEMA = {"type": "object"}
SHARE = {"action": "reuse"}


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"reuse": {"nights": 30}}, "the job has one night only; declare `partitions`"),
        ({"reuse": {"nights": 0}, **DAILY}, "greater than or equal to 1"),
        ({"reuse": {}, **DAILY}, "Field required"),
        ({"near_duplicates": {"threshold": 0.4}}, "greater than or equal to 0.5"),
        ({"near_duplicates": {"threshold": 1.1}}, "less than or equal to 1"),
        ({"near_duplicates": {"action": "drop"}}, "'filter' or 'reuse'"),
        ({"near_duplicates": {"min_agreement": 1.0}}, "less than 1"),
        ({"near_duplicates": SHARE, "pilot": {}}, "needs an `output_schema`"),
        ({"near_duplicates": SHARE, "output_schema": SCHEMA}, "set pilot.size"),
    ],
)
def test_what_cannot_work_is_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        job("/in/{partition}.jsonl", **declared)


def test_what_can_work_is_accepted() -> None:
    spec = job(
        "/in/{partition}.jsonl", reuse={"nights": 30}, near_duplicates=SHARE,
        output_schema=SCHEMA, pilot={}, **DAILY,
    )  # fmt: skip
    assert spec.near_duplicates is not None
    assert (spec.near_duplicates.threshold, spec.near_duplicates.min_agreement) == (0.9, 0.95)


def test_what_saves_money_shapes_no_request() -> None:
    """Ledgers in use know declarations by this hash: another one would buy their nights again."""
    plain = Declaration.of(job("/in.jsonl"))
    assert plain.hash == "caccae3fd1114a10c75b688a3ef09918ff89f2a582211cbcf622bc0960c91aa0"
    assert not {"filters", "near_duplicates"} & plain.to_json().keys()
    thrifty = Declaration.of(job("/in.jsonl", near_duplicates={}, filters={"min_words": 3}))
    assert thrifty.hash == plain.hash
    assert Declaration.from_json(thrifty.to_json()) == thrifty
