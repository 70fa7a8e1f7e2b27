"""Filters that cannot work are refused where they are declared, with line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.errors import DeclarationError
from batch_pipeline.jobs.filters import FiltersSpec
from batch_pipeline.jobs.yaml_files.loading import load_job

DECLARED = """\
type: batch_pipeline.BatchJobComponent
attributes:
  name: review
  input: {{path: in.jsonl}}
  prompt: {{user: "Sum up: {{text}}"}}
  model_id: claude-haiku-4-5-20251001
  max_tokens: 100
  filters:
    {filters}
"""


@pytest.mark.parametrize(
    ("filters", "key", "why"),
    [
        ("where: lenght(text) > 3", "where", "did you mean length()?"),
        ("where: pages > 3", "where", "cast it, like pages::int > 10"),
        ("where: kind = 'x' and exists (from t)", "where", "a subquery"),
        ("where: 1 = 1", "where", "reads no column"),
        ("where: ''", "where", "at least 1 character"),
        ("min_words: 0", "min_words", "greater than or equal to 1"),
        ("min_words: few", "min_words", "a whole number"),
        ("{min_words: 5, max_words: 4}", "max_words", "at least min_words (5)"),
        ("languages: [en, german]", "languages", "'german' is no language that the model knows"),
        ("languages: [en-GB]", "languages", "did you mean en?"),
        ("languages: en", "languages", "a list"),
        ("length: 5", "length", "unknown key"),
    ],
)
def test_what_cannot_work_is_refused_with_its_line(
    tmp_path: Path, filters: str, key: str, why: str
) -> None:
    file = tmp_path / "review" / "defs.yaml"
    file.parent.mkdir()
    file.write_text(DECLARED.format(filters=filters))
    with pytest.raises(DeclarationError) as refused:
        load_job(file)
    message = str(refused.value)
    assert message.startswith(f"{file}:9: attributes.filters.{key}: ")
    assert why in message


def test_filters_may_be_declared_empty() -> None:
    assert not FiltersSpec().declared
    assert not FiltersSpec(languages=()).declared
    assert FiltersSpec(where="kind = 'x'", min_words=1, max_words=1, languages=("en",)).declared
