"""JobSpec: defaults as documented, nothing coerced, nothing ignored, rules between keys."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from batch_pipeline.jobs.spec import JobSpec

REQUIRED: dict[str, Any] = {
    "name": "contract_review",
    "input": {"path": "/data/*.parquet"},
    "prompt": {"user": "Review: {text}"},
    "model_id": "claude-haiku-4-5-20251001",
    "max_tokens": 500,
}


def job(base_dir: Path | None = None, **declared: Any) -> JobSpec:
    return JobSpec(base_dir=base_dir, **{**REQUIRED, **declared})


def problems(base_dir: Path | None = None, **declared: Any) -> dict[str, str]:
    """The messages of a refused declaration by dotted key."""
    with pytest.raises(ValidationError) as raised:
        job(base_dir, **declared)
    return {".".join(map(str, e["loc"])): e["msg"] for e in raised.value.errors()}


def test_defaults_are_those_of_the_contract() -> None:
    assert job().model_dump(mode="json") == {
        "name": "contract_review",
        "description": "",
        "input": {
            "path": "/data/*.parquet",
            "asset": None,
            "sql": None,
            "delta": None,
            "job": None,
            "shape": "same",
            "id_column": "id",
            "upstream": [],
            "same_every_night": False,
            "csv": {"delimiter": ",", "encoding": "utf-8", "quoting": "minimal"},
            "root": None,
            "hosts": [],
            "keep": "reference",
            "pdf": {"as": "native", "pages": None},
        },
        "prompt": {
            "system": None,
            "user": "Review: {text}",
            "messages": [],
            "examples": None,
            "citations": False,
            "titles": {},
        },
        "model_id": "claude-haiku-4-5-20251001",
        "max_tokens": 500,
        "params": {},
        "betas": [],
        "output_schema": None,
        "output": {"carry": [], "typed": False},
        "mode": "batch",
        "partitions": None,
        "schedule": None,
        "pilot": {
            "size": 100,
            "seed": 0,
            "via": "realtime",
            "max_error_rate": 0.05,
            "max_truncated_rate": 0.02,
            "max_projected_usd": None,
            "review": "none",
        },
        "budget": {"max_usd_per_partition": None, "max_usd_per_month": None, "buffer": 0.2},
        "prices": None,
        "limits": {
            "max_requests_per_batch": 10_000,
            "max_bytes_per_batch": 256_000_000,
            "max_queued_requests": None,
        },
        "retry": {
            "max_attempts": 3,
            "truncated_max_tokens": None,
            "escalate": None,
            "explain": False,
        },
        "routes": [],
        "per_row": {"max_tokens": None, "model_id": None},
        "caching": "off",
        "deduplicate": True,
        "near_duplicates": None,
        "backfill": {"partitions_per_run": 1},
        "reuse": None,
        "filters": {"where": None, "min_words": None, "max_words": None, "languages": []},
        "deadline": None,
        "realtime": {"concurrency": 20, "checkpoint_every": 100},
        "alerts": {
            "error_rate": 0.1,
            "after_items": 50,
            "dead_letter_rate": 0.05,
            "max_usd_per_document": None,
            "on_complete": False,
        },
        "accounts": [],
        "show_answers": True,
        "owners": [],
        "tags": {},
        "kinds": [],
        "group": None,
        "run_tags": {},
        "resources": {"cpu": None, "memory": None},
        "spread": 1,
        "pool": None,
        "automation_condition": None,
        "freshness": None,
    }


@pytest.mark.parametrize("key", REQUIRED)
def test_required_keys(key: str) -> None:
    with pytest.raises(ValidationError) as raised:
        JobSpec(**{k: v for k, v in REQUIRED.items() if k != key})
    assert [e["loc"] for e in raised.value.errors()] == [(key,)]


def test_a_spec_survives_being_written_and_read() -> None:
    spec = job(
        input={"path": "/data/{partition}.csv", "upstream": ["raw/contracts"]},
        partitions={"start": "2026-01-01"},
        betas=["x-2026-01-01"],
        params={"tools": [{"name": "t"}]},
    )
    assert JobSpec.model_validate(spec.model_dump()) == spec
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(job(), "max_tokens", 5)  # noqa: B010  # the type checker refuses it too


@pytest.mark.parametrize(
    ("key", "declared"),
    [
        ("max_tokens", {"max_tokens": "5"}),
        ("max_tokens", {"max_tokens": True}),
        ("max_tokens", {"max_tokens": 5.0}),
        ("max_tokens", {"max_tokens": 0}),
        ("name", {"name": "Contract-Review"}),
        ("name", {"name": "a\n"}),
        ("model_id", {"model_id": ""}),
        ("model_id", {"model_id": 45}),
        ("description", {"description": False}),
        ("output", {"output": {"typed": True}}),
        ("output.carry", {"output": {"carry": ["a", "a"]}}),
        ("deduplicate", {"deduplicate": "yes"}),
        ("betas", {"betas": "one"}),
        ("betas.0", {"betas": [1]}),
        ("params", {"params": []}),
        ("mode", {"mode": "fast"}),
        ("zzz", {"zzz": 1}),
        ("pilot.sise", {"pilot": {"sise": 1}}),
        ("pilot.size", {"pilot": {"size": -1}}),
        ("pilot.via", {"pilot": {"via": "mail"}}),
        ("pilot.review", {"pilot": {"review": "maybe"}}),
        ("pilot.review", {"pilot": {"size": 0, "review": "required"}}),
        ("pilot.max_error_rate", {"pilot": {"max_error_rate": 1.01}}),
        ("pilot.max_error_rate", {"pilot": {"max_error_rate": True}}),
        ("pilot.max_truncated_rate", {"pilot": {"max_truncated_rate": float("nan")}}),
        ("limits.max_requests_per_batch", {"limits": {"max_requests_per_batch": 100_001}}),
        ("limits.max_requests_per_batch", {"limits": {"max_requests_per_batch": 0}}),
        ("limits.max_bytes_per_batch", {"limits": {"max_bytes_per_batch": 256_000_001}}),
        ("limits.max_queued_requests", {"limits": {"max_queued_requests": 0}}),
        ("retry.max_attempts", {"retry": {"max_attempts": 0}}),
        ("input.path", {"input": {"path": ""}}),
        ("input.id_column", {"input": {"path": "/x", "id_column": ""}}),
        ("input.upstream", {"input": {"path": "/x", "upstream": ["a//b"]}}),
        ("prompt.user", {"prompt": {"system": "only"}}),
        ("prompt.user", {"prompt": {"user": " \n"}}),
        ("prompt.system", {"prompt": {"user": "x", "system": ""}}),
        ("pilot", {"pilot": None}),
        ("partitions", {"partitions": "daily"}),
    ],
)
def test_wrong_values_are_refused(key: str, declared: dict[str, Any]) -> None:
    assert list(problems(**declared)) == [key]


def test_a_whole_number_will_do_where_a_number_is_wanted() -> None:
    assert job(pilot={"max_error_rate": 1}).pilot.max_error_rate == 1.0


def test_all_problems_are_found_at_once() -> None:
    found = problems(
        max_tokens=0, mode="fast", pilot={"sise": 1}, params={"stream": True}, schedule="daily"
    )
    assert set(found) == {"max_tokens", "mode", "pilot.sise", "params.stream", "schedule"}


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("model", "model_id"),
        ("messages", "prompt.user"),
        ("system", "prompt.system"),
        ("max_tokens", "beside params"),
        ("betas", "header of the whole batch"),
        ("stream", "batches refuse it"),
        ("speed", "batches refuse it"),
        ("store", "batches refuse it"),
    ],
)
def test_params_that_do_not_belong(key: str, advice: str) -> None:
    found = problems(params={"metadata": {"user_id": "x"}, key: 0})
    assert list(found) == [f"params.{key}"]
    assert advice in found[f"params.{key}"]


class TestFiles:
    """Texts and paths that are relative to the declaration."""

    def test_texts_are_read(self, tmp_path: Path) -> None:
        (tmp_path / "system.md").write_bytes(b"\xef\xbb\xbfBe br\xc3\xa9f.")
        (tmp_path / "user.md").write_text("{text}?")
        (tmp_path / "schema.json").write_text('{"type": "object"}')
        spec = job(
            tmp_path,
            prompt={"system_file": "system.md", "user_file": str(tmp_path / "user.md")},
            output_schema_file="schema.json",
        )
        assert (spec.prompt.system, spec.prompt.user) == ("Be bréf.", "{text}?")
        assert spec.output_schema == {"type": "object"}

    @pytest.mark.parametrize(
        ("declared", "key", "message"),
        [
            ({"prompt": {"user_file": "no.md"}}, "prompt.user", "cannot read .*no.md: No such"),
            ({"prompt": {"user_file": "."}}, "prompt.user", "cannot read"),
            ({"prompt": {"user_file": 5}}, "prompt.user", "name of a file, not 5"),
            (
                {"prompt": {"user_file": "latin"}},
                "prompt.user",
                r"latin is not UTF-8 text \(byte 1\)",
            ),
            ({"prompt": {"user": "x", "user_file": "y"}}, "prompt.user", "either user or user_f"),
            ({"output_schema_file": "bad.json"}, "output_schema", "bad.json:2 is not JSON"),
            ({"output_schema_file": "list.json"}, "output_schema", "dictionary"),
        ],
    )
    def test_files_that_will_not_do(
        self, tmp_path: Path, declared: dict[str, Any], key: str, message: str
    ) -> None:
        (tmp_path / "latin").write_bytes(b"a\xe9b")
        (tmp_path / "bad.json").write_text("{\n,}")
        (tmp_path / "list.json").write_text("[]")
        found = problems(tmp_path, **declared)
        assert list(found) == [key]
        assert re.search(message, found[key])

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("data/{partition}/*.csv", "{base}/data/{partition}/*.csv"),
            ("../${SUB}/*.csv", "{base}/../${SUB}/*.csv"),
            ("/data/*.csv", "/data/*.csv"),
            ("s3://bucket/{partition}/*.csv", "s3://bucket/{partition}/*.csv"),
            ("${ROOT}/*.csv", "${ROOT}/*.csv"),
        ],
    )
    def test_the_input_path_becomes_absolute(
        self, tmp_path: Path, path: str, expected: str
    ) -> None:
        spec = job(tmp_path, input={"path": path})
        assert spec.input.path == expected.replace("{base}", str(tmp_path))

    def test_without_a_base_the_current_folder_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert job(input={"path": "x.csv"}).input.path == str(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("path", "message"), [("/x/{id}/{partition}", "{id}"), ("~/x.csv", "${HOME}")]
)
def test_paths_that_would_not_mean_what_they_say(path: str, message: str) -> None:
    assert message in problems(input={"path": path})["input.path"]


def test_a_daily_job_needs_new_input_every_night() -> None:
    daily = {"start": "2026-01-01"}
    assert "same_every_night" in problems(partitions=daily)["partitions"]
    assert job(partitions=daily, input={"path": "/x", "same_every_night": True}).partitions
    assert job(partitions=daily, input={"path": "/x/{partition}"}).partitions


@pytest.mark.parametrize("schedule", ["0 1 * * *", "30 22 * * MON-FRI"])
def test_schedules(schedule: str) -> None:
    assert job(schedule=schedule).schedule == schedule


class TestOutputSchema:
    """Declared schemas are checked before a night is bought with them; nothing is fetched."""

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}},
            {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string"},
        ],
    )
    def test_good(self, schema: dict[str, Any]) -> None:
        assert job(output_schema=schema).output_schema == schema

    @pytest.mark.parametrize(
        ("schema", "message"),
        [
            ({"type": "objct"}, "at type"),
            ({"properties": {"a": {"pattern": "("}}}, "at properties/a/pattern"),
            ({"$ref": "#/$defs/missing"}, "does not exist"),
            ({"$ref": "http://localhost:9/s.json"}, "would have to be fetched"),
            ({"$schema": "http://localhost:9/s.json"}, "Unknown meta-schema"),
        ],
    )
    def test_bad(self, schema: dict[str, Any], message: str) -> None:
        found = problems(output_schema=schema)["output_schema"]
        assert "not a valid JSON Schema" in found
        assert message in found

    def test_not_beside_a_format_of_ones_own(self) -> None:
        params = {"output_config": {"format": {"type": "json_schema"}}}
        found = problems(params=params, output_schema={"type": "object"})
        assert "keep one of the two" in found["output_schema"]
        assert job(params=params).params == params
        assert job(params={"output_config": {"effort": "low"}}, output_schema={"type": "object"})


def nested(key: str, value: object) -> dict[str, Any]:
    part, _, leaf = key.rpartition(".")
    return {part: {leaf: value}} if part else {leaf: value}


class TestMoneyAndLimits:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("pilot.max_projected_usd", 5),
            ("budget.max_usd_per_partition", 10),
            ("budget.max_usd_per_month", 100),
            ("budget.buffer", 0.3),
            ("realtime.concurrency", 5),
            ("realtime.checkpoint_every", 10),
            ("alerts.error_rate", 0.2),
            ("alerts.after_items", 10),
            ("alerts.dead_letter_rate", 0.01),
            ("alerts.max_usd_per_document", 0.01),
        ],
    )
    def test_good(self, key: str, value: float) -> None:
        part, _, leaf = key.partition(".")
        assert float(getattr(getattr(job(**nested(key, value)), part), leaf)) == value

    def test_money_is_decimal(self) -> None:
        budget = {"max_usd_per_partition": 0.1, "max_usd_per_month": 7}
        spec = job(budget=budget)
        assert spec.budget.max_usd_per_partition == Decimal("0.1")
        assert spec.budget.max_usd_per_month == Decimal(7)
        assert json.loads(spec.model_dump_json())["budget"] == {**budget, "buffer": 0.2}

    def test_stated_prices_name_every_class_both_ways(self) -> None:
        classes = {"input": 1, "output": 5, "cache_read": 0.1}
        whole = {**classes, "cache_write_5m": 1.25, "cache_write_1h": 2}
        spec = job(prices={"batch": whole, "realtime": whole})
        assert spec.prices is not None
        assert spec.prices.batch.cache_write_5m == Decimal("1.25")
        missing = problems(prices={"batch": classes, "realtime": {**whole, "input": 0}})
        assert set(missing) == {
            "prices.batch.cache_write_5m", "prices.batch.cache_write_1h", "prices.realtime.input",
        }  # fmt: skip
        assert list(problems(prices={"batch": whole})) == ["prices.realtime"]
        # Results could not hold what a token of it costs.
        finer = {"batch": whole, "realtime": {**whole, "output": 0.1234567}}
        assert list(problems(prices=finer)) == ["prices.realtime.output"]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("retry.truncated_max_tokens", 500),
            ("retry.explain", True),
            ("budget.buffer", -0.1),
            ("budget.max_usd_per_month", 0),
            ("budget.max_usd_per_month", True),
            ("budget.max_usd_per_month", float("inf")),
            ("alerts.error_rate", 1.5),
            ("realtime.concurrency", 0),
        ],
    )
    def test_bad(self, key: str, value: object) -> None:
        assert list(problems(**nested(key, value))) == [key]


class TestDeadline:
    @pytest.mark.parametrize("deadline", ["6:00", "24:00", "06:60", "0h", "8", "8 h", 360])
    def test_a_time_of_day_or_hours(self, deadline: object) -> None:
        assert list(problems(mode="auto", deadline=deadline)) == ["deadline"]

    @pytest.mark.parametrize("deadline", [None, "00:00", "06:00", "23:59", "8h", "36h"])
    def test_mode_auto_takes_it_and_does_without(self, deadline: str | None) -> None:
        assert job(mode="auto", deadline=deadline).deadline == deadline

    def test_a_mode_that_would_not_act_on_it_does_not_take_it(self) -> None:
        assert "set mode: auto" in problems(deadline="06:00")["deadline"]
