"""Rows of `.json` files, each of which is one array of objects, read as a stream."""

from __future__ import annotations

import codecs
import json
from typing import BinaryIO

from batch_pipeline.errors import InputDataError
from batch_pipeline.flow.dataset.reading.columns import (
    ROW_BYTES,
    LinesSeen,
    NumberedRows,
    Wanted,
    place_of,
)
from batch_pipeline.flow.dataset.reading.files import SourceFile
from batch_pipeline.flow.dataset.reading.row_json import row_of_json

_BLOCK = 1 << 20
_BLANKS = " \t\r\n"


def read_json_array(
    stream: BinaryIO, file: SourceFile, wanted: Wanted, seen: LinesSeen
) -> NumberedRows:
    """The objects of the file's array, numbered from 1, in memory bounded by the largest of them.

    The text of an object stays as it is, so that numbers keep their digits.
    """
    text = _Text(stream)
    opening = text.next_character()
    if opening != "[":
        raise InputDataError(
            f"{file.path}: begins with {opening!r}, and a .json file has to be one array of "
            "objects ([{…}, {…}]). Objects that stand in a line each are JSON lines: rename the "
            "file to .jsonl."
        )
    text.take(1)
    number, closed = 0, text.next_character() == "]"
    while not closed:
        number += 1
        if text.next_character() != "{":
            raise _not_an_array(file, number, "an object is expected here")
        try:
            row = row_of_json(text.take_value().encode(errors="surrogateescape"))
        except ValueError as error:
            raise _not_an_array(file, number, json_cause(error)) from error
        if wanted.id_column not in row.cells:
            raise wanted.error(place_of(file, number), wanted.id_column, list(row.cells))
        seen.add_row(number, row.cells)
        yield number, row
        following = text.next_character()
        if following not in (",", "]"):
            raise _not_an_array(file, number, "a comma or the array's end is missing after it")
        closed = following == "]"
        text.take(1)
    if not number:
        text.take(1)
    if text.next_character():
        raise _not_an_array(file, number, "the file goes on after the end of its array")


def json_cause(error: ValueError) -> str:
    """What is wrong with a text that is no JSON object."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at character {error.pos + 1}"
    return str(error)


def _not_an_array(file: SourceFile, number: int, what: str) -> InputDataError:
    return InputDataError(
        f"{place_of(file, number)}: {what}. The file has to be one array of JSON objects in UTF-8; "
        "correct it."
    )


class _Text:
    """A stream as text, as far as it has been read and not taken."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._json = json.JSONDecoder()
        self._text, self._at, self._ended = "", 0, False

    def next_character(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANKS:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def take(self, characters: int) -> None:
        self._at += characters

    def take_value(self) -> str:
        """The text of the value that begins here; ValueError where there is none."""
        while True:
            try:
                _, end = self._json.raw_decode(self._text, self._at)
            except RecursionError:
                raise ValueError("nested too deeply") from None
            except json.JSONDecodeError as error:
                if not self._more():
                    if self._ended:
                        raise json.JSONDecodeError(error.msg, self._text[self._at :], 0) from None
                    raise ValueError(
                        f"over {ROW_BYTES:,} characters without an end ({error.msg}), more than "
                        "any request"
                    ) from None
                continue
            value = self._text[self._at : end]
            self._at = end
            return value

    def _more(self) -> bool:
        """Read on, as much again as waits here, so that a large value is tried a few times only."""
        left = len(self._text) - self._at
        if self._ended or left > ROW_BYTES:
            return False
        data = self._stream.read(max(_BLOCK, left))
        self._ended = not data
        self._text = self._text[self._at :] + self._decoder.decode(data, final=self._ended)
        self._at = 0
        return True
