"""Reads the files of `deploy/` as their programs do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def read(name: str) -> Any:
    """The content of a YAML file of `deploy/`."""
    return yaml.safe_load((DEPLOY / name).read_text())


def interpolated(text: str, environ: dict[str, str]) -> str:
    """A value of a compose file with its variables put in."""

    def value(found: re.Match[str]) -> str:
        return environ.get(found["name"]) or found["default"] or ""

    return re.sub(r"\$\{(?P<name>\w+)(:-(?P<default>[^}]*))?\}", value, text)


def env_file(name: str) -> dict[str, str]:
    """Names and values of a file of variables."""
    lines = (DEPLOY / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def instructions(name: str = "Dockerfile") -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each in one line."""
    text = (DEPLOY / name).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined]


def snake(values: dict[str, Any]) -> dict[str, Any]:
    """Values of the chart by the names that Dagster's config has for them."""
    return {re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", key).lower(): v for key, v in values.items()}
