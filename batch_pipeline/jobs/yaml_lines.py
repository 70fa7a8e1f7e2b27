"""Reads YAML into plain values, with the line of every key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import yaml

KeyPath = tuple[int | str, ...]
"""Where a value is in a document: ("attributes", "upstream", 0)."""


class YamlProblem(Exception):
    """The text is not a YAML document that can be read; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class YamlDocument:
    """One document: its value, the lines of its keys, and the keys that are there twice.

    `repeated` has (path of a key, line of the repetition, line of the first).
    """

    value: Any
    lines: dict[KeyPath, int]
    repeated: list[tuple[KeyPath, int, int]]

    def line_of(self, path: KeyPath) -> int:
        """The line of a key, or of the nearest one above it that is there; counted from 1."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse_yaml(content: bytes) -> YamlDocument:
    """Read one YAML document; raises YamlProblem where that cannot be done.

    A date becomes a date; an impossible one (`2026-02-30`) stays text, so that the validation of
    the value can name its key.
    """
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        document = YamlDocument(None, {}, [])
        if node is None:
            return document
        # Before the values are built: that rewrites merged (`<<`) mappings.
        _walk(node, (), document, set())
        return replace(document, value=loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlProblem(message + _hint(message), mark.line + 1 if mark else 1) from error
    except yaml.reader.ReaderError as error:
        raise YamlProblem(f"is not readable text: {error.reason}", 1) from error


def _hint(message: str) -> str:
    """The most frequent cause of a parser's message."""
    if "'\\t'" in message:
        return "; indent with spaces, not with tabs"
    if "while parsing a flow" in message:
        return "; close every bracket, and put values that hold {, }, [, ] or a comma into quotes"
    if "mapping values are not allowed" in message:
        return "; put a text that holds a colon and a space into quotes"
    return ""


def _walk(node: yaml.Node, path: KeyPath, document: YamlDocument, seen: set[int]) -> None:
    """Note the lines of all keys below a node; an alias is followed once, as it may be a loop."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*path, index)] = item.start_mark.line + 1
            _walk(item, (*path, index), document, seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            key_path = (*path, key.value)
            line = key.start_mark.line + 1
            if key_path in document.lines:
                document.repeated.append((key_path, line, document.lines[key_path]))
            else:
                document.lines[key_path] = line
            _walk(value, key_path, document, seen)


class _Loader(yaml.SafeLoader):
    """The safe loader: plain values only, no Python objects."""

    def timestamp(self, node: yaml.ScalarNode) -> object:
        try:
            return self.construct_yaml_timestamp(node)
        except ValueError:
            return node.value


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.timestamp)
