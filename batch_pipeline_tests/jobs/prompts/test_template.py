"""The template: what it names, what it refuses, and that rendering is a single pass."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.errors import DeclarationError
from batch_pipeline.flow.dataset.reading.row_json import cell_text
from batch_pipeline.jobs.prompts.template import Template, is_blank


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("no placeholder", ()),
        ("", ()),
        ("{text}", ("text",)),
        ("{a} {b} {a}", ("a", "b")),
        ("{{text}}", ()),
        ("{{{text}}}", ("text",)),
        ("{a}{b}", ("a", "b")),
        ("{a.b} {a[0]} {x!r} {y:>10}", ("a.b", "a[0]", "x!r", "y:>10")),
        ("{Vertragstext (roh)}", ("Vertragstext (roh)",)),
        ("{0}", ("0",)),
    ],
)
def test_columns_are_the_literal_text_between_braces(text: str, columns: tuple[str, ...]) -> None:
    assert Template.parse(text).columns == columns


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("no placeholder", "no placeholder"),
        ("{a}-{b}-{a}", "A-B-A"),
        ("{{a}}", "{a}"),
        ("{{{a}}}", "{A}"),
        ("{{}}", "{}"),
        ('{{"answer": "{a}"}}', '{"answer": "A"}'),
        ("{a.b}{a[0]}{a!r}", "dotindexconversion"),
    ],
)
def test_render(text: str, rendered: str) -> None:
    values = {"a": "A", "b": "B", "a.b": "dot", "a[0]": "index", "a!r": "conversion"}
    assert Template.parse(text).render(values) == rendered


@pytest.mark.parametrize(
    ("text", "position", "hint"),
    [
        ("{", "line 1, column 1", "'{{'"),
        ("}", "line 1, column 1", "'}}'"),
        ("ab}", "line 1, column 3", "'}}'"),
        ("{a}}", "line 1, column 4", "'}}'"),
        ("{{a}", "line 1, column 4", "'}}'"),
        ("one\ntwo {x\nthree", "line 2, column 5", "'{{'"),
        ("{a{b}", "line 1, column 1", "'{{'"),
        ("a {} b", "line 1, column 3", "'{{}}'"),
    ],
)
def test_a_lone_or_empty_brace_is_refused_with_its_position(
    text: str, position: str, hint: str
) -> None:
    with pytest.raises(DeclarationError) as caught:
        Template.parse(text)
    assert position in str(caught.value)
    assert hint in str(caught.value)


def test_a_value_is_never_expanded_again() -> None:
    template = Template.parse("{a}|{b}")
    assert template.render({"a": "{b}", "b": "{{a}} {0} %s $a \\1"}) == "{b}|{{a}} {0} %s $a \\1"


names = st.text(min_size=1).filter(lambda name: "{" not in name and "}" not in name)


@given(st.lists(st.tuples(st.text(), names), max_size=6), st.text(), st.data())
def test_any_template_written_by_the_rules_renders_to_its_parts(
    parts: list[tuple[str, str]], tail: str, data: st.DataObject
) -> None:
    def escape(literal: str) -> str:
        return literal.replace("{", "{{").replace("}", "}}")

    values = {name: data.draw(st.text()) for _, name in parts}
    text = "".join(f"{escape(literal)}{{{name}}}" for literal, name in parts) + escape(tail)
    template = Template.parse(text)
    assert template.columns == tuple(values)
    expected = "".join(literal + values[name] for literal, name in parts) + tail
    assert template.render(values) == expected


@given(st.text(alphabet="{}ab\n"))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        template = Template.parse(text)
    except DeclarationError:
        assert text.count("{") + text.count("}") > 0
        return
    # Filled with its own placeholders, a template is itself with the doubled braces undone.
    rendered = template.render({name: f"{{{name}}}" for name in template.columns})
    assert rendered == text.replace("{{", "{").replace("}}", "}")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is \n\"'{}", "as it is \n\"'{}"),
        ("", ""),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (-2.5, "-2.5"),
        (2**80, "1208925819614629174706176"),
        ([1, "ä", None], '[1,"ä",null]'),
        ({"a": {"b": []}}, '{"a":{"b":[]}}'),
        (orjson.Fragment("1.10"), "1.10"),
    ],
)
def test_cell_text(value: object, text: str) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize(
    ("text", "blank"),
    [
        ("", True),
        (" \n\t\u00a0\u2003\u3000", True),
        ("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e", True),
        ("\0\x1f\x7f\x85\u2028", True),
        ("\u2800\u3164\ufe0f", True),
        ("  text  ", False),
        ("\u200bü", False),
        (".", False),
        ("日本", False),
        ("👩\u200d💻", False),
    ],
)
def test_a_text_without_a_visible_character_is_blank(text: str, blank: bool) -> None:
    assert is_blank(text) is blank
