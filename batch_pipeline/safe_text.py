"""Makes text from outside safe to show: ids, file names, messages of the API, of libraries.

Terminals obey control characters, and a line break in an id would look like a line of the log's
own. Messages of libraries quote headers and addresses, which hold keys and passwords. Each border
where text leaves for people applies these functions: errors (`errors`), log records (below), the
command line's output, Dagster's metadata, alerts. Files and JSON keep the exact data.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

HIDDEN = "***"
# Control characters (escape sequences begin with U+001B or U+009B), separators of lines, marks that
# turn the direction of text, invisible characters, halves of pairs. Joiners are left: scripts and
# emoji need them.
_UNSAFE = (
    "\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_ANY_UNSAFE = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_A_LINE = re.compile(f"(?!\n)[{_UNSAFE}]")
# A line that continues another one begins with a space, so that it cannot pass for one of its own.
_CONTINUED = re.compile(r"\n(?! )")

# The user info of a URL ends at the last @ before the path. A password that is not quoted as it
# should be may hold what ends it, so that after a colon, unless a port follows, all counts to the
# last @. `user:password` is what examples say.
_USER_INFO = re.compile(
    r"(?<=://)(?!user:password@)"
    r"(?:[^\s/?#'\"]*@|[^\s/@:'\"]*:(?!\d+(?:[/?#.,;)]|$))[^\s'\"]*@)"
)
_QUERY = re.compile(r"([\w+.-]+)(://[^\s?'\"<>]*\?)([^\s'\"<>]+)")
# In the path of an object store a question mark is a wildcard, unless a `=` follows.
_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "file")
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASS(WORD|WD|PHRASE)|CREDENTIAL", re.IGNORECASE)
# Names with one of these words whose values are no secrets.
_NO_SECRET = re.compile(r"(_FILE|_PATH|_DIR|_ENV|_ID|_SOCK)$", re.IGNORECASE)
ADDRESSES = "BATCH_PIPELINE_ALERT_URLS"
HEADERS = "ANTHROPIC_CUSTOM_HEADERS"
# Further variables that hold secrets, as a file of accounts names them.
_kept_secret: set[str] = set()
# Shorter values, and plain words such as the key "simulator", would be found in other text.
_SHORTEST, _SHORTEST_PASSWORD = 8, 6
_WORD = re.compile("[a-z]{1,15}")
_IPV4 = re.compile(r"(\d{1,3}\.){3}\d{1,3}")
# A shorter value, or one without digits or letters, may begin or end another word ("contract_rev"
# in the name of a job): it is hidden as a word of its own alone, also behind an escape (\n, %0A).
_LONG = re.compile(r"(?=.*\d)(?=.*[A-Za-z]).{20,}", re.DOTALL)
_BEGINS = r"(?:(?<![A-Za-z0-9_-])|(?<=\\[abfnrtv])|(?<=\\x[0-9a-f]{2})|(?<=%[0-9A-Fa-f]{2}))"
_ENDS = "(?![A-Za-z0-9_-])"

# What Markdown reads as markup, and what it makes a link of without any.
_MARKUP = re.compile(r"([\\`*_\[\]<>|~#&!])")
_ADDRESS = re.compile(r"(?i)://|www\.|@")


def one_line(text: str) -> str:
    """The text in one line, without secrets, and with what a terminal would obey shown escaped."""
    return _ANY_UNSAFE.sub(_escaped, redacted(text))


def markdown(text: str) -> str:
    """Text of a document or of the API as plain words of a Markdown table's cell: in one line,
    without markup, links or HTML."""
    plain = _MARKUP.sub(r"\\\1", one_line(" ".join(text.split())))
    # An address would become a link by itself; a zero-width space breaks it and is not seen.
    return _ADDRESS.sub(lambda found: "\u200b".join(found[0]), plain)


def lines(text: str) -> str:
    """As `one_line`, but line breaks stay; each further line begins with a space."""
    return _CONTINUED.sub("\n  ", _UNSAFE_IN_A_LINE.sub(_escaped, redacted(text)))


def visible(text: str) -> str:
    """The text with what a terminal would obey shown escaped, save line breaks."""
    return _UNSAFE_IN_A_LINE.sub(_escaped, text)


def json_text(document: str) -> str:
    """The same JSON document with what a terminal would obey as JSON's own escapes."""
    return _UNSAFE_IN_A_LINE.sub(lambda found: json.dumps(found[0])[1:-1], document)


