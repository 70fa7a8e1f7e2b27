"""The ledger beside the organisation's report: equal to the last digit if nobody else uses it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from batch_pipeline.api.admin import AdminApi, DayCost, DayUsage
from batch_pipeline.api.protocol import ApiFailure
from batch_pipeline.errors import UsageError
from batch_pipeline.flow.costs import billing_check
from batch_pipeline.flow.costs.billing_check import Sums
from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline.flow.run import run
from batch_pipeline.simulator import Simulator
from batch_pipeline_tests.support import MODEL, PARTITION, documents, job, write_rows


@pytest.fixture
def admin_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """An admin key in the environment."""
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", "sk-admin")


def test_ledger_and_organisation_agree_to_the_last_digit(
    pipeline: Pipeline, sim: Simulator, tmp_path: Path, admin_key: None
) -> None:
    rows = [*documents(40), {"id": "long", "text": "a long contract " * 30_000}]
    source = write_rows(tmp_path / "input.jsonl", rows)
    pilot = {"size": 4, "max_error_rate": 1, "max_truncated_rate": 1}
    # An alias of a model, another model with a price that steps up, both ways.
    for name, model in (("one", "claude-haiku-4-5"), ("two", "claude-haiku-5-5")):
        run(pipeline, job(source, name=name, model_id=model, pilot=pilot), PARTITION)
    admin, today = AdminApi(), datetime.now(UTC).date()
    organisation = billing_check.of_organisation(admin.usage(today), admin.costs(today))
    assert admin.simulated
    with pipeline.ledger.read() as connection:
        ledger = billing_check.of_ledger(connection, ["simulator"], today)
        assert billing_check.of_ledger(connection, ["default"], today) == {}
        assert billing_check.of_ledger(connection, ["simulator"], date(2026, 1, 1)) == {}
    compared = billing_check.compare(ledger, organisation)
    assert [(each.model, each.mode) for each in compared] == [
        (MODEL, "batch"), (MODEL, "realtime"),
        ("claude-haiku-5-5", "batch"), ("claude-haiku-5-5", "realtime"),
    ]  # fmt: skip
    for each in compared:
        assert each.ledger == each.organisation
        assert each.ledger.usd > 0
        assert not each.beyond
    total = sum((each.organisation.usd for each in compared), Decimal(0))
    assert total == sim.books.batch_cost_usd + sim.books.realtime_cost_usd


def test_others_of_the_organisation_are_a_difference_and_a_lack_is_named() -> None:
    def sums(tokens: int, usd: str) -> Sums:
        return Sums({**Sums().tokens, "input_tokens": tokens}, Decimal(usd))

    ledger = {("a", "batch"): sums(10, "1"), ("b", "batch"): sums(10, "1")}
    organisation = {("a", "batch"): sums(15, "2"), ("b", "batch"): sums(9, "1"),
                    ("c", "priority"): sums(1, "9")}  # fmt: skip
    found = {each.model: each for each in billing_check.compare(ledger, organisation)}
    assert found["a"].as_json()["difference"]["input_tokens"] == 5
    assert found["a"].as_json()["difference"]["cost_usd"] == 1.0
    assert (found["a"].beyond, found["b"].beyond) == ([], ["input_tokens"])
    assert found["c"].ledger == Sums()


class Organisation:
    """Reports in pages, on 127.0.0.1; remembers what was asked for, and with which key."""

    def __init__(self, pages: list[dict[str, Any]]) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.keys: set[str] = set()
        organisation = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                organisation.asked.append(query)
                organisation.keys.add(str(self.headers["authorization"]))
                number = int(query.get("page", ["0"])[0])
                more = number + 1 < len(pages)
                bucket = {"starting_at": "…", "ending_at": "…", "results": [pages[number]]}
                body = {"data": [bucket], "has_more": more, "next_page": str(number + 1)}
                self.send_response(200 if pages[number] else 403)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, admin_key: None) -> Iterator[Any]:
    """Starts an API of usage reports with given pages."""
    made = []

    def make(pages: list[dict[str, Any]]) -> Organisation:
        made.append(Organisation(pages))
        url = f"http://127.0.0.1:{made[-1].server.server_port}"
        monkeypatch.setenv("ANTHROPIC_BASE_URL", url)
        return made[-1]

    yield make
    for organisation in made:
        organisation.server.shutdown()
        organisation.server.server_close()


def test_all_pages_of_a_day_are_read(serve: Any) -> None:
    row = {
        "model": MODEL, "service_tier": "batch", "uncached_input_tokens": 7, "output_tokens": 3,
        "cache_read_input_tokens": 2, "cache_creation": {"ephemeral_1h_input_tokens": 1},
    }  # fmt: skip
    organisation = serve([row, {**row, "service_tier": "standard", "cache_creation": None}])
    found = AdminApi().usage(date(2026, 11, 21))
    assert found == [
        DayUsage(MODEL, "batch", 7, 3, 0, 1, 2), DayUsage(MODEL, "standard", 7, 3, 0, 0, 2)
    ]  # fmt: skip
    assert organisation.asked[0]["starting_at"] == ["2026-11-21T00:00:00Z"]
    assert organisation.asked[0]["ending_at"] == ["2026-11-22T00:00:00Z"]
    assert organisation.asked[0]["group_by[]"] == ["model", "service_tier"]
    assert organisation.asked[1]["page"] == ["1"]
    assert organisation.keys == {"Bearer sk-admin"}


def test_costs_are_cents_and_those_of_tools_are_left_out(serve: Any) -> None:
    row = {"model": MODEL, "service_tier": "batch", "cost_type": "tokens", "amount": "123.45"}
    serve([row, {**row, "amount": "0.000001"}, {**row, "cost_type": "web_search"}])
    assert AdminApi().costs(date(2026, 11, 21)) == [DayCost(MODEL, "batch", Decimal("1.23450001"))]


def test_a_key_that_may_not_is_told(serve: Any) -> None:
    serve([{}])
    with pytest.raises(ApiFailure, match="403"):
        AdminApi().usage(date(2026, 11, 21))


def test_without_an_admin_key_it_says_which_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_ADMIN_KEY", raising=False)
    with pytest.raises(UsageError, match="ANTHROPIC_ADMIN_KEY"):
        AdminApi()


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"starting_at": "2026-11-21T00:00:00Z"},
        {"starting_at": "yesterday", "ending_at": "2026-11-22T00:00:00Z"},
        {"starting_at": "2026-11-21T00:00:00Z", "ending_at": "2026-11-22T00:00:00Z",
         "bucket_width": "1h", "group_by[]": ["model", "service_tier"]},
    ],
)  # fmt: skip
def test_the_simulator_refuses_reports_that_it_does_not_make(
    sim: Simulator, query: dict[str, Any]
) -> None:
    headers = {"x-api-key": "any", "anthropic-version": "2026-10-21"}
    url = f"{sim.url}/v1/organizations/usage_report/messages"
    answer = httpx2.get(url, params=query, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert httpx2.get(url, params=query).status_code == 401
