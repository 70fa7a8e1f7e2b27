"""Routes and escalation: what a declaration may say, and what is refused with its key."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from batch_pipeline.errors import UsageError
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.flow.gates.prices import price_for
from batch_pipeline.jobs.routes import ANSWER_COLUMNS
from batch_pipeline.pricing.tokens import TOKENS
from batch_pipeline_tests.support import MODEL, job

STRONG = "claude-opus-4-6"


def route(where: str, **changes: Any) -> dict[str, Any]:
    return {"where": where, "model_id": STRONG, **changes}


def escalate(**changes: Any) -> dict[str, Any]:
    return {"retry": {"escalate": {"model_id": STRONG, **changes}}}


@pytest.mark.parametrize(
    ("declared", "key", "message"),
    [
        ({"routes": [route("a = 1"), route("a=1", max_tokens=9)]}, "routes.1.where", "routes.0"),
        ({"routes": [route("true")]}, "routes.0.where", "reads no column"),
        ({"routes": [route("nonsense(a)")]}, "routes.0.where", "nonsense"),
        ({"routes": [route("(select 1) = a")]}, "routes.0.where", "subquery"),
        ({"routes": [{"where": "a = 1"}]}, "routes.0", "as the rest of the job does"),
        ({"routes": [route("a = 1", model_id=MODEL)]}, "routes.0", "as the rest of the job does"),
        (
            {"routes": [route("a = 1", params={"stream": True})]},
            "routes.0.params.stream",
            "batches refuse it",
        ),
        (escalate(model_id=MODEL), "retry.escalate.model_id", "the job's own model"),
        (escalate(model_id=MODEL[:-9]), "retry.escalate.model_id", "the job's own model"),
        (escalate(where="text = 'a'"), "retry.escalate.where", "names the column 'text'"),
        (escalate(where="parsed->>'a' = 'b'"), "retry.escalate.where", "without output_schema"),
        (escalate(max_share=1.5), "retry.escalate.max_share", "less than or equal to 1"),
        (escalate(outcomes=["expired"]), "retry.escalate.outcomes.0", "invalid_output"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(
    declared: dict[str, Any], key: str, message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        job("in.jsonl", **declared)
    found = {".".join(map(str, e["loc"])): e["msg"] for e in caught.value.errors()}
    assert message in found[key]


@pytest.mark.parametrize(
    ("declared", "key"),
    [
        ({"routes": [route("a = 1", model_id="claude-unknown-9")]}, "routes.0.model_id"),
        (escalate(model_id="claude-unknown-9"), "retry.escalate.model_id"),
    ],
)
def test_each_model_has_to_have_a_price(declared: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError, match=rf"review, {key}: .*claude-unknown-9"):
        price_for(job("in.jsonl", **declared))


def test_a_routes_parameters_lie_on_those_of_the_job() -> None:
    spec = job(
        "in.jsonl",
        params={"thinking": {"type": "disabled"}, "stop_sequences": ["END"]},
        routes=[route("a = 1", params={"thinking": None, "service_tier": "auto"})],
    )
    asked = Declaration.of(spec).by_route()["1"]
    assert asked.params == {"stop_sequences": ["END"], "service_tier": "auto"}
    assert (asked.model_id, asked.max_tokens, asked.routes) == (STRONG, 4_000, ())


def test_a_job_without_routes_has_the_declaration_that_it_had() -> None:
    """Its hash is a promise to ledgers; an older snapshot's JSON is still read."""
    spec = job("in.jsonl", **escalate())
    declaration = Declaration.of(spec)
    assert "routes" not in declaration.to_json()
    assert Declaration.from_json(declaration.to_json()) == declaration
    routed = Declaration.of(job("in.jsonl", routes=[route("a = 1")]))
    assert Declaration.from_json(routed.to_json()) == routed
    assert routed.hash != declaration.hash


def test_a_rule_on_answers_knows_their_tokens() -> None:
    assert set(TOKENS) < set(ANSWER_COLUMNS)
