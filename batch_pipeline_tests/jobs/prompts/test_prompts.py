"""What is wrong with a prompt is told at load, by file, line and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.errors import DeclarationError
from batch_pipeline.flow.dataset.requests.declaration import Declaration
from batch_pipeline.jobs import parameters
from batch_pipeline.jobs.yaml_files.loading import load_job
from batch_pipeline_tests.jobs.test_spec import job, problems

START = """\
type: batch_pipeline.BatchJobComponent
attributes:
  name: one
  input: {path: x.csv}
  model_id: claude-haiku-4-5-20251001
  max_tokens: 500
"""
RANDOM = (
    "    examples: {items: [{user: a, answer: b}, {user: c, answer: d}], count: 1, choose: random}"
)
TURNS = [
    "    messages:",
    '      - {role: user, text: "See {text}."}',
    '      - {role: assistant, text: "Yes."}',
]
SCHEMA = {"type": "object", "properties": {"months": {"type": "integer"}}, "required": ["months"]}


def refused(folder: Path, lines: list[str]) -> list[str]:
    """The problems of a declaration whose `prompt` starts on line 7: `line: key: message`."""
    file = folder / "one" / "defs.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(START + "\n".join(["  prompt:", *lines]) + "\n", encoding="utf-8")
    with pytest.raises(DeclarationError) as raised:
        load_job(file)
    found = str(raised.value).splitlines()
    return [line.removeprefix(f"{file}:").replace("attributes.", "") for line in found]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["    system: s"], "7: prompt.user: is required: the user's turn, or messages"),
        (['    user: "a {b"'], "8: prompt.user: prompt template, line 1, column 3: a lone '{'"),
        (['    user: "{text}"', *TURNS],
         "9: prompt.messages: takes one of user and messages, and has both"),
        (TURNS, "8: prompt.messages: the last turn is the assistant's; the API answers a user's"),
        (["    messages:", '      - {role: assistant, text: "Hm"}', TURNS[1]],
         "8: prompt.messages: the first turn is the assistant's"),
        ([*TURNS[:2], '      - {role: assistant, text: "It is {text}"}', TURNS[1]],
         "10: prompt.messages.1.text: holds {text}, a placeholder: this answer would be each"),
        ([*TURNS[:2], "      - {role: system, text: x}"],
         "10: prompt.messages.1.role: must be 'user' or 'assistant', not the text 'system'"),
        ([*TURNS[:2], "      - {role: user}"],
         "10: prompt.messages.1.text: is required"),
        ([*TURNS[:2], "      - {role: user, text_file: no.md}"],
         "10: prompt.messages.1.text_file: cannot read"),
        (["    messages:", '      - {role: user, text: "No placeholder."}'],
         "8: prompt.messages: has no {column} placeholder, so that no document is ever part"),
        (["    system:", "      - {type: image, text: x}", '    user: "{text}"'],
         "9: prompt.system.0.type: must be 'text', not the text 'image'"),
        (["    system:", '      - {type: text, text: " "}', '    user: "{text}"'],
         "9: prompt.system.0.text: the text is empty"),
        (["    system: 5", '    user: "{text}"'],
         "8: prompt.system: must be a text, or a list of blocks"),
        (['    user: "{text}"', "    examples: {count: 5}"],
         "9: prompt.examples: needs items or file"),
        (['    user: "{text}"', "    examples: {count: 2, items: [{user: a, answer: b}]}"],
         "9: prompt.examples.count: count is 2, but there are 1 examples"),
        (['    user: "{text}"', "    examples:", "      items:", "      - {user: a}"],
         "11: prompt.examples.items.0.answer: is required"),
        (['    user: "{text}"', "    examples:", "      items:", "      - {answer: a}"],
         "11: prompt.examples.items.0: needs one of input and user"),
        (['    user: "{text}"', "    examples:", "      items:",
          '      - {user: a, answer: "of {text}"}'],
         "11: prompt.examples.items.0.answer: holds {text}, a placeholder of the prompt"),
        (['    user: "{text}"', "    examples:", "      items:",
          '      - {user: "of {text}", answer: b}'],
         "11: prompt.examples.items.0.user: holds {text}, a placeholder of the prompt"),
        (['    user: "{text}"', "    examples:", "      items:", "      - {user: a, answer: }"],
         "11: prompt.examples.items.0.answer: the answer is empty"),
        (['    user: "{text}{n}"', "    examples:", "      items:",
          "      - {input: {text: a}, answer: b}"],
         "11: prompt.examples.items.0.input: has no 'n', which the last turn puts in"),
        (['    user: "{text}"', "    examples:", "      items:",
          "      - {input: {text: a, m: 5}, answer: b}"],
         "11: prompt.examples.items.0.input.m: is put nowhere: the last turn has no {m}"),
        (['    user: "{document}"', "    examples:", "      items:",
          "      - {input: {}, answer: b}"],
         "11: prompt.examples.items.0.input: cannot fill {document} with a document; give user"),
        (['    user: "{text}"', "    citations: true"],
         "9: prompt.citations: has no document to cite: use {document} or {column:pdf}"),
        (['    user: "{document}"', "    citations: true", "  output_schema: {type: object}"],
         "9: prompt.citations: cannot be had together with output_schema"),
        (['    user: "{document}"', "    titles:", '      text: "{id}"'],
         "10: prompt.titles.text: no placeholder puts a document of column 'text' into the prompt"),
        (['    user: "{document}"', "    titles:", '      document: "{document}"'],
         "10: prompt.titles.document: holds {document}, a document; titles are texts"),
        (['    user: "{a:pdf}"', "    titles:", '      a: "{"'],
         "10: prompt.titles.a: prompt template, line 1, column 1: a lone '{'"),
        (['    user: "{text}"', "  per_row:",
          "    model_id: {column: m, models: [a, b, a-20260101]}"],
         "10: per_row.model_id.models.2: asks as models.0 does"),
        (['    user: "{text}"', "  per_row: {model_id: {column: m, models: [claude-opus-4-6]}}",
          '  routes: [{where: "a = 1", model_id: claude-opus-4-6}]'],
         "9: per_row.model_id: per_row.model_id and routes both choose the model; keep one"),
        (['    user: "{text}"', "  params: {thinking: {type: disabled}}",
          "  per_row: {model_id: {column: m, models: [claude-opus-5-5]}}"],
         "10: per_row.model_id.models.0.params.thinking.type: is disabled"),
        (['    user: "{text}"', RANDOM, "  caching: auto"],
         "10: caching: has nothing to cache: examples that differ from row to row"),
        (["    system: [{text: s, cache_control: {type: ephemeral}}]", '    user: "{text}"',
          "  caching: auto"],
         "10: caching: marks the shared prefix, and params has cache_control of its own"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told_where_it_stands(
    tmp_path: Path, lines: list[str], expected: str
) -> None:
    [found] = refused(tmp_path, lines)
    assert found.startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b'{"user": "a", "answer": "b"}\n{"user": "a"}',
            "line 2 is not {input or user, answer}: ans",
        ),
        (b'{"user": "a", "answer": "b"}\n\n{"user": "a", "answer": 1}', "the file's line 2 is not"),
        (b"[1]", "the file's line 1 is not {input or user, answer}"),
        (
            b'{"input": {}, "answer": {"months": 2}}',
            "the file's line 1: input: has no 'text', which the",
        ),
        (
            b'{"user": "a", "answer": {"months": "x"}}',
            "the file's line 1: answer does not fit outp",
        ),
        (
            b'{"user": "a", "answer": "three"}',
            "the file's line 1: answer is no JSON, which output_s",
        ),
        (b"", "holds no example"),
        (b"x" * 5_000_001, "has more than 5,000,000 bytes"),
        (None, "cannot read"),
    ],
)
def test_a_file_of_examples_is_read_line_by_line(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "examples.jsonl").write_bytes(content)
    prompt = {"user": "{text}", "examples": {"file": "examples.jsonl"}}
    [(key, message)] = problems(tmp_path, prompt=prompt, output_schema=SCHEMA).items()
    assert key.startswith("prompt.examples")
    assert expected in message


def test_examples_of_a_file_are_those_of_the_declaration(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [
        {"input": {"text": "ä"}, "answer": {"months": 3}},
        {"user": "b", "answer": '{"months": 4}'},
    ]
    lines = "\ufeff" + "".join(json.dumps(item) + "\r\n" for item in items)
    (tmp_path / "examples.jsonl").write_text(lines, encoding="utf-8", newline="")
    of_file, here = (
        Declaration.of(job(tmp_path, prompt={"user": "Of {text}", "examples": examples}))
        for examples in ({"file": "examples.jsonl"}, {"items": items})
    )
    assert of_file == here
    assert here.examples == {"turns": [["Of ä", '{"months":3}'], ["b", '{"months": 4}']]}
    # What is not sent is no part of the declaration.
    one = {"user": "Of {text}", "examples": {"items": items, "count": 1}}
    alone = {"user": "Of {text}", "examples": {"items": items[:1]}}
    assert Declaration.of(job(prompt=one)).hash == Declaration.of(job(prompt=alone)).hash
    assert here.hash != Declaration.of(job(prompt=one)).hash
    of_example = {"items": items, "count": 1, "choose": "random"}
    warned = job(
        prompt={"system": "s", "user": "{text}", "examples": of_example}, caching="auto"
    ).declared()
    [warning] = parameters.warnings(warned)
    assert warning.startswith("caching: caches prompt.system and tools alone")


def test_models_that_rows_may_name_are_routes() -> None:
    models = ["claude-haiku-4-5", "claude-opus-4-6"]
    spec = job(per_row={"model_id": {"column": "m", "models": models}})
    declaration = Declaration.of(spec)
    assert [route.equals for route in declaration.routes] == [("m", each) for each in models]
    stored = json.loads(json.dumps(declaration.to_json()))
    assert Declaration.from_json(stored) == declaration
    assert [each.model_id for each in declaration.by_route().values()] == [
        spec.model_id,
        *models,
    ]
