"""How many words a text has, in scripts with and without spaces between words."""

from __future__ import annotations

import re

# Han, kana and Thai, which are written without spaces; and the marks between their sentences, which
# are no words.
_UNSPACED = re.compile(
    "[\u0e01-\u0e3a\u0e40-\u0e4e\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]+"
)
_MARKS = re.compile(
    "[\u0e4f\u0e5a\u0e5b\u3001-\u3004\u3008-\u303f\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40"
    "\uff5b-\uff65]+"
)
CHARACTERS_A_WORD = 2


def count_words(text: str) -> int:
    """The number of words: runs of what is not blank; of Han, kana and Thai, two characters each.

    To split at blanks alone would call 800 Chinese characters one word.
    """
    if text.isascii():
        return len(text.split())
    unspaced = _UNSPACED.findall(text)
    if not unspaced:
        return len(text.split())
    rest = _MARKS.sub(" ", _UNSPACED.sub(" ", text))
    return len(rest.split()) + sum(-(-len(run) // CHARACTERS_A_WORD) for run in unspaced)
