"""The plan of an input that several workers read, and what the ledger keeps of a piece of it.

The plan is a file in the reading's folder in the home: it names each file of the input, of which
there may be a million, and the ledger has no rows for those.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zstandard

from batch_pipeline.flow.dataset.prepare import Prepared, Problem
from batch_pipeline.flow.dataset.reading.columns import LinesSeen
from batch_pipeline.flow.dataset.reading.files import Copied, Kind, SourceFile, Sources
from batch_pipeline.flow.dataset.reading.splits import Piece, Section
from batch_pipeline.jobs.input.inputs import CsvSpec
from batch_pipeline.ledger.readings import Done, Place

# The files of a reading's folder beside those of its pieces.
PIECES, ABOUT = "pieces", "sources.json"


def part_names(target: str, number: int, fence: int, count: int) -> list[str]:
    return [f"{target}/piece-{number:06d}-f{fence}-{part:05d}.parquet" for part in range(count)]


def signatures_name(target: str, number: int, fence: int) -> str:
    return f"{target}/piece-{number:06d}-f{fence}.signatures"


def about_of(sources: Sources, size: int) -> dict[str, Any]:
    """What is known of an input beside its files, all of which are in the pieces."""
    copied = None if sources.copied is None else asdict(sources.copied)
    return {"left_out": sources.left_out, "copied": copied, "bytes": size}


def sources_of(about: dict[str, Any], files: Sequence[SourceFile]) -> Sources:
    copied = about["copied"]
    if copied is not None:
        copied = Copied(**{**copied, "parts": tuple(map(tuple, copied["parts"]))})
    return Sources(tuple(files), tuple(about["left_out"]), copied)


def write_plan(path: Path, pieces: Iterable[Piece]) -> list[Place]:
    """Write the pieces into a file, each compressed by itself; returns where they are."""
    compressor = zstandard.ZstdCompressor()
    places, end = [], 0
    with path.open("wb") as plan:
        for piece in pieces:
            start = end
            end += plan.write(compressor.compress(_piece_json(piece)))
            places.append((start, end))
    return places


def _piece_json(piece: Piece) -> bytes:
    # All files of an input are read with the same declaration of CSV.
    csv = piece[0].file.csv.model_dump(mode="json")
    told = [
        [
            [file.path, file.relative_path, file.kind, file.size, file.version, file.name,
             file.store],
            section.start, section.end, section.first, section.counted,
        ]
        for section in piece
        for file in [section.file]
    ]  # fmt: skip
    return json.dumps({"csv": csv, "sections": told}).encode()


def piece_in(data: bytes) -> Piece:
    """The inverse of `_piece_json`, of one piece in the plan."""
    told = json.loads(zstandard.decompress(data))
    csv = CsvSpec(**told["csv"])
    return tuple(_section(file, place, csv) for file, *place in told["sections"])


def _section(file: Sequence[Any], place: Sequence[Any], csv: CsvSpec) -> Section:
    path, relative_path, kind, size, version, name, store = file
    source = SourceFile(path, relative_path, Kind(kind), size, version, name, store, csv)
    return Section(source, *place)


def files_of(pieces: Iterable[Piece]) -> list[SourceFile]:
    """The files of an input, given its pieces."""
    found: list[SourceFile] = []
    for piece in pieces:
        for section in piece:
            if not found or found[-1] != section.file:
                found.append(section.file)
    return found


def named(piece: Piece) -> str:
    """What a piece is, for people."""
    section, more = piece[0], len(piece) - 1
    if section.end is not None:
        kind = "row groups" if section.file.kind is Kind.PARQUET else "bytes"
        return f"{kind} {section.start:,} to {section.end:,} of {section.file.path}"
    return section.file.path + (f" and {more:,} more files" if more else "")


def to_json(prepared: Prepared) -> dict[str, Any]:
    seen = prepared.seen
    return {
        "parts": len(prepared.parts),
        "signatures": prepared.signatures is not None,
        "items": prepared.items,
        "set_aside": [[*why, count] for why, count in prepared.set_aside.items()],
        "problems": prepared.problems,
        "sizes": [prepared.request_bytes, prepared.prompt_size, prepared.visual_tokens],
        "content": prepared.content.hex(),
        "kept": prepared.kept.hex(),
        "seen": None if seen is None else [sorted(seen.unseen), seen.first, seen.lines],
        "without_rows": prepared.without_rows,
        "documents": prepared.documents,
        "pages_without_text": prepared.pages_without_text,
    }


def from_json(done: Done, target: str) -> Prepared:
    told, names = done.result, (target, done.number, done.fence)
    seen = None
    if told["seen"] is not None:
        unseen, first, lines = told["seen"]
        seen = LinesSeen(set(unseen), None if first is None else (first[0], first[1]), lines)
    request_bytes, prompt_size, visual_tokens = told["sizes"]
    return Prepared(
        parts=[Path(name) for name in part_names(*names, told["parts"])],
        items=told["items"],
        set_aside=Counter({(status, reason): n for status, reason, n in told["set_aside"]}),
        problems=[Problem(*problem) for problem in told["problems"]],
        request_bytes=request_bytes,
        prompt_size=prompt_size,
        visual_tokens=visual_tokens,
        content=bytes.fromhex(told["content"]),
        kept=bytes.fromhex(told["kept"]),
        seen=seen,
        without_rows=told["without_rows"],
        signatures=Path(signatures_name(*names)) if told["signatures"] else None,
        documents={name: Counter(counts) for name, counts in told["documents"].items()},
        pages_without_text=told["pages_without_text"],
    )
