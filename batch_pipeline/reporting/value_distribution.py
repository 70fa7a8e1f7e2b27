"""Which values the fields of a schema have in a set of answers, and which are always the same.

Pure functions of a JSON Schema and of answers that fit it. A field that is always the same tells of
a prompt that does not ask for it, or of a schema that leaves no other answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from batch_pipeline.wording import clipped

Kind = Literal["enum", "boolean", "number", "text"]

# From this number of values on, that all are the same is no chance any more.
TELLING = 10
# A field has at most this number of bars; further values are counted together.
MOST_BARS = 12
MOST_BINS = 8
VALUE_CHARACTERS = 60
# A schema may contain itself.
_MOST_DEEP = 8
# Texts are counted by value where values come back: on average in this number of answers.
_REPEATED = 2


@dataclass(frozen=True)
class Bar:
    """A value, or a range of numbers, and how often it came."""

    value: str
    count: int


@dataclass(frozen=True)
class Field:
    """The values of one field over all answers; `path` as in `parties[].name`.

    `values` are those that are there and not null, `nulls` the others. `bars` are the most frequent
    first, those of numbers from the least on; `different` values there are. `summary` says the rest
    in words. Values of an enum that never came are `never`.
    """

    path: str
    kind: Kind
    values: int
    nulls: int
    different: int
    bars: tuple[Bar, ...]
    summary: str
    never: tuple[str, ...] = ()

    @property
    def always(self) -> str | None:
        """The value that the field always has, where enough answers show it; else None."""
        if self.values + self.nulls < TELLING:
            return None
        if not self.values:
            return "null"
        return self.bars[0].value if self.different == 1 and not self.nulls else None


def of(schema: Mapping[str, Any] | None, answers: Sequence[Any]) -> list[Field]:
    """The fields of a schema in its order, with their values in these answers.

    Fields of objects within objects and within lists are included; a text field is left out where
    each answer has one and its values hardly ever come back, as those of a summary do.
    """
    if schema is None or not answers:
        return []
    found = []
    for path, kind, choices in _fields(schema, schema, (), frozenset({"#"})):
        field = _field(path, kind, choices, answers)
        if field is not None:
            found.append(field)
    return found


Step = str | None  # a key, or None for each item of a list
_Path = tuple[Step, ...]


def _fields(
    schema: Any, root: Mapping[str, Any], path: _Path, within: frozenset[str] = frozenset()
) -> Iterator[tuple[_Path, Kind, tuple[Any, ...]]]:
    """The leaves of a schema with their kinds, and the choices of an enum; `within` are references
    that led here: a schema that contains itself is gone into once."""
    if not isinstance(schema, Mapping) or len(path) > _MOST_DEEP:
        return
    schema, references = _resolved(schema, root)
    if references & within:
        return
    within |= references
    types = _types(schema)
    if isinstance(schema.get("properties"), Mapping):
        for name, part in schema["properties"].items():
            yield from _fields(part, root, (*path, name), within)
    elif "items" in schema:
        yield from _fields(schema["items"], root, (*path, None), within)
    elif "enum" in schema or "const" in schema:
        choices = schema.get("enum", [schema.get("const")])
        yield path, "enum", tuple(each for each in choices if each is not None)
    elif "boolean" in types:
        yield path, "boolean", (True, False)
    elif types & {"number", "integer"}:
        yield path, "number", ()
    elif "string" in types:
        yield path, "text", ()


def _resolved(
    schema: Mapping[str, Any], root: Mapping[str, Any]
) -> tuple[Mapping[str, Any], frozenset[str]]:
    """A schema behind references within the document, and behind "this or null"; and the
    references."""
    references: set[str] = set()
    for _ in range(_MOST_DEEP):
        reference = schema.get("$ref")
        choices = [
            each
            for key in ("anyOf", "oneOf", "allOf")
            for each in schema.get(key) or ()
            if isinstance(each, Mapping) and each.get("type") != "null"
        ]
        target: Any = None
        if isinstance(reference, str) and reference.startswith("#"):
            references.add(reference)
            target = _at(root, [step for step in reference[1:].split("/") if step])
        elif len(choices) == 1 and "properties" not in schema:
            target = choices[0]
        if not isinstance(target, Mapping):
            break
        schema = target
    return schema, frozenset(references)


def _at(root: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(root, Mapping) or name not in root:
            return None
        root = root[name]
    return root


def _types(schema: Mapping[str, Any]) -> set[str]:
    declared = schema.get("type")
    if isinstance(declared, str):
        return {declared}
    return {each for each in declared if isinstance(each, str)} if declared else set()


def _field(path: _Path, kind: Kind, choices: Sequence[Any], answers: Sequence[Any]) -> Field | None:
    found = [value for answer in answers for value in _values(answer, path)]
    there = [value for value in found if value is not None]
    if kind == "number":
        there = [v for v in there if isinstance(v, (int, float)) and not isinstance(v, bool)]
    counted = Counter(map(_shown, there))
    name, nulls = _name(path), len(found) - len(there)
    about = name, kind, len(there), nulls, len(counted)
    if kind == "number" and len(counted) > 1:
        middle = f"{_number(median(there))} in the middle"
        summary = f"{_number(min(there))} to {_number(max(there))}, {middle}"
        return Field(*about, _bins(there), summary)
    if kind == "text" and len(counted) * _REPEATED > len(there):
        # Each answer has a text of its own: only where there is none tells something.
        return Field(*about, (), f"{len(counted):,} different texts") if nulls else None
    most = counted.most_common(MOST_BARS)
    bars = tuple(Bar(clipped(value, VALUE_CHARACTERS), count) for value, count in most)
    further = len(counted) - len(bars)
    summary = f"and {further:,} further values" if further > 0 else ""
    never = tuple(each for each in map(_shown, choices) if each not in counted)
    return Field(*about, bars, summary, never)


def _values(answer: Any, path: _Path) -> Iterator[Any]:
    """The values at a path; None where an object lacks the key."""
    if not path:
        yield answer
        return
    step, rest = path[0], path[1:]
    if step is None:
        for item in answer if isinstance(answer, list) else ():
            yield from _values(item, rest)
    elif isinstance(answer, Mapping):
        if None not in rest or answer.get(step) is not None:
            yield from _values(answer.get(step), rest)
    elif None not in path:
        yield None


def _name(path: _Path) -> str:
    text = ""
    for step in path:
        text += "[]" if step is None else f".{step}" if text else step
    return text or "the answer"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _number(value)
    return " ".join(value.split()) if isinstance(value, str) else str(value)


def _number(value: float) -> str:
    """A number as one writes it: with separators, and no more digits than tell."""
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}" if abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,.4g}"


def _bins(values: Sequence[float]) -> tuple[Bar, ...]:
    """The counts of equally wide ranges; of few different values those of each."""
    different = sorted(set(values))
    if len(different) <= MOST_BINS:
        counted = Counter(values)
        return tuple(Bar(_number(value), counted[value]) for value in different)
    low, high = different[0], different[-1]
    if all(isinstance(value, int) for value in values):
        return _whole_bins(values, int(low), int(high))
    # Halves first: the difference of two large numbers may be more than a number can be.
    width = high / MOST_BINS - low / MOST_BINS
    counts = [0] * MOST_BINS
    for value in values:
        counts[min(MOST_BINS - 1, int((value / width) - (low / width)))] += 1
    return tuple(
        Bar(f"{_number(low + n * width)} to {_number(low + (n + 1) * width)}", count)
        for n, count in enumerate(counts)
    )


def _whole_bins(values: Sequence[float], low: int, high: int) -> tuple[Bar, ...]:
    """The same for whole numbers, whose ranges have no common border."""
    width = -(-(high - low + 1) // MOST_BINS)
    counts = Counter((int(value) - low) // width for value in values)
    starts = range(low, high + 1, width)
    return tuple(
        Bar(f"{_number(start)} to {_number(min(high, start + width - 1))}", counts[n])
        for n, start in enumerate(starts)
    )
