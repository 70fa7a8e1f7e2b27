"""Examples in the prompt: questions with the answers that are wanted.

Belongs here: the keys below `prompt.examples`, the file that they come from, and what is wrong with
an example. Which examples a row gets is in `flow.dataset.requests.prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, JsonValue, ValidationInfo, model_validator
from pydantic_core import ValidationError

from batch_pipeline.jobs.declared_model import DeclaredModel, NonEmpty, base_dir_of
from batch_pipeline.jobs.prompts.template import Template

# A file of examples is part of each night's declaration, and of each request: a larger one is a
# mistake.
MOST_BYTES = 5_000_000
_NOT_FILLED = (
    "a placeholder of the prompt, and examples are sent as they are: write out what this one says"
)


class ExampleSpec(DeclaredModel):
    """One question, as the row's columns or as a text, and its answer."""

    input: dict[str, JsonValue] | None = Field(
        default=None,
        description="What the columns of the last user's turn hold in this example.",
        examples=[{"text": "… three months' notice …"}],
    )
    user: NonEmpty | None = Field(
        default=None,
        description="The whole question in place of `input`, sent as it is.",
        examples=["Notice period of: … three months …"],
    )
    answer: JsonValue = Field(
        description="The answer: a text, or JSON for an `output_schema`.",
        examples=[{"months": 3}, "Three months."],
    )

    @property
    def answer_text(self) -> str:
        return _text(self.answer)


class ExamplesSpec(DeclaredModel):
    """Examples, from here or from a file of JSON Lines."""

    items: Annotated[tuple[ExampleSpec, ...], Field(strict=False)] = Field(
        default=(),
        description="The examples.",
        examples=[[{"input": {"text": "… three months …"}, "answer": {"months": 3}}]],
    )
    file: NonEmpty | None = Field(
        default=None,
        description="A file of them in place of `items`, JSON Lines of `{input or user, answer}`, "
        "relative to this one.",
        examples=["examples.jsonl"],
    )
    count: int | None = Field(
        default=None,
        ge=1,
        description="How many of them a request has; null: all.",
        examples=[5],
    )
    choose: Literal["fixed", "random"] = Field(
        default="fixed",
        description="`fixed`: the first `count`, the same for each row. `random`: others for each "
        "row, the same ones for equal rows; a prompt cache then ends before them.",
        examples=["random"],
    )
    seed: int = Field(
        default=0,
        description="Another number makes another random choice, and buys all answers anew.",
        examples=[7],
    )

    @model_validator(mode="before")
    @classmethod
    def _read_file(cls, data: object, info: ValidationInfo) -> object:
        if not isinstance(data, Mapping) or not isinstance(data.get("file"), str):
            return data
        if data.get("items"):
            raise ValueError("give either items or file, not both")
        path = base_dir_of(info) / data["file"]
        try:
            with path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}") from error
        if len(content) > MOST_BYTES:
            raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes")
        lines = content.removeprefix(b"\xef\xbb\xbf").rstrip().splitlines()
        return {**data, "items": tuple(_example(n, line) for n, line in enumerate(lines, 1))}

    @property
    def is_fixed(self) -> bool:
        """Whether all rows get the same ones."""
        return self.choose == "fixed" or self.count in (None, len(self.items))

    def pairs(self, template: Template) -> tuple[tuple[str, str], ...]:
        """Each example as a user's text, made with the template of the last turn, and an answer;
        of fixed ones those that are sent."""
        used = self.items[: self.count] if self.is_fixed else self.items
        return tuple((_question(example, template), example.answer_text) for example in used)

    def problems(
        self, template: Template, columns: Sequence[str]
    ) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What cannot work beside a prompt of these columns, by the path of its key."""
        if not self.items:
            yield (), f"{self.file} holds no example" if self.file else "needs items or file"
            return
        if self.count is not None and self.count > len(self.items):
            yield ("count",), f"count is {self.count}, but there are {len(self.items)} examples"
        placeholders = [f"{{{name}}}" for name in columns]
        for number, example in enumerate(self.items):
            for key, message in _problems_of(example, template, placeholders):
                if self.file is None:
                    yield ("items", number, *key), message
                else:
                    where = "".join(f"{each}: " for each in key)
                    yield ("file",), f"the file's line {number + 1}: {where}{message}"


def _problems_of(
    example: ExampleSpec, template: Template, placeholders: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    if (example.input is None) == (example.user is None):
        yield (), "needs one of input and user"
        return
    if example.answer is None or not example.answer_text.strip():
        yield ("answer",), "the answer is empty"
    for key, text in (("answer", example.answer_text), ("user", example.user or "")):
        found = next((each for each in placeholders if each in text), None)
        if found is not None:
            yield (key,), f"holds {found}, {_NOT_FILLED}"
    if example.input is not None:
        yield from _problems_of_input(example.input, template)


def _problems_of_input(
    values: Mapping[str, JsonValue], template: Template
) -> Iterator[tuple[tuple[str, ...], str]]:
    document = next((slot for slot in template.of_documents if slot.name not in values), None)
    if document is not None:
        yield (
            ("input",),
            (f"cannot fill {{{document.name}}} with a document; give user in place of input"),
        )
        return
    for name in template.columns:
        if values.get(name) is None:
            yield ("input",), f"has no {name!r}, which the last turn puts in"
    for name in values:
        if name not in template.columns:
            yield ("input", name), f"is put nowhere: the last turn has no {{{name}}}"


def _question(example: ExampleSpec, template: Template) -> str:
    if example.user is not None:
        return example.user
    assert example.input is not None
    return template.render({name: _text(value) for name, value in example.input.items()})


def _text(value: JsonValue) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _example(number: int, line: bytes) -> ExampleSpec:
    wanted = f"the file's line {number} is not {{input or user, answer}}"
    try:
        found: Any = json.loads(line)
        orjson.dumps(found)
        return ExampleSpec.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{wanted}: {where}: {first['msg']}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{wanted}: {error}") from error
