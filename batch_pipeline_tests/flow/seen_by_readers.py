"""What a reader of a results folder may see: looked at after each change of a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.flow.pipeline import Pipeline
from batch_pipeline_tests.support import ids_shown


def ids_at_each_change(
    monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline, folder: Path
) -> list[list[str]]:
    """The ids that a folder of a local home shows, added each time that the pipeline has given a
    file its name or removed one."""
    seen: list[list[str]] = []

    def looking(change: Callable[..., None]) -> Callable[..., None]:
        def change_and_look(*given: Any) -> None:
            change(*given)
            seen.append(ids_shown(folder))

        return change_and_look

    for name in ("publish", "remove"):
        monkeypatch.setattr(pipeline.files, name, looking(getattr(pipeline.files, name)))
    return seen
