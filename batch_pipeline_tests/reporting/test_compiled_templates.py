"""Templates are compiled once, where that can be kept."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from jinja2 import DictLoader, Environment

from batch_pipeline.reporting import compiled_templates
from batch_pipeline.reporting.compiled_templates import CompiledTemplates


def rendered(source: str, compiled: list[str]) -> str:
    class Noted(Environment):
        def _compile(self, source: str, filename: str) -> CodeType:
            compiled.append(filename)
            return super()._compile(source, filename)

    loader = DictLoader({"page": source})
    environment: Any = Noted(loader=loader, bytecode_cache=CompiledTemplates())
    return str(environment.get_template("page").render(name="x"))


@pytest.mark.parametrize(
    ("folder", "forbidden", "times"),
    [("kept", False, 2), ("kept", True, 3), ("gone", False, 3)],
    ids=["kept", "Python is to write nothing", "a folder that cannot be written to"],
)
def test_a_template_is_compiled_anew_only_where_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, forbidden: bool, times: int
) -> None:
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(sys, "dont_write_bytecode", forbidden)
    monkeypatch.setattr(
        compiled_templates, "cache_from_source", lambda _: str(tmp_path / folder / "module.pyc")
    )
    compiled: list[str] = []
    assert rendered("old {{ name }}", compiled) == "old x"
    assert rendered("old {{ name }}", compiled) == "old x"
    assert rendered("new {{ name }}", compiled) == "new x"
    assert len(compiled) == times
