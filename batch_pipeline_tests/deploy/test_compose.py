"""The compose file: its schema, and that what it names exists."""

from __future__ import annotations

import importlib.resources
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from dagster._cli.api import grpc_command, grpc_health_check_command
from typer.main import get_command

from batch_pipeline.cli.app import app
from batch_pipeline.jobs.yaml_files.loading import load_files
from batch_pipeline.settings import Settings
from batch_pipeline_tests.deploy.files import (
    DEPLOY,
    ROOT,
    env_file,
    instructions,
    interpolated,
    read,
)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The compose file."""
    found: dict[str, Any] = read("compose.yaml")
    return found


def test_the_file_fits_its_schema(compose: dict[str, Any]) -> None:
    vendor = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((vendor / "compose-spec.json").read_text())
    errors = jsonschema_rs.validator_for(schema).iter_errors(compose)
    assert [(list(error.instance_path), error.message) for error in errors] == []


def test_what_services_refer_to_exists(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        assert service.get("depends_on", {}).keys() <= services.keys(), name
        for other, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in services[other], other
        network = service.get("network_mode", "service:code").removeprefix("service:")
        assert network in services, name
        for volume in service.get("volumes", ()):
            source = interpolated(volume, {}).split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), volume


def test_images_are_pinned_and_the_ui_is_for_this_machine(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+|\d{4}-\d\d-\d\d", tag), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name


def test_each_of_our_containers_is_closed(compose: dict[str, Any]) -> None:
    ours = [s for s in compose["services"].values() if s["image"].startswith("batch-pipeline")]
    assert len(ours) == 7
    for service in ours:
        assert service["user"] == "10001:10001"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


def test_the_settings_of_the_flow_are_valid(compose: dict[str, Any]) -> None:
    environ = {
        name: interpolated(value, {})
        for name, value in compose["services"]["code"]["environment"].items()
    }
    settings = Settings.from_environment(environ, relative_home=False)
    assert settings.home_is_remote
    assert settings.ledger_file is None
    assert environ.keys() <= compose["services"]["worker"]["environment"].keys()


def test_each_variable_is_one_that_is_read(compose: dict[str, Any]) -> None:
    sources = "".join(path.read_text() for path in (ROOT / "batch_pipeline").rglob("*.py"))
    read_by_us = set(re.findall(r"\bBATCH_PIPELINE_[A-Z_]+\b", sources))
    named = set()
    for file in DEPLOY.rglob("*"):
        if file.is_file():
            named |= set(re.findall(r"\bBATCH_PIPELINE_[A-Z_]+\b", file.read_text()))
    assert named <= read_by_us


def _commands(compose: dict[str, Any]) -> Iterator[list[str]]:
    for service in compose["services"].values():
        for command in (service.get("command"), service.get("healthcheck", {}).get("test")):
            if command:
                yield command[1:] if command[0] == "CMD" else command
    yield json.loads(dict(instructions())["CMD"])
    [metrics] = read("helm/metrics.yaml")["spec"]["template"]["spec"]["containers"]
    yield metrics["args"]


def test_the_commands_are_understood(compose: dict[str, Any]) -> None:
    commands = list(_commands(compose))
    ours = get_command(app)
    known = {
        ("dagster", "api", "grpc"): grpc_command,
        ("dagster", "api", "grpc-health-check"): grpc_health_check_command,
        ("batch-pipeline", "simulator"): getattr(ours, "commands")["simulator"],  # noqa: B009
        ("batch-pipeline", "metrics"): getattr(ours, "commands")["metrics"],  # noqa: B009
    }
    seen = set()
    for start, command in known.items():
        for words in commands:
            if tuple(words[: len(start)]) == start:
                command.make_context(shlex.join(start), list(words[len(start) :]))
                seen.add(start)
    assert seen == known.keys()


def test_the_simulators_variables_reach_the_code_server(compose: dict[str, Any]) -> None:
    environ = env_file("simulator.env")
    [given] = compose["services"]["code"]["env_file"]
    assert interpolated(given["path"], environ) == "simulator.env"
    port = compose["services"]["simulator"]["command"][3]
    assert environ["ANTHROPIC_BASE_URL"].endswith(f":{port}")
    assert compose["services"]["simulator"]["network_mode"] == "service:code"
    assert environ["COMPOSE_PROFILES"].split(",") == ["simulator"]


def test_the_example_job_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTES", "s3://batch-pipeline/notes")
    [job] = load_files(DEPLOY / "example" / "jobs").values()
    assert job.spec.name == "notes"


def test_no_file_holds_a_secret() -> None:
    for file in DEPLOY.rglob("*"):
        if file.is_file():
            assert "sk-ant" not in file.read_text()
    example = env_file("compose.env.example")
    assert {example[name] for name in ("ANTHROPIC_API_KEY", "POSTGRES_PASSWORD")} == {""}
