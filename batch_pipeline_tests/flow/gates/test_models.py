"""What is said of a model, and which declarations are refused for it before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from batch_pipeline.api.models import parse_model, retirement_date
from batch_pipeline.api.protocol import ApiFailure, ModelInfo
from batch_pipeline.errors import UsageError
from batch_pipeline.flow.gates import models
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.conftest import MakePipeline
from batch_pipeline_tests.flow.fake_api import FakeApi
from batch_pipeline_tests.support import PARTITION, Faults, documents, error, job, write_rows

SONNET = "claude-sonnet-4-5-20250929"
NEW = "claude-opus-9"
MARK = {"type": "ephemeral"}


class ModelsApi(FakeApi):
    """An API that describes the given models; aliases lead to the first of them."""

    def __init__(self, *described: dict[str, Any], aliases: tuple[str, ...] = ()) -> None:
        super().__init__([])
        found = [info for info in map(parse_model, described) if info is not None]
        self.described = {info.id: info for info in found}
        self.aliases = dict.fromkeys(aliases, found[0]) if found else {}

    def models(self) -> Mapping[str, ModelInfo]:
        return self.described

    def model(self, model_id: str) -> ModelInfo | None:
        return self.aliases.get(model_id)


def described(**changes: Any) -> dict[str, Any]:
    return {"id": NEW, "lifecycle": "active", "max_tokens": 10_000, "capabilities": {}} | changes


def said(api: ModelsApi | None, model_id: str = NEW, **changes: Any) -> list[str]:
    return models.notices(job("x.jsonl", model_id=model_id, **changes), api)


def test_the_sdk_knows_when_models_retire() -> None:
    assert retirement_date(SONNET) == date(2026, 11, 30)
    assert retirement_date("claude-3-5-haiku-20241022") == date(2026, 2, 19)
    assert retirement_date("claude-opus-4-5") == date(2027, 1, 22)
    assert retirement_date("claude-haiku-4-5-20251001") is None


def test_every_date_of_the_sdk_can_be_read() -> None:
    from anthropic.resources.messages import DEPRECATED_MODELS  # noqa: PLC0415

    assert DEPRECATED_MODELS
    assert all(retirement_date(model) for model in DEPRECATED_MODELS)


@pytest.mark.parametrize(
    ("today", "expected"),
    [
        (date(2026, 11, 25), "retires on 2026-11-30 (in 5 days)"),
        (date(2026, 11, 29), "retires on 2026-11-30 (tomorrow)"),
        (date(2026, 11, 30), "retires on 2026-11-30 (today)"),
        (date(2026, 12, 1), "was retired on 2026-11-30"),
    ],
)
def test_what_is_said_of_a_model(today: date, expected: str) -> None:
    assert expected in str(models.describe(SONNET, date(2026, 11, 30), today))
    assert models.describe(SONNET, None, today) is None


def test_a_retired_model_stops_before_anything_is_sent(
    sim: Simulator,
    make_pipeline: MakePipeline,
    faults: Faults,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_models(request: Request) -> Response | None:
        return Response("<html>", 404) if request.url.path.startswith("/v1/models") else None

    faults.on_request = no_models
    spec = job(write_rows(tmp_path / "in.jsonl", documents(3)), model_id=SONNET)
    monkeypatch.setattr(models, "_today", lambda: date(2026, 12, 1))
    with pytest.raises(UsageError, match=r"was retired on 2026-11-30; .*nothing was sent"):
        run(make_pipeline(), spec, PARTITION)
    assert sim.books.accepted_requests == 0
    monkeypatch.setattr(models, "_today", lambda: date(2026, 11, 25))
    assert run(make_pipeline(), spec, PARTITION).complete
    assert "retires on 2026-11-30 (in 5 days); choose another model_id" in caplog.text
    # What was bought before is shown all the same.
    monkeypatch.setattr(models, "_today", lambda: date(2026, 12, 1))
    assert run(make_pipeline(), spec, PARTITION).complete


def test_a_model_that_the_api_does_not_offer_stops_before_anything_is_sent(
    sim: Simulator, make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    prices = dict.fromkeys(
        ("input", "output", "cache_write_5m", "cache_write_1h", "cache_read"), 1.0
    )
    spec = job(
        write_rows(tmp_path / "in.jsonl", documents(3)),
        model_id="claude-haiku-4-6",
        prices={"batch": prices, "realtime": prices},
    )
    with pytest.raises(UsageError, match=r"no claude-haiku-4-6 .* claude-haiku-4-5-20251001"):
        run(make_pipeline(), spec, PARTITION)
    assert sim.books.accepted_requests == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lifecycle": "retired", "retires_at": "2026-01-05T00:00:00Z"}, "retired on 2026-01-05"),
        ({"lifecycle": "deprecated"}, "is deprecated and will retire"),
        (
            {"lifecycle": "deprecated", "retires_at": "2026-12-31T00:00:00Z"},
            "retires on 2026-12-31 (in 37 days)",
        ),
        # The API says that a date is overdue by leaving the model deprecated.
        (
            {"lifecycle": "deprecated", "retires_at": "2026-11-20T00:00:00+00:00"},
            "was to retire on 2026-11-20 and is still offered",
        ),
    ],
)
def test_the_api_says_when_a_model_retires(
    changes: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_today", lambda: date(2026, 11, 24))
    [notice] = said(ModelsApi(described(**changes)))
    assert expected in notice
    retired = changes["lifecycle"] == "retired"
    assert bool(models.judge(job("x", model_id=NEW), ModelsApi(described(**changes))).problems) == (
        retired
    )


def test_what_the_api_says_counts_for_more_than_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_today", lambda: date(2027, 1, 1))
    assert len(said(None, SONNET)) == 1
    assert said(ModelsApi(described(id=SONNET)), SONNET) == []
    # An alias is not in the list.
    api = ModelsApi(described(id=SONNET), aliases=("claude-sonnet-4-5",))
    assert said(api, "claude-sonnet-4-5") == []


NO = {"supported": False}


@pytest.mark.parametrize(
    ("key", "capabilities", "changes"),
    [
        ("max_tokens", {}, {"max_tokens": 10_001}),
        ("retry.truncated_max_tokens", {}, {"retry": {"truncated_max_tokens": 20_000}}),
        ("mode", {"batch": NO}, {}),
        ("output_schema", {"structured_outputs": NO}, {"output_schema": {"type": "object"}}),
        (
            "params.output_config.format",
            {"structured_outputs": NO},
            {"params": {"output_config": {"format": {"type": "json_schema", "schema": {}}}}},
        ),
        (
            "params.thinking.type",
            {"thinking": {"types": {"disabled": NO}}},
            {"params": {"thinking": {"type": "disabled"}}},
        ),
        (
            "params.output_config.effort",
            {"effort": {"supported": True, "max": NO}},
            {"params": {"output_config": {"effort": "max"}}},
        ),
        (
            "params.output_config.effort",
            {"effort": NO},
            {"params": {"output_config": {"effort": "low"}}},
        ),
        (
            "params.tools",
            {"server_tools": {"web_search": NO}},
            {"params": {"tools": [{"type": "web_search_20260209", "name": "web_search"}]}},
        ),
    ],
)
def test_what_the_model_cannot_is_refused(
    key: str, capabilities: dict[str, Any], changes: dict[str, Any]
) -> None:
    api = ModelsApi(described(capabilities=capabilities))
    verdict = models.judge(job("x", model_id=NEW, **changes), api)
    [problem] = verdict.problems
    assert problem.startswith(f"{key}: ")
    with pytest.raises(UsageError, match="nothing was sent"):
        models.check(job("x", model_id=NEW, **changes), api)


def test_more_room_is_for_the_models_of_all_routes_but_not_for_the_stronger_one() -> None:
    retry = {"truncated_max_tokens": 20_000, "escalate": {"model_id": "stronger"}}
    routes = [
        {"where": "a = 'x'", "model_id": "short"},
        {"where": "a = 'y'", "model_id": "short", "max_tokens": 200},
        {"where": "a = 'z'", "model_id": "short", "max_tokens": 20_000},
    ]
    api = ModelsApi(described(max_tokens=30_000), described(id="short"), described(id="stronger"))
    verdict = models.judge(job("x", model_id=NEW, retry=retry, routes=routes), api)
    assert verdict.problems == [
        f"{key}: 20,000 is more than short writes; it is at most 10,000"
        for key in ("retry.truncated_max_tokens", "routes.2.max_tokens")
    ]


@pytest.mark.parametrize(
    ("capabilities", "changes"),
    [
        ({"batch": NO}, {"mode": "realtime"}),
        ({}, {"betas": ["output-300k-2026-03-24"], "max_tokens": 200_000}),
        # What the API does not say, or says in another shape, refuses nothing.
        ({"thinking": {"types": None}}, {"params": {"thinking": {"type": "disabled"}}}),
        ({"batch": {"supported": "no"}}, {}),
        ([], {}),
    ],
)
def test_what_is_not_known_is_not_refused(capabilities: Any, changes: dict[str, Any]) -> None:
    assert said(ModelsApi(described(capabilities=capabilities)), **changes) == []


@pytest.mark.parametrize(
    "odd",
    [None, 7, [], {"id": None}, {"id": 3}, {}],
    ids=str,
)
def test_odd_entries_of_the_list_are_left_out(odd: object) -> None:
    assert parse_model(odd) is None
    info = parse_model({"id": "m", "retires_at": 5, "max_tokens": "many", "lifecycle": []})
    assert info == ModelInfo("m", None, None, None, {})


def test_an_api_that_cannot_be_asked_stops_nothing() -> None:
    class Silent(ModelsApi):
        def models(self) -> Mapping[str, ModelInfo]:
            raise ApiFailure(404, None, None, "<html>")

    verdict = models.judge(job("x", model_id=NEW), Silent())
    assert (verdict.problems, verdict.warnings) == ([], [])
    assert "could not be asked about claude-opus-9" in str(verdict.unasked)
    # An empty list is that of a gateway which knows no models.
    assert said(ModelsApi()) == []


def test_the_list_is_read_over_http_to_its_end(
    sim: Simulator, make_pipeline: MakePipeline, faults: Faults
) -> None:
    api = make_pipeline().api_of("simulator")
    faults.calls.clear()
    assert api.models()["claude-opus-5-5"].supports("thinking.types.disabled") is False
    assert api.models()["claude-opus-5-5"].supports("batch") is True
    assert faults.calls == [("GET", "/v1/models")]
    alias = api.model("claude-sonnet-4-5")
    assert alias is not None
    assert (alias.id, alias.retires) == (SONNET, date(2026, 11, 30))
    assert api.model("claude/../nothing") is None
    faults.on_request = lambda _: error(500, "api_error")
    faults.calls.clear()
    with pytest.raises(ApiFailure):
        api.model("claude-sonnet-4-5")
    assert len(faults.calls) == 1, "what may be left unknown is asked for once"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {
                "prompt": {
                    "system": [{"text": "Be brief.", "cache_control": MARK}],
                    "user": "{text}",
                }
            },
            ["prompt.system: what is marked", "caches from 4,096 on: marks do nothing"],
        ),
        (
            {
                "prompt": {"system": "Be brief. " * 1_200, "user": "{text}"},
                "model_id": "claude-sonnet-4-5",
                "caching": "auto",
                "routes": [{"where": "a = 1", "model_id": "claude-haiku-4-5"}],
            },
            [
                "caching: what is marked for all requests has about 3,4",
                "tokens, and claude-haiku-4-5 caches from 4,096 on: probably nothing is marked",
            ],
        ),
        (
            {"prompt": {"user": "{document}"}, "filters": {"languages": ["en"]}},
            ["filters.languages: sees texts alone; images, and PDFs that are sent as pages"],
        ),
        (
            {"prompt": {"user": "{x:pdf}"}, "mode": "auto", "deadline": "30h"},
            ["input.keep: reference reads the documents again at each send, up to 30 hours after"],
        ),
        (
            {
                "prompt": {"user": "{x:pdf}"},
                "model_id": "claude-opus-5-5",
                "per_row": {"model_id": {"column": "m", "models": ["claude-haiku-4-5-20251001"]}},
            },
            [
                "per_row.model_id.models.0: claude-haiku-4-5-20251001 takes 100 PDF pages and",
                "and claude-opus-5-5 600: larger documents are set aside where it is asked",
            ],
        ),
    ],
)
def test_a_prompt_that_does_other_than_it_seems_to_is_warned_of(
    changes: dict[str, Any], words: list[str]
) -> None:
    found = "\n".join(models.notices(job("x.jsonl", **changes), None))
    assert [each for each in words if each not in found] == []


def test_a_long_prefix_and_a_prompt_of_text_are_no_reason_to_warn() -> None:
    prompt = {"system": "Be brief. " * 2_000, "user": "{text}"}
    spec = job("x.jsonl", prompt=prompt, caching="1h", filters={"min_words": 3})
    assert models.notices(spec, None) == []
