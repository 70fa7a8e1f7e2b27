"""What a job says to the model: system prompt, turns, examples, and what holds for documents.

Belongs here: the keys below `prompt`, and the rules between them. What a row puts into the
placeholders is in `flow.dataset`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import ValidationError

from batch_pipeline.errors import DeclarationError
from batch_pipeline.jobs.declared_model import (
    DeclaredModel,
    JsonObject,
    Text,
    is_from_file,
    problem_with,
    read_text,
)
from batch_pipeline.jobs.prompts.examples import ExamplesSpec
from batch_pipeline.jobs.prompts.template import Slot, Template

KeyPath = tuple[str | int, ...]
_LAST_IS_THE_ASSISTANTS = (
    "the last turn is the assistant's; the API answers a user's turn: end with role: user"
)
_FIRST_IS_THE_ASSISTANTS = (
    "the first turn is the assistant's; the API begins with the user's: begin with role: user"
)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    return text


# What is said, in the declaration or in a file of its own.
_Said = Annotated[Text, AfterValidator(_not_blank)]


class SystemBlock(DeclaredModel):
    """A block of the system prompt, as the API takes it."""

    type: Literal["text"] = Field(
        default="text", description="Text, the only kind that the API takes.", examples=["text"]
    )
    text: Annotated[str, AfterValidator(_not_blank)] = Field(
        description="The block's text.", examples=["You are a contracts analyst."]
    )
    cache_control: JsonObject | None = Field(
        default=None,
        description="A cache mark of your own; not beside `caching`.",
        examples=[{"type": "ephemeral"}],
    )


_BLOCKS: TypeAdapter[tuple[SystemBlock, ...]] = TypeAdapter(
    Annotated[tuple[SystemBlock, ...], Field(strict=False)]
)


def _text_or_blocks(
    value: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
) -> object:
    """Validates what is declared as what it is, so that a problem is told once, with its key."""
    if is_from_file(value) or isinstance(value, str):
        text = read_text(value, info)
        return _not_blank(text) if isinstance(text, str) else text
    if isinstance(value, list | tuple) and value:
        return _BLOCKS.validate_python(tuple(value))
    if value is None:
        return handler(value)
    raise ValueError("must be a text, or a list of blocks like {type: text, text: …}")


class TurnSpec(DeclaredModel):
    """One turn of the conversation that each request is."""

    FILE_KEYS: ClassVar[Mapping[str, str]] = {"text": "user.md"}

    role: Literal["user", "assistant"] = Field(
        description="Who speaks; the last turn is the user's.", examples=["user", "assistant"]
    )
    text: _Said = Field(
        description="What is said: a user's text may hold `{column}` placeholders, an assistant's "
        "none. Or `text_file`.",
        examples=["Here is a contract:\n\n{text}"],
    )


class PromptSpec(DeclaredModel):
    """The prompt's texts; a user's are templates with `{column}` placeholders."""

    FILE_KEYS: ClassVar[Mapping[str, str]] = {"system": "system.md", "user": "user.md"}

    system: Annotated[str | tuple[SystemBlock, ...] | None, WrapValidator(_text_or_blocks)] = Field(
        default=None,
        description="The system prompt, sent as it is: a text, or a list of text blocks; or "
        "`system_file`.",
        examples=[
            "You are a contracts analyst.",
            [{"type": "text", "text": "You are a contracts analyst."}],
        ],
    )
    user: _Said | None = Field(
        default=None,
        description="The user's turn: a text with `{column}` placeholders, a column's name and "
        "nothing else between the braces; `{{` and `}}` are literal braces. `{document}` (rows "
        "that are files), `{column:pdf}`, `{column:image}` and `{column:document}` put a document "
        "there. Or `user_file`.",
        examples=[
            "What is the notice period of this contract?\n\n{text}",
            "What is the notice period of this contract?\n\n{document}",
        ],
    )
    messages: Annotated[tuple[TurnSpec, ...], Field(strict=False)] = Field(
        default=(),
        description="Several turns in place of `user`.",
        examples=[
            [
                {"role": "user", "text": "I will show you a contract."},
                {"role": "assistant", "text": "Go ahead."},
                {"role": "user", "text": "What is the notice period of {text}?"},
            ]
        ],
    )
    examples: ExamplesSpec | None = Field(
        default=None,
        description="Questions with their answers, which come before the question about the row.",
        examples=[
            {"items": [{"input": {"text": "… three months …"}, "answer": {"months": 3}}]},
        ],
    )
    citations: bool = Field(
        default=False,
        description="Whether answers cite the documents; the citations are in the column `details` "
        "of the results. Not beside `output_schema`.",
        examples=[True],
    )
    titles: dict[str, str] = Field(
        default_factory=dict,
        description="Titles of the documents that the model is told, by the column of the "
        "placeholder; templates of texts.",
        examples=[{"document": "{id}"}],
    )

    @model_validator(mode="after")
    def _parts_that_work_together(self) -> Self:
        found = list(self._problems_of_turns())
        if not found:
            found = [*self._problems_of_examples(), *self._problems_of_titles()]
        if found:
            listed = [problem_with(path, message) for path, message in found]
            raise ValidationError.from_exception_data("prompt", listed)
        return self

    @property
    def turns(self) -> tuple[TurnSpec, ...]:
        """The turns of each request, those of examples left out; the last is the user's."""
        if self.user is None:
            return self.messages
        return (TurnSpec(role="user", text=self.user),)

    @property
    def templates(self) -> tuple[Template, ...]:
        """The turns as templates."""
        return tuple(Template.parse(turn.text) for turn in self.turns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all placeholders, each once."""
        return tuple(dict.fromkeys(name for each in self.templates for name in each.slots))

    @property
    def of_documents(self) -> tuple[Slot, ...]:
        """The placeholders that may stand for a document."""
        found: Iterator[Slot] = map(Slot.of, self.columns)
        return tuple(slot for slot in found if slot.kind is not None)

    @property
    def begins(self) -> str:
        """The text that the turns of all requests begin with, up to the first placeholder."""
        examples = self.examples
        if examples is not None:
            return "".join(user for user, _ in self.example_pairs) if examples.is_fixed else ""
        return self.templates[0].literals[0]

    @property
    def example_pairs(self) -> tuple[tuple[str, str], ...]:
        """Each example as the user's turn and the answer to it."""
        if self.examples is None:
            return ()
        return self.examples.pairs(self.templates[-1])

    @property
    def blocks(self) -> tuple[SystemBlock, ...]:
        """The blocks of the system prompt, where it is declared as blocks."""
        return self.system if isinstance(self.system, tuple) else ()

    def system_as_sent(self) -> str | list[dict[str, Any]] | None:
        """The system prompt in the API's form."""
        if self.system is None or isinstance(self.system, str):
            return self.system
        return [block.model_dump(mode="json", exclude_none=True) for block in self.system]

    def _problems_of_turns(self) -> Iterator[tuple[KeyPath, str]]:
        if self.user is not None and self.messages:
            yield ("messages",), "takes one of user and messages, and has both"
            return
        if self.user is None and not self.messages:
            yield ("user",), "is required: the user's turn, or messages"
            return
        for number, turn in enumerate(self.turns):
            key: KeyPath = ("user",) if self.user is not None else ("messages", number, "text")
            try:
                template = Template.parse(turn.text)
            except DeclarationError as error:
                yield key, str(error)
                continue
            if turn.role == "assistant" and template.slots:
                yield (
                    key,
                    (
                        f"holds {{{template.slots[0]}}}, a placeholder: this answer would be each "
                        "row's own document; double the braces where they are meant literally"
                    ),
                )
        if self.turns[-1].role == "assistant":
            yield ("messages",), _LAST_IS_THE_ASSISTANTS
        elif self.turns[0].role == "assistant" and self.examples is None:
            yield ("messages",), _FIRST_IS_THE_ASSISTANTS

    def _problems_of_examples(self) -> Iterator[tuple[KeyPath, str]]:
        if self.examples is not None:
            for path, message in self.examples.problems(self.templates[-1], self.columns):
                yield ("examples", *path), message

    def _problems_of_titles(self) -> Iterator[tuple[KeyPath, str]]:
        columns = {slot.column for slot in self.of_documents}
        names = {slot.name for slot in self.of_documents}
        if self.citations and not columns:
            yield ("citations",), "has no document to cite: use {document} or {column:pdf}"
        for column, text in self.titles.items():
            if column not in columns:
                yield (
                    ("titles", column),
                    (f"no placeholder puts a document of column {column!r} into the prompt"),
                )
                continue
            try:
                template = Template.parse(text)
            except DeclarationError as error:
                yield ("titles", column), str(error)
                continue
            if names & set(template.slots):
                [name, *_] = sorted(names & set(template.slots))
                yield ("titles", column), f"holds {{{name}}}, a document; titles are texts"