def keep_secret(variables: Iterable[str]) -> None:
    """Hide the values of these variables of the environment from now on, as those whose names say
    that they are secret."""
    _kept_secret.update(variables)


def redacted(text: str) -> str:
    """The text without the secrets of the environment, and without user info and query of URLs."""
    if "://" in text:
        text = _QUERY.sub(_without_query, _USER_INFO.sub(f"{HIDDEN}@", text))
    secrets = _secrets_in(tuple(os.environ.items()), frozenset(_kept_secret))
    return text if secrets is None else secrets.sub(HIDDEN, text)


@functools.lru_cache(maxsize=4)
def _secrets_in(
    environ: tuple[tuple[str, str], ...], further: frozenset[str] = frozenset()
) -> re.Pattern[str] | None:
    """A pattern of all secrets that the environment holds, in the ways in which they are quoted."""
    found: set[str] = set()
    for name, value in environ:
        if name == HEADERS:
            for line in value.splitlines():
                found |= _long(_SHORTEST, [line.partition(":")[2].split(" ")[-1], line])
        elif name == ADDRESSES:
            parts = re.split(r"[\s,/:@?&=]+", value)
            # The address of a relay is no secret, and this machine's is in many other texts.
            found |= _long(_SHORTEST, (part for part in parts if not _IPV4.fullmatch(part)))
        elif name in further or (
            _SECRET_NAME.search(name)
            and not _NO_SECRET.search(name)
            # A path is no secret, and begins others: MONKEY_HOME=/home/monkey.
            and not (value.startswith("/") and os.path.exists(value))  # noqa: PTH110
        ):
            found |= _long(_SHORTEST, [value, *value.split()])
        if "://" in value:
            parts = [pair.partition("=")[2] for pair in value.partition("?")[2].split("&")]
            for user_info in _USER_INFO.findall(value):
                parts += [user_info[:-1], user_info[:-1].partition(":")[2]]
            found |= _long(_SHORTEST_PASSWORD, parts)
    if not found:
        return None
    quoted = {way for secret in found for way in (secret, unquote(secret), repr(secret)[1:-1])}
    # The longest first: one may be part of another.
    return re.compile("|".join(map(_pattern_of, sorted(quoted, key=len, reverse=True))))


def _pattern_of(secret: str) -> str:
    found = re.escape(secret)
    return found if _LONG.fullmatch(secret) else f"{_BEGINS}{found}{_ENDS}"


def _long(shortest: int, values: Iterable[str]) -> set[str]:
    stripped = {value.strip() for value in values}
    return {each for each in stripped if len(each) >= shortest and not _WORD.fullmatch(each)}


def _without_query(found: re.Match[str]) -> str:
    scheme, address, query = found.groups()
    return found[0] if scheme in _STORES and "=" not in query else f"{scheme}{address}{HIDDEN}"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records are in one line and without secrets.

    The text is made safe before a record is made: the command line, Dagster and a user's program
    each have other handlers.
    """

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            text = str(msg) % args if args else str(msg)
            kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
            self.logger.log(level, "%s", one_line(text), **kwargs)


def get_logger(name: str) -> SafeLogger:
    """The logger of a module of this package."""
    return SafeLogger(logging.getLogger(name))


class Formatter(logging.Formatter):
    """A formatter for records of all libraries, whose traces may quote what was sent."""

    def format(self, record: logging.LogRecord) -> str:
        return lines(super().format(record))


def shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with its texts made safe by `lines`; other values as they are."""
    return {
        name: lines(value) if isinstance(value, str) else value for name, value in values.items()
    }
