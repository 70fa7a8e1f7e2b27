"""Several accounts for tests: an accounts.yaml before a simulator, keys that name workspaces."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

# Two organisations; the first has two workspaces.
KEYS = {
    "north_a": "any@a/north",
    "north_b": "any@b/north",
    "south": "any@a/south",
}


def declared(**changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The accounts as accounts.yaml has them, of one owner; `changes` by account."""
    return {
        name: {
            "key_env": f"{name.upper()}_KEY",
            "organisation": key.rpartition("/")[2],
            "workspace": key.partition("@")[2].partition("/")[0],
            "owner": "research",
            **changes.get(name, {}),
        }
        for name, key in KEYS.items()
    }


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Mapping[str, Any]) -> Path:
    """The file, with its keys in the environment."""
    for name, key in KEYS.items():
        monkeypatch.setenv(f"{name.upper()}_KEY", key)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    file = folder / "accounts.yaml"
    file.write_text(yaml.safe_dump(declared(**changes)))
    return file
