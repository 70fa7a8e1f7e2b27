"""Writes values as YAML in one line, as people write them in a declaration."""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Writes no aliases: a value that is there twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def in_one_line(value: Any) -> str:
    """A value as YAML in flow style, without a line break."""
    text = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=1_000_000,
    )
    return text.removesuffix("\n").removesuffix("\n...")
