"""Repeatable chance (`Dice`), and the text of a prompt (`SourceText`), which answers quote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date
from functools import cached_property, lru_cache
from typing import Any

from batch_pipeline.simulator.checking.documents import text_of

# Only the head and the tail of a long text are read, to save time: most texts name their subject at
# the beginning or the end.
HEAD_CHARACTERS = 5_000
TAIL_CHARACTERS = 3_000

_MASK = (1 << 64) - 1
_WORD = re.compile(r"[A-Za-z0-9]+")
# The patterns begin with a literal, which is four times as fast as a lookbehind at the start.
_ISO_DATE = re.compile(r"[12]\d{3}-\d{2}-\d{2}(?!\d)")
_YEAR = re.compile(r"(?:19|20)[0-9]{2}(?![0-9A-Za-z])(?<![0-9A-Za-z]....)")
_SPACED = bytes(
    byte if byte >= 0x80 or chr(byte).isalnum() else 0x20 for byte in range(256)
)  # characters outside words become spaces
# Words that are too common to be evidence for a value.
_NO_EVIDENCE = frozenset({
    b"a", b"an", b"and", b"any", b"for", b"in", b"is", b"no", b"none", b"not", b"of", b"or",
    b"other", b"the", b"to", b"unknown", b"yes",
})  # fmt: skip


class Dice:
    """A small, fast random generator (Knuth's MMIX constants) that depends on its seed alone."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1; n is at least 1."""
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) & _MASK
        return (self._state >> 24) % n

    def unit(self) -> float:
        """A number in [0, 1)."""
        return self.below(1 << 32) / (1 << 32)

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.below(len(options))]

    def shuffle(self, items: list[Any]) -> None:
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

    def long_tail(self, typical: float, alpha: float) -> int:
        """Pareto: at least `typical`; P(x > k * typical) = k ** -alpha."""
        return int(typical * (1.0 - self.unit()) ** (-1.0 / alpha))


class SourceText:
    """The text of a request's messages and of the documents in them."""

    def __init__(self, text: str) -> None:
        if len(text) > HEAD_CHARACTERS + TAIL_CHARACTERS:
            text = f"{text[:HEAD_CHARACTERS]} {text[-TAIL_CHARACTERS:]}"
        self.text = text

    @classmethod
    def of(cls, params: dict[str, Any]) -> SourceText:
        messages = params["messages"]
        if len(messages) == 1 and isinstance(messages[0]["content"], str):
            return cls(messages[0]["content"])
        texts: list[str] = []
        for message in messages:
            content = message["content"]
            blocks = [content] if isinstance(content, str) else content
            texts += filter(None, map(text_of, blocks))
        return cls("\n".join(texts))

    @cached_property
    def _spaced(self) -> bytes:
        return b" %b " % self._lower.encode("utf-8", "replace").translate(_SPACED)

    @cached_property
    def _lower(self) -> str:
        return self.text.lower()

    def excerpt(self, dice: Dice, words: int) -> str:
        """About `words` consecutive words of the text, with single spaces between them."""
        span = words * 12 + 24
        start = dice.below(max(1, len(self.text) - span // 2))
        found = self.text[start : start + span].split()
        found = found[1 : words + 1] if start > 0 and len(found) > 1 else found[:words]
        return " ".join(found) or "Nothing to quote."

    def after(self, name: str, words: int) -> str | None:
        """The words after a property's name in the text, or None if the name does not occur."""
        spoken = name.replace("_", " ").lower()
        if len(spoken) < 3 or (position := self._lower.find(spoken)) < 0:
            return None
        tail = self.text[position + len(spoken) :][: words * 12 + 24]
        return " ".join(tail.lstrip(" :=\t\"'").split()[:words]) or None

    def evidence(self, value: str) -> int:
        """A score for `value`: 0 if the text lacks one of its words, or all are common words."""
        phrase, telling = _words_of(value)
        if not telling or not all(word in self._spaced for word in telling):
            return 0
        # Words side by side score more than the same words far apart.
        return 1 + len(telling) * self._spaced.count(phrase)

    def best_of(self, values: Sequence[Any]) -> Any | None:
        """The text among `values` with the highest score, or None if no score is above 0."""
        scored = [(self.evidence(value), value) for value in values if isinstance(value, str)]
        best = max(scored, key=lambda pair: pair[0], default=(0, None))
        return best[1] if best[0] > 0 else None

    def date(self) -> date | None:
        """The first valid ISO date."""
        for found in _ISO_DATE.finditer(self.text):
            try:
                return date.fromisoformat(found[0])
            except ValueError:
                continue
        return None

    def years(self) -> Iterator[int]:
        """Years from 1900 to 2099, in the order of the text."""
        return (int(found[0]) for found in _YEAR.finditer(self.text))


@lru_cache(maxsize=4096)
def _words_of(value: str) -> tuple[bytes, tuple[bytes, ...]]:
    """All words of a value as one phrase, and its uncommon words, as in spaced text."""
    words = [word.lower().encode() for word in _WORD.findall(value)]
    telling = (word for word in words if word not in _NO_EVIDENCE and len(word) > 1)
    return b" %b " % b" ".join(words), tuple(b" %b " % word for word in telling)
