"""Thousands of real documents: the sources of the standard library, in pieces, with unruly ids."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PIECE_CHARACTERS = 1_500
# What no custom id could hold; `{}` takes the number that makes an id unique.
ID_FORMS = (
    "{}",
    "with spaces {}  twice",
    "a/path/../{}",
    "Größe {} naïve",
    "☂️ 🦊 {}",
    "case {}",
    "CASE {}",
    "'\"; DROP {} --",
    "[bold]{}[/x]",
    "long " + "x" * 300 + " {}",
    "tab\t{}",
    "\u202eright to left {}",
)


def pieces(count: int) -> list[str]:
    """That many different texts, each a piece of a module's source."""
    found = dict.fromkeys(_pieces())
    return list(found)[:count] if len(found) >= count else _too_few(len(found))


def _pieces() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        for start in range(0, len(text), PIECE_CHARACTERS):
            piece = text[start : start + PIECE_CHARACTERS]
            if piece.strip():
                yield piece


def _too_few(found: int) -> list[str]:
    raise RuntimeError(f"the standard library has {found} pieces only; ask for fewer")


def rows(count: int) -> list[dict[str, Any]]:
    """Rows with a text each, and an id of every form in turn."""
    forms = len(ID_FORMS)
    return [
        {"id": ID_FORMS[n % forms].format(n // forms), "text": text, "n": n}
        for n, text in enumerate(pieces(count))
    ]


class Dirty:
    """Writers of the formats, each with the good rows and those of `IDS`, which are set aside."""

    IDS = ("null text", "empty text", "blank text", "not UTF-8")

    @staticmethod
    def jsonl(folder: Path, good: list[dict[str, Any]]) -> str:
        bad = [
            {"id": "null text", "text": None},
            {"id": "empty text", "text": ""},
            {"id": "blank text", "text": " \n\t "},
        ]
        half = len(good) // 2
        lines = [json.dumps(row).encode() for row in [*good[:half], *bad]]
        lines.append(b'{"id": "not UTF-8", "text": "caf\xe9"}')
        # Integers are ids too, and are known by their text.
        lines += [
            json.dumps(row | {"id": _as_integer(row["id"])}, ensure_ascii=False).encode()
            for row in good[half:]
        ]
        (folder / "in.jsonl").write_bytes(b"\n".join(lines))
        return "in.jsonl"

    @staticmethod
    def csv(folder: Path, good: list[dict[str, Any]]) -> str:
        def cell(value: object) -> bytes:
            return b'"' + str(value).replace('"', '""').encode() + b'"'

        lines = [b"n,id,text"]
        lines += [b",".join(cell(row[name]) for name in ("n", "id", "text")) for row in good]
        lines += [b"1,null text,", b'2,empty text,""', b'3,blank text," \n\t "']
        lines += [b'4,not UTF-8,"caf\xe9"']
        (folder / "in.csv").write_bytes(b"\n".join(lines) + b"\n")
        return "in.csv"

    @staticmethod
    def parquet(folder: Path, good: list[dict[str, Any]]) -> str:
        texts = [row["text"].encode() for row in good] + [None, b"", b" \n\t ", b"caf\xe9"]
        # Not checked by Arrow: bytes that are no UTF-8 in a column of texts.
        column = pa.array(texts, pa.binary()).cast(pa.binary()).view(pa.string())
        ids = [row["id"] for row in good] + list(Dirty.IDS)
        table = pa.table({"id": ids, "text": column})
        half = table.num_rows // 2
        for number, part in enumerate((table.slice(0, half), table.slice(half))):
            pq.write_table(part, folder / f"part {number}.parquet", row_group_size=100)
        return "*.parquet"

    @staticmethod
    def txt(folder: Path, good: list[dict[str, Any]]) -> str:
        """One file a row; ids are relative paths, so they are rewritten in `good`."""
        for row in good:
            name = f"shelf {row['n'] % 7}/Büro ☂ {row['n']}.txt"
            row["id"] = name
            path = folder / "texts" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(row["text"], encoding="utf-8", newline="")
        for name, content in (
            ("null text", b""),
            ("empty text", b"\xef\xbb\xbf"),
            ("blank text", b" \n\t "),
            ("not UTF-8", b"caf\xe9"),
        ):
            (folder / "texts" / name).with_suffix(".txt").write_bytes(content)
        return "texts/**/*.txt"


def _as_integer(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
