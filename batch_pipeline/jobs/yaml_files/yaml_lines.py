"""Reads YAML into plain values, with the line of every key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import yaml

# A declaration has some hundred values, a large schema some thousand. Within these bounds a
# document is read in about a second; longer texts and schemas have files of their own.
MOST_BYTES = 1_000_000
MOST_VALUES = 20_000
MOST_LEVELS = 100

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
    if len(content) > MOST_BYTES:
        raise YamlProblem(
            f"has over {MOST_BYTES:,} bytes; put long texts and schemas into files of their own "
            "(prompt.system_file, prompt.user_file, output_schema_file)",
            1,
        )
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        document = YamlDocument(None, {}, [])
        if node is None:
            return document
        _check_size(node)
        # Before the values are built: that rewrites merged (`<<`) mappings.
        _walk(node, (), document, set())
        return replace(document, value=loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlProblem(message + _hint(message), mark.line + 1 if mark else 1) from error
    except yaml.reader.ReaderError as error:
        raise YamlProblem(f"is not readable text: {error.reason}", 1) from error


def _check_size(root: yaml.Node) -> None:
    """Refuse, before it is expanded, a document that a few aliases make large or deep."""
    # By node, the values that it comes to and its levels; None while its content is counted.
    known: dict[int, tuple[int, int] | None] = {}

    def measure(node: yaml.Node) -> tuple[int, int]:
        line = node.start_mark.line + 1
        if id(node) not in known:
            known[id(node)] = None
            inner = node.value if isinstance(node, yaml.CollectionNode) else ()
            if isinstance(node, yaml.MappingNode):
                inner = [part for pair in inner for part in pair]
            found = [measure(part) for part in inner]
            values = 1 + sum(count for count, _ in found)
            levels = 1 + max((depth for _, depth in found), default=0)
            _check_bounds(values, levels, line)
            known[id(node)] = values, levels
        # An alias inside the value that it names is refused with that value's key, when it is
        # validated.
        return known[id(node)] or (1, 1)

    measure(root)


def _check_bounds(values: int, levels: int, line: int) -> None:
    if values > MOST_VALUES:
        raise YamlProblem(f"comes to over {MOST_VALUES:,} values, aliases included", line)
    if levels > MOST_LEVELS:
        raise YamlProblem(f"is nested more than {MOST_LEVELS} levels deep", line)


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
    """The safe loader: plain values only, no Python objects. It stops at the bounds."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._values = self._levels = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._values += 1
        self._levels += 1
        event = self.peek_event()  # type: ignore[no-untyped-call]
        _check_bounds(self._values, self._levels, event.start_mark.line + 1)
        node = super().compose_node(parent, index)
        self._levels -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # a number of 5,000 digits
            problem = f"{node.tag.rpartition(':')[2]} cannot be read: {error}"
            raise yaml.constructor.ConstructorError(
                problem=problem, problem_mark=node.start_mark
            ) from error

    def timestamp(self, node: yaml.ScalarNode) -> object:
        try:
            return self.construct_yaml_timestamp(node)
        except ValueError:
            return node.value


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.timestamp)
